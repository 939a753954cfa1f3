//! Stages that are killed at every call to the file system.

use crate::common::folder::Folder;
use crate::common::parts::{Parts, assert_same_output};
use crate::common::{Model, options};
use crate::{RECIPES, one_process, recipe};
use assert_cmd::Command;
use taskvec::job::Next;
use taskvec::plan::Options;

#[test]
fn stages_killed_at_any_call_publish_nothing_and_go_on_to_the_same_bytes() {
    let bench = Folder::new();
    for (name, by) in [("base", 0.0), ("a", 2.0), ("b", -5.0), ("c", 0.5)] {
        let layer = |i: usize| (0..700).map(|x| ((x * (i + 3)) % 17) as f32 + by * x as f32).collect::<Vec<_>>();
        bench.put(name, &Model::default().f32("layers.0.w", &layer(0)).f32("layers.1.w", &layer(1)));
    }
    let (text, small) = (recipe("ties", RECIPES[1].1, "eta: 0.4"), Options { shard_bytes: 1000, ..options() });
    let run = Parts::plan(&text, bench.0.path(), &bench.path("run"), 2, small).unwrap();
    let expected = bench.path("expected");
    one_process(&text, bench.0.path(), &expected, small);
    let killed_at = |stage: &[&str], call: u64| {
        let mut command = Command::cargo_bin("taskvec").unwrap();
        command.current_dir(bench.0.path()).args(stage).args(["--plan", "run", "--num-threads", "1"]);
        command.env("TASKVEC_FAILPOINT", format!("kill:{call}")).output().unwrap().status
    };
    let mut kills = 0;
    // A stage is killed at its first call, then started again and killed at its second, until it ends.
    let to_the_end = |stage: &[&str], kills: &mut u64| {
        for call in 0.. {
            let status = killed_at(stage, call);
            if status.success() {
                return;
            }
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{stage:?}: {status}");
            *kills += 1;
            if run.model().exists() {
                assert_eq!(stage, ["commit"]);
                assert_same_output(&run.model(), &expected, &format!("killed at call {call}"));
            }
        }
    };
    while run.status().next != Next::Nothing {
        let now = run.status();
        let part = now.missing.first().map(ToString::to_string).unwrap_or_default();
        match now.next {
            Next::Survey => to_the_end(&["part", "survey", "--part", &part], &mut kills),
            Next::Reduce => to_the_end(&["reduce"], &mut kills),
            Next::Merge => to_the_end(&["part", "merge", "--part", &part], &mut kills),
            _ => to_the_end(&["commit"], &mut kills),
        }
    }
    assert!(kills > 40, "{kills} kills");
    assert_same_output(&run.model(), &expected, "killed at every call");
}
