//! A small merge, and the commands around it, for tests that let them fail.

use super::{Model, Random, tree};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::Duration;
use taskvec::job::{self, Run};
use taskvec::pass::{Progress, Silent, Stop};
use taskvec::plan::{Options, Plan};
use taskvec::recipe::Recipe;
use taskvec::sink::{Existing, Unfinished};
use taskvec::source::{Io, Links};
use taskvec::{Error, Result};

/// Files by name; of the report, everything but `run`.
pub type Content = BTreeMap<PathBuf, Vec<u8>>;

/// Models, a recipe, and what becomes of it.
pub struct Bench {
    pub root: tempfile::TempDir,
    pub memory: u64,
    pub golden: Content,
}

impl Bench {
    /// `tensors` of `elements` each, in weight files of three tensors.
    pub fn new(tensors: usize, elements: usize) -> Self {
        let shm = Path::new("/dev/shm");
        let root = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        for (seed, name) in [(1, "base"), (2, "math"), (3, "code")] {
            let folder = root.path().join(name);
            model(seed, tensors, elements).write(&folder.join("model.safetensors"));
            std::fs::write(folder.join("config.json"), "{\"hidden_size\": 8}\n").unwrap();
        }
        let recipe = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n- model: math\n- model: code\n\
                      parameters: {weight: 0.7}\nlwptv: {eta: 0.5}\n";
        std::fs::write(root.path().join("recipe.yml"), recipe).unwrap();
        let mut bench = Self { root, memory: 0, golden: Content::new() };
        bench.memory = bench.smallest_memory(elements);
        let golden = bench.path("golden");
        bench.merge(&golden, Unfinished::Discard, &Stop::default()).unwrap();
        bench.golden = content(&golden);
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A new folder for one case.
    pub fn case(&self) -> tempfile::TempDir {
        tempfile::tempdir_in(self.root.path()).unwrap()
    }

    fn shard_bytes(elements: usize) -> u64 {
        3 * 4 * elements as u64
    }

    fn plan(&self, memory_bytes: u64, elements: usize) -> Result<Plan> {
        let recipe = Recipe::parse(&std::fs::read_to_string(self.path("recipe.yml")).unwrap())?;
        let shard_bytes = Self::shard_bytes(elements);
        let options = Options { threads: 1, memory_bytes, shard_bytes, ..Options::default() };
        job::plan(recipe, self.root.path(), Links::Inside, options)
    }

    /// So little that nearly every tensor is a job of its own.
    fn smallest_memory(&self, elements: usize) -> u64 {
        match self.plan(1 << 20, elements) {
            Err(Error::BudgetTooSmall { needed, .. } | Error::DeltaBudgetTooSmall { needed, .. }) => needed.0,
            other => panic!("{other:?}"),
        }
    }

    fn elements(&self) -> usize {
        let base = Model::read(&self.path("base/model.safetensors"));
        base.tensors[0].bytes.len() / 4
    }

    /// Merges in this process, noting every tensor.
    pub fn merge(&self, out: &Path, unfinished: Unfinished, stop: &Stop) -> Result<()> {
        self.merge_watched(out, unfinished, stop, &Silent).map(drop)
    }

    /// The same under the eyes of `progress`. Returns bytes read and written; `None` if the output was whole already.
    pub fn merge_watched(
        &self,
        out: &Path,
        unfinished: Unfinished,
        stop: &Stop,
        progress: &dyn Progress,
    ) -> Result<Option<u64>> {
        let elements = self.elements();
        let memory = if self.memory == 0 { self.smallest_memory(elements) } else { self.memory };
        let plan = self.plan(memory, elements)?;
        let run = Run {
            io: Io::Pread,
            links: Links::Inside,
            delta: None,
            masks: None,
            hash_inputs: true,
            existing: Existing::Refuse,
            unfinished,
            read_back: false,
            journal: Some(Duration::ZERO),
            progress,
            stop,
        };
        if unfinished == Unfinished::Resume && job::is_done(&plan, out, &run)? {
            return Ok(None);
        }
        let report = job::merge(&plan, out, &run)?;
        let read: u64 = report.run.passes.iter().map(|p| p.bytes_read).sum();
        Ok(Some(read + report.run.bytes_written))
    }

    /// The command that does the same.
    pub fn merge_command(&self, out: &Path) -> Command {
        let mut command = taskvec();
        command.arg("merge").arg(self.path("recipe.yml")).arg(out).args(["-j", "1", "--io", "pread"]);
        command.args(["--journal-every", "0", "--memory", &self.memory.to_string()]);
        command.args(["--out-shard-size", &Self::shard_bytes(self.elements()).to_string()]);
        command
    }

    /// Whether `out` is there; fails unless it then is whole.
    #[track_caller]
    pub fn is_whole(&self, out: &Path, why: &str) -> bool {
        if !out.exists() {
            return false;
        }
        assert_same(&content(out), &self.golden, why);
        true
    }
}

/// The program, quiet.
pub fn taskvec() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskvec"));
    command.args(["--quiet", "--progress", "none"]);
    command
}

/// Waits until a child has stopped itself.
pub fn wait_until_stopped(child: &Child) {
    let stat = format!("/proc/{}/stat", child.id());
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a signal, such as `-TERM`.
pub fn signal(child: &Child, name: &str) {
    Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
}

#[track_caller]
pub fn assert_code(output: &Output, code: i32, why: &str) {
    assert_eq!(output.status.code(), Some(code), "{why}: {}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
pub fn assert_same(a: &Content, b: &Content, why: &str) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{why}");
    a.iter().for_each(|(name, content)| assert!(*content == b[name], "{why}: {} differs", name.display()));
}

/// The files below a folder, without what differs between two runs of the same.
pub fn content(folder: &Path) -> Content {
    let mut files = tree(folder);
    if let Some(report) = files.get_mut(Path::new("taskvec.json")) {
        *report = without_run(report);
    }
    files
}

/// A report without its field `run`.
pub fn without_run(report: &[u8]) -> Vec<u8> {
    let mut json: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(report).unwrap_or_default();
    json.shift_remove("run");
    serde_json::to_vec(&json).unwrap()
}

fn model(seed: u64, tensors: usize, elements: usize) -> Model {
    let mut random = Random(seed);
    (0..tensors).fold(Model::default(), |model, i| {
        let scale = if seed == 1 { 1.0 } else { 0.01 * (1 + i % 3) as f32 };
        let base = (i % 7) as f32;
        let value = |_| base + scale * (random.below(1 << 20) as f32 / (1 << 20) as f32 - 0.5);
        let values: Vec<f32> = (0..elements).map(value).collect();
        model.f32(&format!("layers.{i}.weight"), &values)
    })
}
