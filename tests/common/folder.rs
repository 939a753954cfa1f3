//! A folder of small models, whose recipes are planned and merged in process or by the program.

use super::{Model, merge, options};
use std::path::PathBuf;
use std::process::Command;
use taskvec::job;
use taskvec::plan::Plan;
use taskvec::recipe::Recipe;
use taskvec::report::Report;
use taskvec::source::{Io, Links};
use tempfile::TempDir;

/// Paths in recipes count from it.
pub struct Folder(pub TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn put(&self, name: &str, model: &Model) {
        model.write(&self.path(name).join("model.safetensors"));
    }

    /// Runs the program there. Exit code, stdout and stderr.
    pub fn taskvec(&self, args: &[&str]) -> (i32, String, String) {
        let run = Command::new(env!("CARGO_BIN_EXE_taskvec")).current_dir(self.0.path()).args(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (run.status.code().unwrap(), text(&run.stdout), text(&run.stderr))
    }

    pub fn plan(&self, recipe: &str) -> taskvec::Result<Plan> {
        job::plan(Recipe::parse(recipe)?, self.0.path(), Links::Inside, options())
    }

    #[track_caller]
    pub fn run(&self, recipe: &str, out: &str) -> (Model, Report) {
        let report = merge(Recipe::parse(recipe).unwrap(), self.0.path(), &self.path(out), options(), Io::Mmap);
        let report = report.unwrap_or_else(|e| panic!("{e}"));
        (Model::read(&self.path(out).join("model.safetensors")), report)
    }

    /// The plan fails with `code` and says all of `words`.
    #[track_caller]
    pub fn refused(&self, recipe: &str, code: u8, words: &[&str]) {
        let error = self.plan(recipe).expect_err("the recipe is refused");
        let message = error.to_string();
        assert_eq!(error.exit_code(), code, "{message}");
        words.iter().for_each(|w| assert!(message.contains(w), "`{w}` is not in: {message}"));
    }
}
