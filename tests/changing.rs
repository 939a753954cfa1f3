//! Inputs that change while they are read: the merge ends with 66 or 74 and the file's name, or it was done with the file
//! already. Never a raw signal, never a published mixture. `TASKVEC_MOMENTS` sets how many moments are tried.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Model, Random};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const RECIPE: &str = "merge_method: ties\n\
    base_model: ./base\n\
    models:\n\
    - {model: ./a, parameters: {weight: 0.5, density: 0.5}}\n\
    - {model: ./c, parameters: {weight: 0.5, density: 0.5}}\n";

/// Elements of each of the six tensors.
const ELEMENTS: usize = 500_000;
const VICTIMS: [&str; 3] = ["base", "a", "c"];

/// Three models, and the output that they should give.
struct Bench {
    folder: tempfile::TempDir,
    whole: Vec<Vec<u8>>,
    golden: Vec<u8>,
    /// What an undisturbed merge takes.
    usual: Duration,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("made")).unwrap();
        fs::write(folder.path().join("recipe.yml"), RECIPE).unwrap();
        let whole = VICTIMS.iter().enumerate().map(|(k, _)| model(k as u64).to_bytes()).collect();
        let mut bench = Self { folder, whole, golden: Vec::new(), usual: Duration::ZERO };
        (0..VICTIMS.len()).for_each(|victim| bench.restore(victim));
        let start = Instant::now();
        assert_eq!(bench.start("mmap").wait().unwrap().code(), Some(0));
        bench.usual = start.elapsed();
        bench.golden = bench.published().unwrap();
        bench
    }

    fn path(&self, victim: usize) -> PathBuf {
        self.folder.path().join(VICTIMS[victim]).join("model.safetensors")
    }

    fn restore(&self, victim: usize) {
        fs::create_dir_all(self.folder.path().join(VICTIMS[victim])).unwrap();
        fs::write(self.path(victim), &self.whole[victim]).unwrap();
    }

    /// Starts a merge in an empty folder.
    fn start(&self, io: &str) -> Child {
        fs::remove_dir_all(self.folder.path().join("made")).unwrap();
        fs::create_dir(self.folder.path().join("made")).unwrap();
        self.start_again(io)
    }

    /// Starts a merge where others have been.
    fn start_again(&self, io: &str) -> Child {
        let _ = fs::remove_dir_all(self.out());
        let mut command = Command::new(env!("CARGO_BIN_EXE_taskvec"));
        command.arg("merge").arg(self.folder.path().join("recipe.yml")).arg(self.out());
        command.args(["--no-delta", "-j", "2", "--memory", "128MiB", "--progress", "none", "--io", io]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("made/out")
    }

    fn published(&self) -> Option<Vec<u8>> {
        fs::read(self.out().join("model.safetensors")).ok()
    }

    /// Waits until the headers have been read: the staging folder and its lock are there.
    fn wait_for_work(&self, child: &mut Child) {
        let made = self.folder.path().join("made");
        while fs::read_dir(&made).unwrap().next().is_none() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Fails unless the run ended as it may after a change of `victim`. Its exit code.
    #[track_caller]
    fn check(&self, run: &Output, victim: usize, change: &str) -> i32 {
        let message = String::from_utf8_lossy(&run.stderr);
        let told = format!("{change} of {}: {message}", VICTIMS[victim]);
        assert_eq!(run.status.signal(), None, "a raw signal: {told}");
        let code = run.status.code().unwrap();
        match code {
            0 => assert!(self.published().as_ref() == Some(&self.golden), "other bytes were published: {told}"),
            66 | 74 => {
                assert!(!self.out().exists(), "something was published: {told}");
                let name = format!("{}/model.safetensors", VICTIMS[victim]);
                assert!(message.contains(&name) && message.contains("error: "), "{told}");
            }
            _ => panic!("exit code {code}: {told}"),
        }
        code
    }

    /// The next run on the same output is not hindered by what the last one left.
    #[track_caller]
    fn recovers(&self) {
        let run = self.start_again("mmap").wait_with_output().unwrap();
        assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
        assert!(self.published().as_ref() == Some(&self.golden));
        let left = fs::read_dir(self.folder.path().join("made")).unwrap().map(|e| e.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["out"]);
    }
}

fn model(seed: u64) -> Model {
    let mut random = Random(seed);
    let values = |random: &mut Random| (0..ELEMENTS).map(|_| (random.next() as i32) as f32 * 1e-10).collect::<Vec<_>>();
    (0..6).fold(Model::default(), |m, i| m.f32(&format!("layers.{i}.weight"), &values(&mut random)))
}

/// Changes the file in one of four ways, and says how.
fn disturb(path: &Path, random: &mut Random) -> &'static str {
    let bytes = fs::metadata(path).unwrap().len();
    let file = File::options().write(true).open(path).unwrap();
    match random.below(4) {
        0 => {
            file.set_len(random.below(bytes)).unwrap();
            "truncation"
        }
        1 => {
            file.write_all_at(&[0; 100], bytes).unwrap();
            "an appended part"
        }
        2 => {
            file.write_all_at(&random.bytes(100), random.below(bytes - 100)).unwrap();
            "a rewritten part"
        }
        _ => {
            let other = path.with_extension("new");
            let mut content = fs::read(path).unwrap();
            content[bytes as usize / 2..].fill(0);
            fs::write(&other, content).unwrap();
            fs::rename(&other, path).unwrap();
            "replacement"
        }
    }
}

#[test]
fn an_input_that_changes_at_any_moment_ends_the_merge_with_66_or_74_and_its_name() {
    let bench = Bench::new();
    let moments = std::env::var("TASKVEC_MOMENTS").map_or(50, |n| n.parse().unwrap());
    let mut random = Random(6);
    let mut codes = [0, 66, 74].map(|code| (code, 0));
    for moment in 0..moments {
        let victim = random.below(3) as usize;
        let mut child = bench.start(if random.below(4) == 0 { "pread" } else { "mmap" });
        bench.wait_for_work(&mut child);
        std::thread::sleep(bench.usual.mul_f64(random.below(1000) as f64 / 1100.0));
        let change = disturb(&bench.path(victim), &mut random);
        let code = bench.check(&child.wait_with_output().unwrap(), victim, change);
        codes.iter_mut().filter(|(c, _)| *c == code).for_each(|(_, n)| *n += 1);
        bench.restore(victim);
        if moment % 25 == 24 {
            bench.recovers();
        }
    }
    println!("{moments} moments, exit codes {codes:?}");
    bench.recovers();
}

/// Empties an input at a moment when the merge has it mapped, and has been seen so some times before. `None` if the merge
/// was done by then.
fn emptied(bench: &Bench, victim: usize, sightings: u64) -> Option<Output> {
    let child = bench.start("mmap");
    let pid = Pid::from_child(&child);
    let maps = PathBuf::from(format!("/proc/{}/maps", child.id()));
    let name = format!("/{}/model.safetensors", VICTIMS[victim]);
    let (mut seen, mut done) = (0, false);
    // Of a process that has ended, there is nothing to read.
    while !done && seen <= sightings {
        std::thread::sleep(Duration::from_micros(300));
        kill_process(pid, Signal::STOP).unwrap();
        let mapped = fs::read_to_string(&maps).unwrap_or_default();
        seen += u64::from(mapped.contains(&name));
        if seen > sightings {
            File::options().write(true).open(bench.path(victim)).unwrap().set_len(0).unwrap();
        }
        kill_process(pid, Signal::CONT).unwrap();
        done = mapped.is_empty();
    }
    let run = child.wait_with_output().unwrap();
    (seen > sightings).then_some(run)
}

/// `TASKVEC_SIGBUS=2000` for so many.
#[test]
fn a_mapped_input_that_is_emptied_ends_the_merge_with_74_and_one_line() {
    let bench = Bench::new();
    let wanted = std::env::var("TASKVEC_SIGBUS").map_or(1, |n| n.parse().unwrap());
    let mut random = Random(7);
    let (mut met, mut runs) = (0, 0);
    while met < wanted {
        assert!(runs < 100 * wanted, "{met} of {runs} runs were met while they had the file mapped");
        runs += 1;
        let victim = random.below(3) as usize;
        let Some(run) = emptied(&bench, victim, random.below(30)) else { continue };
        let code = bench.check(&run, victim, "emptying");
        bench.restore(victim);
        if code == 74 {
            let message = String::from_utf8_lossy(&run.stderr).into_owned();
            assert_eq!(message.lines().count(), 1, "{message}");
            assert!(message.contains("cannot be read") && message.contains("--io pread"), "{message}");
            met += 1;
        }
    }
    println!("{met} of {runs} runs ended by SIGBUS");
    bench.recovers();
}
