//! Recipe and inventories to a [`Plan`]: everything that can be known before a tensor byte is read.
//!
//! Pure: no file is opened here. After [`Plan::new`] no stage checks names, shapes, dtypes, settings or budgets again.

mod adapter;
mod align;
mod assemble;
mod budget;
mod depth;
mod layers;
mod layout;
mod show;
mod stack;
mod waves;

pub use align::vocabulary_rows;
pub use assemble::{Restack, Taken};
pub use budget::{Budget, in_flight_bytes};
pub use layers::Layer;
pub use layout::Shard;
pub use waves::Waves;

use crate::error::{Error, Result};
use crate::limits::{CODED_BLOCK_ELEMENTS, CODER_BYTES, LOSSY_BYTES, MEMORY_DEFAULT_BYTES, SHARD_DEFAULT_BYTES};
use crate::method::{Model, Settings};
use crate::recipe::{LayerRule, Recipe};
use crate::survey::{Form, Largest, Score};
use crate::tensor::{Coded, Dtype, Entry, FileEntry, Inventory, LowRank};
use crate::vocabulary::{RowMap, Vocabulary};
use assemble::{Assembly, Models, Row};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Changes when the same recipe and inputs would give other bytes.
const SEMANTICS: u32 = 1;

/// What the user can choose besides the recipe.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is one choice")]
pub struct Options {
    /// Peak memory allowed, in bytes.
    pub memory_bytes: u64,
    /// Compute threads.
    pub threads: usize,
    /// Tensor bytes of one output shard, at most (a larger tensor gets a shard of its own).
    pub shard_bytes: u64,
    /// Seed of random scores and draws.
    pub seed: u64,
    /// Whether NaN and infinities may pass.
    pub allow_non_finite: bool,
    /// Whether the delta from the base to the output is written too, if there is a base.
    pub delta: bool,
    /// Whether tokenizer files are copied to the output.
    pub copy_tokenizer: bool,
    /// Whether the output gets a model card.
    pub write_card: bool,
    /// Elements of a tile, at most; for tests. `None`: from the budget.
    pub tile_elements: Option<usize>,
    /// Bytes that statistics of a wave keep, at most; for tests. `None`: from the budget.
    pub wave_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory_bytes: MEMORY_DEFAULT_BYTES,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            shard_bytes: SHARD_DEFAULT_BYTES,
            seed: 0,
            allow_non_finite: false,
            delta: true,
            copy_tokenizer: true,
            write_card: true,
            tile_elements: None,
            wave_bytes: None,
        }
    }
}

/// One merge, ready to run.
#[derive(Debug)]
pub struct Plan {
    /// What it was made from.
    pub recipe: Recipe,
    /// The choices besides the recipe.
    pub options: Options,
    /// The distinct models, in the order of [`Recipe::references`].
    pub models: Vec<PlannedModel>,
    /// What is merged: the base first, if there is one, then the experts in recipe order. Each may take its tensors from
    /// several models, slice by slice.
    pub sources: Vec<Source>,
    /// Whether `sources[0]` is the base.
    pub has_base: bool,
    /// All weight files, model by model.
    pub files: Vec<PlannedFile>,
    /// The output's tensors, in the order of the base (of the first model where there is no base).
    pub tensors: Vec<PlannedTensor>,
    /// The layers that LwPTV scores; every float tensor is in one.
    pub layers: Vec<Layer>,
    /// The distinct settings of the method.
    pub settings: Vec<Settings>,
    /// The stacks whose layers are not those of the reference.
    pub restacked: Vec<Restack>,
    /// The output's head.
    pub head: Head,
    /// Whether every tensor is the base's by name, so that the output has a delta from it.
    pub fits_base: bool,
    /// The output's tokens, where the recipe settles them.
    pub vocabulary: Option<Vocabulary>,
    /// The output's weight files.
    pub shards: Vec<Shard>,
    /// Reads over the inputs for statistics of the method, at most.
    pub surveys: u64,
    /// What is surveyed and merged together.
    pub waves: Waves,
    /// Memory and tiles.
    pub budget: Budget,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// blake3 over everything that decides the output's bytes.
    pub id: String,
}

/// Where the output's head comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// It is a tensor, or the model has none.
    Own,
    /// It is the embedding, as in the reference.
    Tied,
    /// It is a tensor, where the reference's is the embedding.
    Untied,
}

/// One of the distinct models.
#[derive(Debug)]
pub struct PlannedModel {
    /// As the recipe names it.
    pub label: String,
    /// Where it was found.
    pub path: PathBuf,
    /// Its files, as indices into [`Plan::files`].
    pub files: Range<usize>,
    /// The folder of its adapter, if it has one.
    pub adapter: Option<PathBuf>,
    /// How far a value is at most from that of the model that it stands for, where it is a lossy delta file.
    pub error_bound: Option<f64>,
    /// The names of the models that it is made from, where it is the result of a stage.
    pub made_from: Option<Vec<String>>,
}

impl PlannedModel {
    /// The name that a model card gives it; of a stage's result the names of what it is made from.
    pub fn origins(&self) -> Vec<String> {
        self.made_from.clone().unwrap_or_else(|| vec![self.display_name()])
    }

    /// A hub id as it is; of a path only the last part. A model and its adapter are named alike.
    pub fn display_name(&self) -> String {
        let from_hub = self.path.iter().any(|part| part.to_string_lossy().starts_with("models--"));
        if self.made_from.is_some() {
            return self.label.clone();
        }
        self.label.split('+').map(|part| part_name(part, from_hub)).collect::<Vec<_>>().join("+")
    }
}

fn part_name(label: &str, from_hub: bool) -> String {
    if from_hub && !label.starts_with(['/', '.']) {
        return label.to_owned();
    }
    let path = Path::new(label);
    let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
    match name(path).as_deref() {
        Some("model.safetensors" | "model.safetensors.index.json") => path.parent().and_then(name),
        other => other.map(str::to_owned),
    }
    .unwrap_or_else(|| "model".to_owned())
}

/// One place in the merge: the base, or an expert.
#[derive(Debug)]
pub struct Source {
    /// As the recipe names it; several models by commas.
    pub label: String,
    /// Indices into [`Plan::models`]: where its tensors come from.
    pub models: Vec<usize>,
    /// The largest of its models' error bounds.
    pub error_bound: Option<f64>,
}

/// A weight file of a model.
#[derive(Debug)]
pub struct PlannedFile {
    /// Its name in the model's folder.
    pub name: String,
    /// Where it is opened.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
}

/// A tensor of the output.
#[derive(Debug)]
pub struct PlannedTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Product of the shape.
    pub elements: u64,
    /// Its layer; `None` for tensors that are copied: integers, bools, and what the recipe says.
    pub layer: Option<usize>,
    /// Why the recipe has it copied; all of `places` are then the same.
    pub taken: Option<Taken>,
    /// Index into [`Plan::settings`].
    pub settings: usize,
    /// Where it lies in each source.
    pub places: Vec<Place>,
    /// Elements of the blocks that the method sees.
    pub block_elements: usize,
    /// Its dtype in the output.
    pub dtype: Dtype,
    /// Index into [`Plan::shards`].
    pub shard: usize,
    /// First byte in the shard's file.
    pub offset: u64,
}

/// Where a tensor lies in a source.
#[derive(Clone, Debug)]
pub struct Place {
    /// Index into [`Plan::files`].
    pub file: usize,
    /// Its dtype there.
    pub dtype: Dtype,
    /// First byte in the file.
    pub offset: u64,
    /// How to make it from the base, where the source is a delta file.
    pub coded: Option<Coded>,
    /// What an adapter adds to it; its files are indices into [`Plan::files`].
    pub adapter: Option<Box<LowRank>>,
    /// What the files of `coded` count from.
    pub first_file: usize,
    /// How the output's rows are gathered from this tensor's, where they are not the same. They are then held as
    /// `dtype`, F32, whatever the file has.
    pub rows: Option<Rows>,
}

/// How rows are gathered.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Where each comes from.
    pub map: Arc<RowMap>,
    /// Elements of a row.
    pub width: u64,
    /// The dtype in the file.
    pub stored: Dtype,
}

impl Place {
    /// The dtype in the file.
    pub fn stored(&self) -> Dtype {
        self.rows.as_ref().map_or(self.dtype, |r| r.stored)
    }

    /// Bytes that are read for a tensor of so many elements, the base not counted.
    pub fn read_bytes(&self, elements: u64) -> u64 {
        let adapter = self.adapter.as_ref().map_or(0, |a| a.bytes(elements));
        adapter
            + match &self.coded {
                None => elements * self.stored().bytes() as u64,
                Some(coded) => coded.links.iter().filter_map(|l| l.payload).map(|p| p.bytes).sum(),
            }
    }

    /// Bytes that are held for one element while it is read and decoded.
    fn held_bytes(&self) -> usize {
        match &self.coded {
            // Rows of any source, stored and as F32.
            None if self.rows.is_some() => self.dtype.bytes() + Dtype::F64.bytes(),
            None => self.dtype.bytes() + self.adapter.as_ref().map_or(0, |a| adapter::element_bytes(a)),
            Some(coded) => {
                let widest = coded.links.iter().map(|l| l.dtype.bytes()).max().unwrap_or(1);
                (if coded.links.len() > 1 { 4 } else { 2 }) * widest
            }
        }
    }
}

impl PlannedTensor {
    /// Bytes of the tensor in the output.
    pub fn bytes(&self) -> u64 {
        self.elements * self.dtype.bytes() as u64
    }

    /// Bytes of one element in all these sources together, while they are held.
    pub fn element_bytes(&self, sources: impl Iterator<Item = usize>) -> usize {
        sources.map(|s| self.places[s].held_bytes()).sum()
    }

    /// Bytes that are read of the tensor in one source.
    pub fn source_bytes(&self, source: usize) -> u64 {
        if self.taken.is_some() && source > 0 { 0 } else { self.places[source].read_bytes(self.elements) }
    }

    /// Whether the reference's bytes can be the output's: same dtype, same rows.
    pub fn can_copy(&self, reference: usize) -> bool {
        self.places[reference].rows.is_none() && self.places[reference].dtype == self.dtype
    }

    /// Whether any of these sources is a delta file.
    pub fn is_coded(&self, mut sources: impl Iterator<Item = usize>) -> bool {
        sources.any(|s| self.places[s].coded.is_some())
    }
}

impl Plan {
    /// Aligns the models and settles everything else. `models` are those of [`Recipe::references`], in order.
    pub fn new(
        recipe: Recipe,
        models: Vec<Inventory>,
        vocabulary: Option<Vocabulary>,
        options: Options,
    ) -> Result<Self> {
        recipe.check()?;
        let has_base = recipe.base.is_some();
        let id = identity(&recipe, &models, vocabulary.as_ref(), &options);
        let known = Models::new(&recipe, &models);
        let sources = sources(&recipe, &known);
        let Assembly { rows, restacked } = assemble::assemble(&recipe, &known)?;
        let labels: Vec<String> = sources.iter().map(|s| s.label.clone()).collect();
        let mut tensors = align::align(&rows, &labels, &known, recipe.dtype, vocabulary.as_ref())?;
        let floats = tensors.iter().filter(|t| t.dtype.is_float()).map(|t| t.name.as_str());
        recipe.check_names(&floats.collect())?;
        let layers = layers::build(&mut tensors, recipe.lwptv.as_ref().map(|l| &l.layer));
        let settings = depth::settle(&mut tensors, &rows, &recipe, &known)?;
        let shards = layout::lay_out(&mut tensors, options.shard_bytes);
        let reference = |r: &Row| r.cells[0].map(|c| (c.model, models[c.model].tensors[c.tensor].name.as_str()));
        let in_base = |r: &Row| r.taken != Some(Taken::CopiedFrom) && reference(r) == Some((0, r.name.as_str()));
        let fits_base = has_base && rows.iter().all(in_base) && !gathers_base(&tensors);
        let ends_in_head = |name: &str| name.ends_with("lm_head.weight");
        let stands_in = |r: &Row| ends_in_head(&r.name) && reference(r).is_some_and(|(_, name)| !ends_in_head(name));
        let head = match models[sources[0].models[0]].tied {
            false => Head::Own,
            true if rows.iter().any(stands_in) => Head::Untied,
            true => Head::Tied,
        };
        drop(rows);
        let (models, files) = flatten(models);

        let elements = layers.iter().map(|l| l.elements).sum();
        let form = recipe.method.basis.form(has_base);
        let model = describe(&recipe, &options, &settings, (tensors.len(), elements), form);
        let method = (recipe.method.start)(&model).map_err(|problem| Error::recipe(recipe.method.name, problem))?;
        let surveys = method.surveys(&settings);
        if surveys > 0 && method.tensor_bytes(1).is_none() && !recipe.has_same_tasks() {
            let problem = "these settings rank values over the whole model, but the slices list different models; list the \
                           same models in the same order in every slice";
            return Err(Error::recipe("slices", problem));
        }
        let waves = Waves::new(&tensors, method.as_ref(), options.wave_bytes.unwrap_or(options.memory_bytes / 4));
        let elements_pruned = recipe.lwptv.as_ref().is_some_and(|l| matches!(l.layer, LayerRule::Element));
        let ranking =
            if elements_pruned { Largest::resident_bytes(recipe.experts().len(), options.threads) } else { 0 };
        let resident = (method.resident_bytes(options.threads) + waves.bytes).max(ranking)
            + vocabulary.as_ref().map_or(0, |v| vocabulary_bytes(v, &tensors));
        for t in &mut tensors {
            let unit = if t.layer.is_some() { method.unit(&t.shape) } else { 1 };
            t.block_elements = budget::block_elements(unit, t.elements);
        }
        let longest_block = tensors.iter().map(|t| t.block_elements).max().unwrap_or(1);
        let lossy = sources.iter().any(|s| s.error_bound.is_some());
        let decodes = tensors.iter().any(|t| t.is_coded(0..sources.len()));
        let adapters = adapter::thread_bytes(&tensors);
        let budget_of = |delta: bool| {
            let block = |t: &PlannedTensor| {
                let coded = t.is_coded(0..sources.len());
                let unit = tile_unit(t.block_elements, t.elements, (coded, delta));
                let tile = (unit as u64).min(t.elements.max(1));
                let read = if coded { decoded_elements(tile, unit, t.elements) } else { tile };
                let written = t.dtype.bytes() * if delta { 3 } else { 1 };
                read as usize * t.element_bytes(0..sources.len()) + tile as usize * written
            };
            let smallest_job = tensors.iter().map(block).max().unwrap_or(1);
            let coders =
                CODER_BYTES * (usize::from(delta) + usize::from(decodes)) + if lossy { LOSSY_BYTES } else { 0 };
            let resident = resident + options.threads * (coders + adapters);
            Budget::new(&options, sources.len(), tensors.len(), (smallest_job, longest_block), resident)
        };
        let delta = options.delta && fits_base;
        let budget = budget_of(delta).map_err(|error| match error {
            Error::BudgetTooSmall { given, needed } if delta && budget_of(false).is_ok() => {
                Error::DeltaBudgetTooSmall { given, needed }
            }
            error => error,
        })?;
        let mut plan = Self {
            recipe,
            options,
            models,
            sources,
            has_base,
            files,
            tensors,
            layers,
            settings,
            restacked,
            head,
            fits_base,
            vocabulary,
            shards,
            surveys,
            waves,
            budget,
            warnings: Vec::new(),
            id,
        };
        plan.warnings = plan.warn();
        Ok(plan)
    }

    /// The base's index among the sources.
    pub fn base(&self) -> Option<usize> {
        self.has_base.then_some(0)
    }

    /// What the method may know.
    pub fn model(&self) -> Model<'_> {
        let size = (self.tensors.len(), self.elements());
        describe(&self.recipe, &self.options, &self.settings, size, self.form())
    }

    /// What the method sees of the experts.
    pub fn form(&self) -> Form {
        self.recipe.method.basis.form(self.has_base)
    }

    /// Whether LwPTV prunes single elements.
    pub fn prunes_elements(&self) -> bool {
        self.recipe.lwptv.as_ref().is_some_and(|l| matches!(l.layer, LayerRule::Element))
    }

    /// The sources of the experts.
    pub fn experts(&self) -> Range<usize> {
        usize::from(self.has_base)..self.sources.len()
    }

    /// Number of experts, K.
    pub fn expert_count(&self) -> usize {
        self.experts().len()
    }

    /// Whether the output's delta file is written.
    pub fn writes_delta(&self) -> bool {
        self.options.delta && self.fits_base
    }

    /// The source whose order, side files and copied tensors the output takes.
    pub fn reference(&self) -> usize {
        0
    }

    /// The model whose side files the output takes.
    pub fn reference_model(&self) -> &PlannedModel {
        &self.models[self.sources[self.reference()].models[0]]
    }

    /// What the merge will make, as the model `label` at `path`.
    pub fn result(&self, label: &str, path: &Path) -> Inventory {
        let file = |s: &Shard| FileEntry {
            name: s.name.clone(),
            path: path.join(&s.name),
            bytes: s.file_bytes(),
            header_blake3: self.id.clone(),
        };
        let entry = |t: &PlannedTensor| Entry {
            name: t.name.clone(),
            dtype: t.dtype,
            shape: t.shape.clone(),
            file: t.shard,
            offset: t.offset,
            bytes: t.bytes(),
            coded: None,
            adapter: None,
        };
        Inventory {
            adapter: None,
            label: label.to_owned(),
            path: path.to_owned(),
            files: self.shards.iter().map(file).collect(),
            tensors: self.tensors.iter().map(entry).collect(),
            error_bound: None,
            tied: self.head == Head::Tied,
        }
    }

    /// The names of all models that the merge is made from, stages looked through.
    pub fn origins(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in self.models.iter().flat_map(PlannedModel::origins) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Elements of all float tensors that are merged.
    pub fn elements(&self) -> u64 {
        self.layers.iter().map(|l| l.elements).sum()
    }

    /// Bytes of the output's weight files.
    pub fn output_bytes(&self) -> u64 {
        self.shards.iter().map(Shard::file_bytes).sum()
    }

    /// Bytes that are read of all tensors of one source.
    pub fn source_bytes(&self, source: usize) -> u64 {
        self.tensors.iter().map(|t| t.source_bytes(source)).sum()
    }

    /// Whether any source is a delta file.
    pub fn has_coded(&self) -> bool {
        self.tensors.iter().any(|t| t.is_coded(0..self.sources.len()))
    }

    /// Bytes that pass 1 reads; `None` if there is no pass 1.
    pub fn survey_bytes(&self) -> Option<u64> {
        let lwptv = self.recipe.lwptv.as_ref()?;
        let sources = match lwptv.score {
            Score::Saliency => self.experts(),
            Score::Magnitude => 0..self.sources.len(),
            Score::Random => return None,
        };
        // Elements are ranked by two digits.
        let reads = if self.prunes_elements() { 2 } else { 1 };
        let floats = self.tensors.iter().filter(|t| t.layer.is_some());
        let bytes = |t: &PlannedTensor| {
            let base = !sources.contains(&0) && t.is_coded(sources.clone());
            sources.clone().chain(base.then_some(0)).map(|s| t.source_bytes(s)).sum::<u64>()
        };
        Some(reads * floats.map(bytes).sum::<u64>())
    }

    /// Elements of a tile whose elements take `element_bytes` in all, in whole blocks of `block` elements.
    pub fn tile_elements(&self, element_bytes: usize, block: usize) -> usize {
        let fit = self.budget.job_bytes / element_bytes.max(1);
        let wanted = self.options.tile_elements.map_or(fit, |t| t.next_multiple_of(block).min(fit));
        (wanted / block).max(1) * block
    }

    fn warn(&self) -> Vec<String> {
        let mut warnings = self.recipe.notes.clone();
        let floats = || self.tensors.iter().filter(|t| t.layer.is_some());
        warnings.extend(self.vocabulary.iter().flat_map(|v| v.notes.iter().cloned()));
        if self.options.delta && self.has_base && !self.writes_delta() {
            warnings.push("no delta file is written: the output's embeddings have other rows than the base's".into());
        }
        if floats().any(|t| t.places.iter().any(|p| p.stored() == Dtype::F64)) {
            warnings.push("F64 tensors are rounded to f32 before they are merged (docs/numerics.md)".into());
        }
        let mixed = floats().filter(|t| t.places.iter().any(|p| p.stored() != t.places[0].stored())).count();
        if mixed > 0 {
            warnings.push(format!("{mixed} tensors differ in dtype between models; each is widened exactly"));
        }
        let cast = floats().filter(|t| t.dtype != t.places[0].stored()).count();
        if cast > 0 {
            let name = &self.sources[self.reference()].label;
            warnings.push(format!("{cast} tensors are written in another dtype than `{name}` has them"));
        }
        if self.form() == Form::Weights && self.has_base && self.recipe.lwptv.is_none() {
            warnings.push(format!(
                "{} does not use base_model without lwptv; it gives the order and side files",
                self.recipe.method.name
            ));
        }
        if self.options.delta && self.has_base && !self.fits_base {
            warnings.push("no delta file is written: not every tensor is the base's of the same name".into());
        }
        if self.layers.is_empty() {
            warnings.push("no float tensors are merged: everything is copied".into());
        }
        let lossy: Vec<f64> = self.sources.iter().filter_map(|s| s.error_bound).collect();
        if !lossy.is_empty() {
            let largest = lossy.iter().fold(0.0, |m: f64, e| m.max(*e));
            let count = lossy.len();
            warnings.push(format!("{count} of the inputs are lossy deltas, their values off by up to {largest:e}"));
        }
        warnings
    }
}

fn describe<'a>(
    recipe: &Recipe,
    options: &Options,
    settings: &'a [Settings],
    (tensors, elements): (usize, u64),
    form: Form,
) -> Model<'a> {
    let (experts, seed, base_expert) = (recipe.experts().len(), options.seed, recipe.base_expert());
    Model { experts, elements, settings, seed, tensors, form, base_expert }
}

/// Elements that tiles are made of, of a tensor of so many, where the method sees blocks of `block`. Where delta blocks are
/// written, both: each is coded by one thread, whole. Where they are only read, at least as many as a delta block has: what
/// a tile shares with its neighbour is decoded twice.
pub fn tile_unit(block: usize, elements: u64, (read, written): (bool, bool)) -> usize {
    // No tile is longer than its tensor.
    let whole = usize::try_from(elements).unwrap_or(usize::MAX / 2).max(1).next_multiple_of(block);
    match (read, written) {
        (_, true) => lcm(block, CODED_BLOCK_ELEMENTS).min(whole),
        (true, false) => CODED_BLOCK_ELEMENTS.next_multiple_of(block).min(whole),
        (false, false) => block,
    }
}

/// Elements that are decoded for a tile of so many, made of such units, where delta blocks are read.
pub fn decoded_elements(tile: u64, unit: usize, elements: u64) -> u64 {
    let around = if unit.is_multiple_of(CODED_BLOCK_ELEMENTS) { 0 } else { 2 * CODED_BLOCK_ELEMENTS as u64 };
    (tile + around).min(elements)
}

/// The least common multiple of a number and a power of two.
fn lcm(number: usize, power: usize) -> usize {
    let shared = number.trailing_zeros().min(power.trailing_zeros());
    (number >> shared).saturating_mul(power)
}

/// Whether the output has rows that are not the base's in their order: no delta can then be made against it.
fn gathers_base(tensors: &[PlannedTensor]) -> bool {
    tensors.iter().any(|t| t.places[0].rows.is_some())
}

/// What the vocabulary keeps in memory: row maps, rows of padding, and what reading the tokenizers took.
fn vocabulary_bytes(vocabulary: &Vocabulary, tensors: &[PlannedTensor]) -> usize {
    let maps: usize = vocabulary.maps.iter().map(|m| m.bytes()).sum();
    let rows = tensors.iter().flat_map(|t| &t.places).filter_map(|p| p.rows.as_ref());
    let padding: u64 = rows.filter(|r| r.map.tokens() < r.map.rows()).map(|r| 4 * r.width).sum();
    vocabulary.peak_bytes + maps + padding as usize
}

fn identity(recipe: &Recipe, inventories: &[Inventory], vocabulary: Option<&Vocabulary>, options: &Options) -> String {
    let files =
        |i: &Inventory| i.files.iter().map(|f| serde_json::json!([f.bytes, f.header_blake3])).collect::<Vec<_>>();
    let all = serde_json::json!({
        "semantics": SEMANTICS,
        "recipe": recipe.canonical(),
        "text": blake3::hash(recipe.text.as_bytes()).to_hex().as_str(),
        "inputs": inventories.iter().map(files).collect::<Vec<_>>(),
        "tokenizers": vocabulary.map(|v| &v.blake3),
        "shard_bytes": options.shard_bytes,
        "copy_tokenizer": options.copy_tokenizer,
        "write_card": options.write_card,
        "seed": options.seed,
        "allow_non_finite": options.allow_non_finite,
    });
    blake3::hash(all.to_string().as_bytes()).to_hex().to_string()
}

/// The base and the experts, each with all models that its tensors come from.
fn sources(recipe: &Recipe, models: &Models<'_>) -> Vec<Source> {
    let mut sources: Vec<Vec<usize>> = Vec::new();
    for slice in recipe.slices() {
        for (source, (reference, _)) in slice.origins().enumerate() {
            sources.resize_with(sources.len().max(source + 1), Vec::new);
            let model = models.index(reference);
            if !sources[source].contains(&model) {
                sources[source].push(model);
            }
        }
    }
    let source = |of: Vec<usize>| {
        let inventories = || of.iter().map(|&m| &models.inventories[m]);
        let label = inventories().map(|i| i.label.as_str()).collect::<Vec<_>>().join(", ");
        let error_bound = inventories().filter_map(|i| i.error_bound).reduce(f64::max);
        Source { label, models: of, error_bound }
    };
    sources.into_iter().map(source).collect()
}

fn flatten(inventories: Vec<Inventory>) -> (Vec<PlannedModel>, Vec<PlannedFile>) {
    let (mut models, mut files) = (Vec::new(), Vec::new());
    for Inventory { label, path, adapter, files: own, error_bound, .. } in inventories {
        let first = files.len();
        files.extend(own.into_iter().map(|f| PlannedFile { name: f.name, path: f.path, bytes: f.bytes }));
        models.push(PlannedModel { label, path, files: first..files.len(), adapter, error_bound, made_from: None });
    }
    (models, files)
}
