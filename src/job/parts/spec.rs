//! `plan.json`: all that makes the plan again on any machine, and tells whether the inputs are still those that were planned.

use super::folder::{RunFolder, read_sealed, short};
use super::{most_rounds, plan_whole, ranks_model};
use crate::disk;
use crate::error::{Error, Result};
use crate::job::sealed::seal;
use crate::limits::PARTS_MAX;
use crate::mask::Eta;
use crate::plan::{Border, Options, Partitions, Plan, PlannedFile};
use crate::recipe::Stages;
use crate::sink::{Named, Staging};
use crate::source::{Handle, Links, open_urls, tag};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What is asked of a plan in parts.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The recipe's text.
    pub recipe: String,
    /// The folder that its paths start from.
    pub folder: PathBuf,
    /// In place of the recipe's eta.
    pub eta: Option<Eta>,
    /// Whether the recipe's `lwptv` is left out.
    pub no_lwptv: bool,
    /// Which links inside model folders are followed.
    pub links: Links,
    /// The rest.
    pub options: Options,
    /// Number of parts.
    pub parts: usize,
}

/// The content of `plan.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    pub version: String,
    pub plan_id: String,
    pub recipe: String,
    pub folder: String,
    pub eta: Option<f64>,
    pub no_lwptv: bool,
    pub follow_links: bool,
    pub shard_bytes: u64,
    pub random_seed: u64,
    pub allow_non_finite: bool,
    pub inputs: Vec<Input>,
    pub rounds: usize,
    pub output_bytes: u64,
    /// Where parts begin, and where the last ends: tensor and element.
    pub borders: Vec<Border>,
    /// Bytes that each part reads and writes.
    pub part_bytes: Vec<u64>,
}

/// An input file when it was planned. Its header is in the plan's id; numbers of devices and inodes differ between
/// machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub path: String,
    pub bytes: u64,
    /// Seconds and nanoseconds; under a URL, a hash of `tag`.
    pub modified: (i64, i64),
    /// What the server called this state of it, under a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Plans the merge, cuts it into parts, and writes `plan.json` into the folder `out`. Returns the plan and its parts.
pub fn write(asked: &Asked, out: &Path) -> Result<(Plan, Partitions, PathBuf)> {
    if asked.parts == 0 || asked.parts > PARTS_MAX {
        return Err(Error::Usage(format!("--partitions {}: expected 1 to {PARTS_MAX}", asked.parts)));
    }
    let folder = std::path::absolute(&asked.folder).map_err(Error::io(&asked.folder, "resolve"))?;
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| {
            Error::Usage(format!("{}: a plan for several machines needs paths of UTF-8 text", path.display()))
        })
    };
    let mut spec = Spec {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        plan_id: String::new(),
        recipe: asked.recipe.clone(),
        folder: text(&folder)?,
        eta: asked.eta.map(Eta::get),
        no_lwptv: asked.no_lwptv,
        follow_links: asked.links == Links::All,
        shard_bytes: asked.options.shard_bytes,
        random_seed: asked.options.seed,
        allow_non_finite: asked.options.allow_non_finite,
        inputs: Vec::new(),
        rounds: 0,
        output_bytes: 0,
        borders: Vec::new(),
        part_bytes: Vec::new(),
    };
    let plan = spec.plan_as_asked(asked.options)?;
    let parts = Partitions::balanced(&plan, asked.parts, !ranks_model(&plan)?);
    let input = |f: &PlannedFile| {
        let modified = f.expected.identity.map_or((0, 0), |i| i.modified);
        Ok(Input { path: text(&f.path)?, bytes: f.bytes, modified, tag: tag(&f.path) })
    };
    spec.plan_id.clone_from(&plan.id);
    spec.inputs = plan.files.iter().map(input).collect::<Result<_>>()?;
    spec.rounds = most_rounds(&plan)?;
    spec.output_bytes = plan.output_bytes();
    spec.borders = parts.borders().to_vec();
    spec.part_bytes = (0..parts.count()).map(|p| parts.bytes(&plan, p)).collect();
    let path = spec.write(out)?;
    Ok((plan, parts, path))
}

impl Spec {
    fn write(&self, out: &Path) -> Result<PathBuf> {
        disk::make_folders(&out.join("parts"))?;
        let path = RunFolder::plan(out);
        let (text, hash) = seal(self)?;
        match std::fs::read(&path) {
            // Planned again: nothing changed, and what is done stays.
            Ok(there) if there == text.as_bytes() => return Ok(path),
            Ok(_) => {
                let problem = format!("is another plan than this one ({}); choose another folder", short(&hash));
                return Err(Error::OutputExists { path, problem });
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(&path, "read")(e)),
        }
        Staging::check(&out.join("model"), crate::sink::Existing::Refuse)?;
        Named::write(&path, text.as_bytes()).map(|()| path)
    }

    /// Reads `plan.json` (or that of a folder).
    pub fn read(path: &Path) -> Result<(Self, RunFolder)> {
        let path = if path.is_dir() { RunFolder::plan(path) } else { path.to_owned() };
        let missing = || {
            let problem = "no such file; `taskvec plan RECIPE --out RUN --partitions P` makes one".to_owned();
            Error::InputMissing { path: path.clone(), problem }
        };
        let (spec, id) = read_sealed::<Self>(&path)?.ok_or_else(missing)?;
        if spec.version != env!("CARGO_PKG_VERSION") {
            let (got, this) = (&spec.version, env!("CARGO_PKG_VERSION"));
            return Err(Error::Usage(format!(
                "{}: was made by taskvec {got}, this is {this}; use one version on all machines",
                path.display()
            )));
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok((spec, RunFolder::new(parent, id)))
    }

    pub fn links(&self) -> Links {
        if self.follow_links { Links::All } else { Links::Inside }
    }

    /// The choices that decide the output.
    pub fn options(&self) -> Options {
        Options {
            shard_bytes: self.shard_bytes,
            seed: self.random_seed,
            allow_non_finite: self.allow_non_finite,
            ..Options::default()
        }
    }

    /// Makes the plan again; fails if it is another.
    pub fn plan(&self, options: Options) -> Result<Plan> {
        let plan = self.plan_as_asked(options)?;
        if plan.id == self.plan_id {
            return Ok(plan);
        }
        let what = format!("the plan's id was {}, it is {} now", short(&self.plan_id), short(&plan.id));
        Err(Error::InputChanged { path: self.folder.clone().into(), what })
    }

    fn plan_as_asked(&self, options: Options) -> Result<Plan> {
        let mut stages = Stages::parse(&self.recipe)?;
        if let Some(eta) = self.eta.and_then(Eta::new) {
            stages.last.set_eta(eta);
        }
        if self.no_lwptv {
            stages.last.lwptv = None;
        }
        plan_whole(stages, Path::new(&self.folder), self.links(), options)
    }

    /// Fails if an input is not there, or not as it was planned.
    pub fn check_inputs(&self) -> Result<()> {
        open_urls(self.inputs.iter().map(|i| Path::new(&i.path)))?;
        for input in &self.inputs {
            let path = PathBuf::from(&input.path);
            let now = Handle::opened(&path)?.identity(&path)?;
            let what = if now.bytes != input.bytes {
                format!("{} bytes when it was planned, {} now", input.bytes, now.bytes)
            } else if now.modified != input.modified {
                match (&input.tag, tag(&path)) {
                    (Some(then), Some(now)) => format!("{then} when it was planned, {now} now"),
                    _ => "it was written to since it was planned".to_owned(),
                }
            } else {
                continue;
            };
            return Err(Error::InputChanged { path, what });
        }
        Ok(())
    }
}
