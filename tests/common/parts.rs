//! Merges in parts, as several machines would make them: every stage opens the plan anew.

use super::Random;
use std::fs;
use std::path::{Path, PathBuf};
use taskvec::job::{
    self, Asked, CommitRun, Committed, Next, PartDone, PartRun, Parted, Reduced, commit, merge_part, reduce, status,
    survey_part, write_plan,
};
use taskvec::pass::{Silent, Stop};
use taskvec::plan::Options;
use taskvec::source::{Io, Links};

/// The folder of a run.
pub struct Parts(pub PathBuf);

impl Parts {
    /// Plans a merge in so many parts.
    pub fn plan(recipe: &str, folder: &Path, run: &Path, parts: usize, options: Options) -> taskvec::Result<Self> {
        let (recipe, folder) = (recipe.to_owned(), folder.to_owned());
        let asked = Asked { recipe, folder, eta: None, no_lwptv: false, links: Links::Inside, options, parts };
        write_plan(&asked, run)?;
        Ok(Self(run.to_owned()))
    }

    fn stage<T>(&self, go: impl FnOnce(&Parted, &PartRun<'_>) -> taskvec::Result<T>) -> taskvec::Result<T> {
        let stop = Stop::default();
        let (memory_bytes, threads) = (1 << 30, 2);
        let run = PartRun { io: Io::Mmap, memory_bytes, threads, progress: &Silent, stop: &stop };
        go(&Parted::open(&self.0, memory_bytes, threads)?, &run)
    }

    pub fn survey(&self, part: usize, round: Option<usize>) -> taskvec::Result<PartDone> {
        self.stage(|parted, run| survey_part(parted, part, round, run))
    }

    pub fn reduce(&self) -> taskvec::Result<Reduced> {
        self.stage(|parted, run| reduce(parted, None, run))
    }

    pub fn merge(&self, part: usize) -> taskvec::Result<PartDone> {
        self.stage(|parted, run| merge_part(parted, part, run))
    }

    pub fn commit(&self) -> taskvec::Result<Committed> {
        self.stage(|parted, run| commit(parted, &CommitRun { run: *run, read_back: true }))
    }

    pub fn status(&self) -> job::Status {
        status(&self.0).unwrap()
    }

    pub fn model(&self) -> PathBuf {
        self.0.join("model")
    }

    /// Does all that comes before `until`, parts in an order that `random` decides.
    pub fn run_until(&self, until: Next, random: &mut Random) {
        loop {
            let now = self.status();
            if now.next == until {
                return;
            }
            let mut order: Vec<usize> = (0..now.parts).collect();
            (1..now.parts).for_each(|i| order.swap(i, random.below(i as u64 + 1) as usize));
            match now.next {
                Next::Survey | Next::Merge => order.iter().for_each(|&part| self.part(part, &now)),
                Next::Reduce => assert!(self.reduce().is_ok()),
                Next::Commit => assert!(self.commit().is_ok()),
                Next::Nothing => return,
            }
        }
    }

    /// What a part has to do now.
    fn part(&self, part: usize, now: &job::Status) {
        let done = if now.next == Next::Merge { self.merge(part) } else { self.survey(part, now.round) };
        assert!(done.is_ok(), "part {part}: {done:?}");
    }
}

/// The files of an output; of its report all but `run`, and no paths.
pub fn output(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for (name, mut content) in super::tree(folder) {
        if name == Path::new("taskvec.json") {
            let mut report: serde_json::Value = serde_json::from_slice(&content).unwrap();
            report.as_object_mut().unwrap().remove("run");
            let inputs = report["inputs"].as_array_mut().unwrap();
            inputs.iter_mut().for_each(|i| drop(i.as_object_mut().unwrap().remove("path")));
            content = serde_json::to_vec_pretty(&report).unwrap();
        }
        files.push((name, content));
    }
    files
}

/// Fails unless both outputs are the same, and names the first file that differs.
#[track_caller]
pub fn assert_same_output(a: &Path, b: &Path, what: &str) {
    let (a, b) = (output(a), output(b));
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|f| f.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b), "{what}");
    for ((name, a), (_, b)) in a.iter().zip(&b) {
        if a != b && name.extension().is_some_and(|x| x == "json") {
            assert_eq!(String::from_utf8_lossy(a), String::from_utf8_lossy(b), "{what}");
        }
        assert!(a == b, "{what}: {} differs", name.display());
    }
}

/// Removes a run.
pub fn forget(run: &Path) {
    fs::remove_dir_all(run).unwrap();
}
