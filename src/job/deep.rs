//! `taskvec verify --deep`: a share of the output's tiles is made again from the inputs and compared, byte for byte.

use super::{Scoring, assign, open_files, plan, resume::Past, start_method, survey};
use crate::error::{Error, Result};
use crate::kernel::Change;
use crate::limits::{CODED_BLOCK_ELEMENTS, INDEX_MAX_BYTES};
use crate::mask::{Eta, Mask};
use crate::pass::{CodedRun, Engine, Follower, How, Merge, Progress, Stop, Target, Work};
use crate::plan::{Options, Plan};
use crate::recipe::Recipe;
use crate::source::{Io, Links, PieceHash};
use serde::Deserialize;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What is made again.
#[derive(Clone, Copy, Debug)]
pub struct DeepRun<'a> {
    /// Which share of the elements, 0 to 1; one tile at least.
    pub share: f64,
    /// Decides which.
    pub seed: u64,
    /// Relative paths of the recipe are relative to this folder; `None`: to where the report tells that they lie.
    pub folder: Option<&'a Path>,
    /// Compute threads.
    pub threads: usize,
    /// Peak memory.
    pub memory_bytes: u64,
    /// How files are read.
    pub io: Io,
    /// Which links inside model folders are followed.
    pub links: Links,
    /// Hears how it goes.
    pub progress: &'a (dyn Progress + 'a),
    /// Can end it.
    pub stop: &'a Stop,
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeepReport {
    /// Tiles made again.
    pub tiles: usize,
    /// Bytes of the output that were compared.
    pub bytes: u64,
    /// Bytes of the output's tensors.
    pub of_bytes: u64,
    /// Bytes read from the inputs.
    pub bytes_read: u64,
}

#[derive(Deserialize)]
struct Recorded {
    plan_id: String,
    inputs: Vec<Input>,
    settings: serde_json::Value,
    layers: Vec<Layer>,
    #[serde(default)]
    stages: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Input {
    path: String,
}

#[derive(Deserialize)]
struct Layer {
    scores: Vec<f64>,
}

/// Makes a share of the output in `out` again. Masks are made from the recorded scores, so pass 1 is not run again; what
/// a method gathers besides is.
pub fn check_deep(out: &Path, run: &DeepRun<'_>) -> Result<DeepReport> {
    let recorded = read(&out.join("taskvec.json"))?;
    if !recorded.stages.is_empty() {
        let problem = "was made in several stages; --deep makes tiles of one merge again".to_owned();
        return Err(Error::Usage(format!("{}: {problem}", out.display())));
    }
    let plan = plan_again(out, &recorded, run)?;
    let files = open_files(&plan, run.io)?;
    let mut engine = Engine::new(&plan, &files, false, run.progress, run.stop)?;
    engine.average_rows()?;
    let scoring = score_again(&plan, &recorded, &engine)?;
    engine.set_elements(scoring.elements.clone());
    let (works, actions) = assign(&plan, &scoring);
    let method = start_method(&plan)?;
    let target = Compare::open(out, &plan)?;
    let written: Vec<PieceHash> = plan.shards.iter().map(|s| PieceHash::new(s.file_bytes())).collect();
    let hash = vec![false; plan.sources.len()];
    let sampled = sample(&plan, &works, run);
    let mut report = DeepReport { tiles: sampled.len(), of_bytes: plan.output_bytes(), ..DeepReport::default() };
    for wave in &plan.waves.runs {
        let sampled: Vec<Work> = sampled.iter().filter(|w| wave.contains(&w.tensor)).cloned().collect();
        if sampled.is_empty() {
            continue;
        }
        let by_tensor = method.tensor_bytes(1).is_some();
        let shown = |w: &&Work| !by_tensor || sampled.iter().any(|s| s.tensor == w.tensor);
        let surveyed: Vec<Work> = works[wave.clone()].iter().filter(shown).cloned().collect();
        let mut runs = Vec::new();
        let done = survey(&plan, &engine, method.as_ref(), &surveyed, &actions, &mut runs)?;
        let merge = Merge {
            works: &sampled,
            how: How { actions: &actions, method: method.as_ref(), done: &done },
            hash: &hash,
            written: &written,
            tensor_hashes: None,
            ranges: None,
        };
        let outcome = engine.merge(&merge, &target, &mut Unheard)?;
        report.bytes += outcome.bytes_written;
        report.bytes_read += outcome.run.bytes_read + runs.iter().map(|r| r.bytes_read).sum::<u64>();
    }
    files.check_unchanged()?;
    Ok(report)
}

/// The plan of the merge that made `out`.
fn plan_again(out: &Path, recorded: &Recorded, run: &DeepRun<'_>) -> Result<Plan> {
    let path = out.join("mergekit_config.yml");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
    let mut recipe = Recipe::parse(&text)?;
    match recorded.settings["lwptv"]["eta"].as_f64().and_then(Eta::new) {
        Some(eta) => recipe.set_eta(eta),
        None => recipe.lwptv = None,
    }
    let folder = run.folder.map(Path::to_owned).or_else(|| folder_of(&recipe, recorded)).unwrap_or_default();
    let number = |name: &str| recorded.settings[name].as_u64();
    let bad = || Error::malformed(&out.join("taskvec.json"), "its settings are not those of a merge");
    let options = Options {
        memory_bytes: run.memory_bytes,
        threads: run.threads,
        shard_bytes: number("shard_bytes").ok_or_else(bad)?,
        seed: number("random_seed").ok_or_else(bad)?,
        allow_non_finite: recorded.settings["allow_non_finite"].as_bool().ok_or_else(bad)?,
        delta: false,
        copy_tokenizer: recorded.settings["copy_tokenizer"].as_bool().unwrap_or(true),
        write_card: out.join("README.md").exists(),
        tile_elements: Some(CODED_BLOCK_ELEMENTS),
        ..Options::default()
    };
    let with = |copy_tokenizer| {
        let plan = plan(recipe.clone(), &folder, run.links, Options { copy_tokenizer, ..options })?;
        Ok::<_, Error>(Some(plan).filter(|p| p.id == recorded.plan_id))
    };
    // Whether tokenizer files were copied is not on record, but part of the id.
    match with(true)?.map_or_else(|| with(false), |plan| Ok(Some(plan)))? {
        Some(plan) => Ok(plan),
        None => Err(Error::HashDiffers {
            path: out.to_owned(),
            what: "recipe, inputs' headers and this version of taskvec do not give the plan on record".into(),
            expected: recorded.plan_id.clone(),
            got: "another".into(),
            hint: "Give the inputs that it was made from, and --recipe-folder if they have moved.",
        }),
    }
}

/// The folder that the recipe's relative paths are relative to, from what became of the first of them.
fn folder_of(recipe: &Recipe, recorded: &Recorded) -> Option<PathBuf> {
    let references = recipe.references();
    let relative = references.iter().filter(|r| Path::new(r).is_relative());
    let mut folders = relative.flat_map(|r| recorded.inputs.iter().map(move |i| (r, i))).filter_map(|(r, i)| {
        let clean: PathBuf = Path::new(r).components().filter(|c| *c != std::path::Component::CurDir).collect();
        let folder = i.path.strip_suffix(&*clean.to_string_lossy())?;
        folder.is_empty().then(PathBuf::new).or_else(|| folder.ends_with('/').then(|| PathBuf::from(folder)))
    });
    folders.next()
}

fn score_again(plan: &Plan, recorded: &Recorded, engine: &Engine<'_>) -> Result<Scoring> {
    match &plan.recipe.lwptv {
        Some(lwptv) if !plan.prunes_elements() && recorded.layers.len() == plan.layers.len() => {
            let scores: Vec<Vec<f64>> = recorded.layers.iter().map(|l| l.scores.clone()).collect();
            let tasks = plan.expert_count();
            let mask = Mask::new(&scores, tasks, lwptv.eta, lwptv.rank_base, lwptv.consensus);
            Ok(Scoring::known(plan, scores, mask))
        }
        _ => Scoring::gather(plan, engine, &Past::default(), None),
    }
}

/// The tiles to make again, drawn one by one; the likeliest, if none is drawn.
fn sample(plan: &Plan, works: &[Work], run: &DeepRun<'_>) -> Vec<Work> {
    let tile = CODED_BLOCK_ELEMENTS as u64;
    let mut drawn = Vec::new();
    for work in works {
        let t = &plan.tensors[work.tensor];
        for start in (0..t.elements).step_by(CODED_BLOCK_ELEMENTS) {
            let only = Some(start..(start + tile).min(t.elements));
            drawn.push((draw(run.seed, &t.name, start), Work { only, ..work.clone() }));
        }
    }
    let least = drawn.iter().map(|(d, _)| *d).fold(1.0, f64::min);
    drawn.retain(|(d, _)| *d < run.share || *d <= least);
    drawn.into_iter().map(|(_, work)| work).collect()
}

/// Uniform in [0, 1).
fn draw(seed: u64, name: &str, start: u64) -> f64 {
    let mut hasher = blake3::Hasher::new_derive_key("taskvec 2026 tiles of verify --deep");
    hasher.update(&seed.to_le_bytes()).update(&start.to_le_bytes()).update(name.as_bytes());
    let hash = *hasher.finalize().as_bytes();
    let bits = u64::from_le_bytes(std::array::from_fn(|i| hash[i]));
    (bits >> 11) as f64 * 2f64.powi(-53)
}

/// Compares with what is there in place of writing.
struct Compare<'a> {
    plan: &'a Plan,
    files: Vec<(PathBuf, File)>,
}

impl<'a> Compare<'a> {
    fn open(out: &Path, plan: &'a Plan) -> Result<Self> {
        let open = |shard: &crate::plan::Shard| {
            let path = out.join(&shard.name);
            let file = File::open(&path).map_err(Error::io(&path, "open"))?;
            Ok((path, file))
        };
        Ok(Self { plan, files: plan.shards.iter().map(open).collect::<Result<_>>()? })
    }
}

impl Target for Compare<'_> {
    fn write(&self, shard: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let (path, file) = &self.files[shard];
        let mut there = vec![0; bytes.len()];
        file.read_exact_at(&mut there, offset).map_err(Error::io(path, "read"))?;
        let Some(at) = there.iter().zip(bytes).position(|(a, b)| a != b) else { return Ok(()) };
        let place = offset + at as u64;
        let is_there =
            |t: &&crate::plan::PlannedTensor| t.shard == shard && t.offset <= place && place < t.offset + t.bytes();
        let name = self.plan.tensors.iter().find(is_there).map_or("", |t| t.name.as_str());
        Err(Error::HashDiffers {
            path: path.clone(),
            what: format!("tensor `{name}`: byte {place} of the file is not what the inputs give"),
            expected: blake3::hash(bytes).to_hex().to_string(),
            got: blake3::hash(&there).to_hex().to_string(),
            hint: "Merge again, or give the inputs that it was made from.",
        })
    }

    fn copy(&self, _shard: usize, _offset: u64, _from: (&File, u64), _bytes: u64) -> Result<bool> {
        Ok(false)
    }
}

/// Hears nothing.
pub struct Unheard;

impl Follower for Unheard {
    fn take(&mut self, _run: &CodedRun) -> Result<()> {
        Ok(())
    }

    fn reached(&mut self, _works: usize, _changes: &[Option<Change>]) -> Result<()> {
        Ok(())
    }
}

fn read(path: &Path) -> Result<Recorded> {
    let missing = |problem: String| Error::InputMissing { path: path.to_owned(), problem };
    let meta = std::fs::metadata(path).map_err(|e| missing(format!("cannot be read: {e}")))?;
    if !meta.is_file() || meta.len() > INDEX_MAX_BYTES {
        return Err(missing("is not a report of taskvec".into()));
    }
    let text = std::fs::read(path).map_err(Error::io(path, "read"))?;
    serde_json::from_slice(&text).map_err(|e| Error::malformed(path, format!("is not a report of taskvec: {e}")))
}
