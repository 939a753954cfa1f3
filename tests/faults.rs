//! What happens when a call to the file system fails, the process is killed, or the power goes: the output is absent or
//! whole, nothing is locked, and the same command, with or without `--resume`, makes the same bytes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::bench::{Bench, assert_code, assert_same, content, taskvec};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for (name, bytes) in common::tree(from) {
        let (source, target) = (from.join(&name), to.join(&name));
        if source.is_dir() {
            std::fs::create_dir_all(target).unwrap();
        } else {
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::write(target, bytes).unwrap();
        }
    }
}

/// What lies beside the output, but for the file that is locked.
fn beside(case: &Path) -> usize {
    let names = std::fs::read_dir(case).unwrap().map(|e| e.unwrap().file_name());
    names.filter(|n| n != "out" && n != ".out.lock").count()
}

/// Kills what `command` (given the case's folder) runs at every call, and then lets `after` look at the folder. Returns the
/// number of calls.
fn kill_at_every_call(
    bench: &Bench,
    prepare: impl Fn(&Path),
    command: impl Fn(&Path) -> Command,
    after: impl Fn(&Path, u64),
) -> u64 {
    for call in 0.. {
        let case = bench.case();
        prepare(case.path());
        let output = command(case.path()).env("TASKVEC_FAILPOINT", format!("kill:{call}")).output().unwrap();
        if output.status.success() {
            return call;
        }
        assert_eq!(output.status.signal(), Some(9), "{}", String::from_utf8_lossy(&output.stderr));
        after(case.path(), call);
    }
    unreachable!()
}

#[test]
fn a_merge_killed_at_any_call_leaves_nothing_or_all_and_is_made_again_or_gone_on_with() {
    let bench = Bench::new(12, 3000);
    let calls = kill_at_every_call(
        &bench,
        |_| {},
        |case| bench.merge_command(&case.join("out")),
        |case, call| {
            let why = format!("killed at call {call}");
            let whole = bench.is_whole(&case.join("out"), &why);
            let again = bench.case();
            copy(case, again.path());
            assert_code(&bench.merge_command(&case.join("out")).arg("--resume").output().unwrap(), 0, &why);
            assert!(bench.is_whole(&case.join("out"), &why));
            assert_eq!(beside(case), 0, "{why}: something is left beside the output");
            let code = if whole { 73 } else { 0 };
            assert_code(&bench.merge_command(&again.path().join("out")).output().unwrap(), code, &why);
            assert!(bench.is_whole(&again.path().join("out"), &why));
        },
    );
    assert!(calls > 70, "{calls} calls");
}

#[test]
fn a_merge_that_replaces_an_output_and_is_killed_at_any_call_leaves_the_old_one_or_the_new_one() {
    let bench = Bench::new(6, 3000);
    let old = |case: &Path| {
        std::fs::create_dir(case.join("out")).unwrap();
        std::fs::write(case.join("out/config.json"), "old").unwrap();
    };
    let command = |case: &Path| {
        let mut command = bench.merge_command(&case.join("out"));
        command.arg("--overwrite");
        command
    };
    let calls = kill_at_every_call(&bench, old, command, |case, call| {
        let why = format!("killed at call {call}");
        if std::fs::read(case.join("out/config.json")).unwrap() != b"old" {
            assert!(bench.is_whole(&case.join("out"), &why));
        }
        assert_code(&command(case).arg("--resume").output().unwrap(), 0, &why);
        assert!(bench.is_whole(&case.join("out"), &why));
    });
    assert!(calls > 70, "{calls} calls");
}

#[test]
fn a_diff_an_apply_and_a_store_killed_at_any_call_are_gone_on_with() {
    let bench = Bench::new(6, 3000);
    let (base, delta) = (bench.path("base"), bench.path("math.tvd"));
    let diff = |out: &Path| {
        let mut command = taskvec();
        command.arg("diff").args([&base, &bench.path("math")]).arg("-o").arg(out);
        command.args(["--journal-every", "0", "-j", "1"]);
        command
    };
    assert_code(&diff(&delta).output().unwrap(), 0, "diff");
    let golden = std::fs::read(&delta).unwrap();
    kill_at_every_call(
        &bench,
        |_| {},
        |case| diff(&case.join("out")),
        |case, call| {
            let why = format!("diff killed at call {call}");
            let out = case.join("out");
            assert!(!out.exists() || std::fs::read(&out).unwrap() == golden, "{why}");
            assert_code(&diff(&out).arg("--resume").output().unwrap(), 0, &why);
            assert!(std::fs::read(&out).unwrap() == golden, "{why}");
            assert_eq!(beside(case), 0, "{why}: something is left beside the output");
            assert_code(&diff(&out).arg("--resume").output().unwrap(), 0, "whole already");
        },
    );

    let apply = |case: &Path| {
        let mut command = taskvec();
        command.arg("apply").args([&base, &delta]).arg("-o").arg(case.join("out")).args([
            "--journal-every",
            "0",
            "-j",
            "1",
        ]);
        command
    };
    let golden = content(&bench.path("math"));
    kill_at_every_call(
        &bench,
        |_| {},
        apply,
        |case, call| {
            let why = format!("apply killed at call {call}");
            let out = case.join("out");
            if out.exists() {
                assert_same(&content(&out), &golden, &why);
            }
            assert_code(&apply(case).arg("--resume").output().unwrap(), 0, &why);
            assert_same(&content(&out), &golden, &why);
            assert_code(&apply(case).arg("--resume").output().unwrap(), 0, "whole already");
        },
    );

    let add = |case: &Path| {
        let mut command = taskvec();
        command.args(["store", "add"]).arg(case.join("store")).arg(&delta);
        command
    };
    kill_at_every_call(
        &bench,
        |_| {},
        add,
        |case, call| {
            let why = format!("store add killed at call {call}");
            assert_code(&add(case).arg("--resume").output().unwrap(), 0, &why);
            let mut get = taskvec();
            get.args(["store", "get"]).arg(case.join("store")).arg("math").arg("-o").arg(case.join("again.tvd"));
            assert_code(&get.output().unwrap(), 0, &why);
            assert!(std::fs::read(case.join("again.tvd")).unwrap() == std::fs::read(&delta).unwrap(), "{why}");
        },
    );
}

#[test]
fn of_eight_processes_on_one_output_one_works_and_a_kill_frees_it() {
    let bench = Bench::new(6, 3000);
    let case = bench.case();
    let out = case.path().join("out");
    // Whoever holds the lock stops in the middle of its work.
    let start = || bench.merge_command(&out).env("TASKVEC_FAILPOINT", "stop:20").spawn().unwrap();
    let mut children: Vec<_> = (0..8).map(|_| start()).collect();
    let mut codes = Vec::new();
    while children.len() > 1 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        children.retain_mut(|child| child.try_wait().unwrap().map(|status| codes.push(status.code())).is_none());
    }
    assert_eq!(codes, [Some(75); 7]);
    let mut last = children.remove(0);
    assert_code(&bench.merge_command(&out).output().unwrap(), 75, "while one works");
    last.kill().unwrap();
    assert_eq!(last.wait().unwrap().signal(), Some(9));
    assert!(!out.exists());
    assert_code(&bench.merge_command(&out).arg("--resume").output().unwrap(), 0, "after the kill");
    assert!(bench.is_whole(&out, "after the kill"));
}

#[test]
fn a_file_size_limit_ends_in_exit_74() {
    let bench = Bench::new(6, 12_000);
    let case = bench.case();
    let out = case.path().join("out");
    let plain = bench.merge_command(&out);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 100; exec \"$0\" \"$@\""]).arg(plain.get_program()).args(plain.get_args());
    let output = limited.output().unwrap();
    assert_code(&output, 74, "limited");
    assert!(String::from_utf8_lossy(&output.stderr).contains("model-00001"), "{output:?}");
    assert!(!out.exists());
    assert_code(&bench.merge_command(&out).arg("--resume").output().unwrap(), 0, "without the limit");
    assert!(bench.is_whole(&out, "without the limit"));
}

/// A file system of its own, of 24 MiB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this process may not mount.
    fn mount(folder: PathBuf) -> Option<Self> {
        std::fs::create_dir(&folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(&folder);
        mount.output().is_ok_and(|o| o.status.success()).then(|| Self(folder))
    }

    /// Takes all that is left, with a file.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 20, 4096] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[test]
fn a_disk_that_is_full_ends_in_exit_74_before_the_work_or_in_its_midst_and_the_merge_goes_on_when_there_is_room() {
    let bench = Bench::new(6, 12_000);
    let case = bench.case();
    let Some(disk) = SmallDisk::mount(case.path().join("disk")) else {
        println!("not run: this process may not mount; `ulimit -f` below stands in");
        return;
    };
    let out = disk.0.join("out");
    let filler = disk.fill();
    let early = bench.merge_command(&out).output().unwrap();
    assert_code(&early, 74, "full before");
    let text = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(text.contains("the output needs") && text.contains("the disk has 0 B free"), "{text}");
    std::fs::remove_file(filler).unwrap();

    // Weight files have their space by then; the journal and the delta file grow.
    let child = bench.merge_command(&out).env("TASKVEC_FAILPOINT", "stop:60").stderr(Stdio::piped()).spawn().unwrap();
    common::bench::wait_until_stopped(&child);
    let filler = disk.fill();
    common::bench::signal(&child, "-CONT");
    let output = child.wait_with_output().unwrap();
    assert_code(&output, 74, "full in the midst");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("No space left") && text.contains("disk/.out.part"), "{text}");
    assert!(!out.exists());
    std::fs::remove_file(filler).unwrap();
    assert_code(&bench.merge_command(&out).arg("--resume").output().unwrap(), 0, "with room again");
    assert!(bench.is_whole(&out, "with room again"));
}

/// `TASKVEC_KILLS=10000` for a long run.
#[test]
fn merges_killed_at_random_moments_again_and_again_end_with_the_same_bytes() {
    let kills: u64 = std::env::var("TASKVEC_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let bench = Bench::new(12, 200_000);
    let mut random = common::Random(7);
    let mut killed = 0;
    while killed < kills {
        let case = bench.case();
        let out = case.path().join("out");
        loop {
            let mut child = bench.merge_command(&out).arg("--resume").spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(random.below(150)));
            let _ = child.kill();
            killed += 1;
            if child.wait().unwrap().success() {
                break;
            }
            bench.is_whole(&out, "killed at a random moment");
            if random.below(4) == 0 {
                assert_code(&bench.merge_command(&out).arg("--resume").output().unwrap(), 0, "at last");
                break;
            }
        }
        assert!(bench.is_whole(&out, "at last"));
    }
}
