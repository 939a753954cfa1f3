//! What must not be merged is refused: with the documented exit code, a message that names the fault and its place, and
//! nothing left behind. Every test runs the real binary; [`Bench::refused`] compares the whole folder before and after.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
mod files;
mod outputs;
mod places;
mod recipes;
mod tensors;

use assert_cmd::Command;
use common::Model;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

const TASK_ARITHMETIC: &str = "merge_method: task_arithmetic\n\
    base_model: ./base\n\
    models:\n\
    - {model: ./a, parameters: {weight: 0.5}}\n\
    - {model: ./c, parameters: {weight: 0.5}}\n";

/// A run that takes this long hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Three models that fit together and a recipe in `in`, an empty folder `made` for the output. Tests break a part.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(bench.path("made")).unwrap();
        ["base", "a", "c"].iter().zip([0.0, 1.0, 2.0]).for_each(|(name, shift)| bench.put(name, &whole(shift)));
        bench.recipe(TASK_ARITHMETIC);
        bench
    }

    fn with_lwptv() -> Self {
        let bench = Self::new();
        bench.recipe(&format!("{TASK_ARITHMETIC}lwptv: {{eta: 0.5}}\n"));
        bench
    }

    /// With this file of fixtures/broken as expert `a`.
    fn broken(name: &str) -> Self {
        let bench = Self::new();
        fs::copy(format!("fixtures/broken/{name}.safetensors"), bench.path("in/a/model.safetensors")).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn recipe(&self, text: &str) {
        fs::write(self.path("in/recipe.yml"), text).unwrap();
    }

    fn put(&self, folder: &str, model: &Model) {
        model.write(&self.path("in").join(folder).join("model.safetensors"));
    }

    /// Replaces expert `a` by shards, and an index that says what `weight_map` says.
    fn put_shards(&self, shards: &[(&str, Model)], weight_map: &[(&str, &str)]) {
        fs::remove_file(self.path("in/a/model.safetensors")).unwrap();
        shards.iter().for_each(|(name, model)| model.write(&self.path("in/a").join(name)));
        let map: serde_json::Map<_, _> = weight_map.iter().map(|(t, s)| ((*t).to_owned(), (*s).into())).collect();
        let index = serde_json::json!({"metadata": {"total_size": 48}, "weight_map": map});
        fs::write(self.path("in/a/model.safetensors.index.json"), index.to_string()).unwrap();
    }

    fn merge(&self, flags: &[&str]) -> Output {
        let (recipe, out) = (self.path("in/recipe.yml"), self.path("made/out"));
        self.run(&[&["merge", recipe.to_str().unwrap(), out.to_str().unwrap()], flags].concat())
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::cargo_bin("taskvec").unwrap();
        command.args(args).env("HF_HUB_CACHE", self.path("no-cache")).timeout(PATIENCE);
        command.output().unwrap()
    }

    #[track_caller]
    fn merged(&self, flags: &[&str]) -> Model {
        let run = self.merge(flags);
        assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
        Model::read(&self.path("made/out/model.safetensors"))
    }

    /// The merge ends with `code`, says all of `words`, and leaves every file and folder as it was. Gives its message.
    #[track_caller]
    fn refused(&self, flags: &[&str], code: i32, words: &[&str]) -> String {
        self.unchanged_by(|| self.merge(flags), code, words)
    }

    /// As [`Bench::refused`], of other arguments.
    #[track_caller]
    fn refused_args(&self, args: &[&str], code: i32, words: &[&str]) -> String {
        self.unchanged_by(|| self.run(args), code, words)
    }

    #[track_caller]
    fn unchanged_by(&self, run: impl FnOnce() -> Output, code: i32, words: &[&str]) -> String {
        let before = tree(self.0.path());
        let run = run();
        let message = text(&run.stderr);
        assert_eq!(run.status.code(), Some(code), "{message}");
        assert!(message.contains("error: "), "{message}");
        words.iter().for_each(|w| assert!(message.contains(w), "`{w}` is not in the message:\n{message}"));
        assert_eq!(text(&run.stdout), "", "data goes to stdout, messages do not");
        let after = tree(self.0.path());
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{message}");
        before.iter().for_each(|(path, was)| assert!(after[path] == *was, "{} changed", path.display()));
        message
    }
}

fn whole(shift: f32) -> Model {
    let square =
        |first: f32| [0, 1, 2, 3].map(|i| first + shift * i as f32).iter().flat_map(|v| v.to_le_bytes()).collect();
    Model::default()
        .f32("embed.weight", &[1.0, 2.0 + shift, 3.0, 4.0])
        .tensor("layers.0.weight", "F32", &[2, 2], square(0.5))
        .tensor("layers.1.weight", "F32", &[2, 2], square(-2.0))
}

/// A model of the first, of the second, of the third tensor of [`whole`].
fn thirds() -> [Model; 3] {
    let tensors: [common::Tensor; 3] = whole(1.0).tensors.try_into().unwrap();
    tensors.map(|t| Model { tensors: vec![t] })
}

fn pair(a: &Model, b: &Model) -> Model {
    Model { tensors: [a.tensors.clone(), b.tensors.clone()].concat() }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Everything below `folder`: content of files, targets of links, kinds of all else.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        let content = match kind {
            k if k.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            k if k.is_file() => fs::read(&path).unwrap(),
            k if k.is_dir() => {
                found.append(&mut tree(&path));
                b"folder".to_vec()
            }
            _ => b"special".to_vec(),
        };
        found.insert(path, content);
    }
    found
}

fn make_fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}
