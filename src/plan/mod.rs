//! Recipe and inventories to a [`Plan`]: everything that can be known before a tensor byte is read.
//!
//! Pure: no file is opened here. After [`Plan::new`] no stage checks names, shapes, dtypes, settings or budgets again.

mod adapter;
mod align;
mod assemble;
mod budget;
mod depth;
mod fuse;
mod layers;
mod layout;
mod models;
mod options;
mod partition;
mod show;
mod stack;
mod tensors;
mod warnings;
mod waves;

pub use align::vocabulary_rows;
pub use assemble::{Restack, Taken};
pub use budget::{Budget, held_elements, in_flight_bytes, tile_unit};
pub use fuse::{Fused, How, PlannedStage, fuse_stages};
pub use layers::Layer;
pub use layout::Shard;
pub use models::{PlannedFile, PlannedModel, Source};
pub use options::Options;
pub use partition::{Border, Partitions};
pub use tensors::{Computed, Masks, Place, PlannedTensor, Rows};
pub use waves::Waves;

use crate::error::{Error, Result};
use crate::limits::{MEMO_BYTES, REMOTE_BYTES};
use crate::method::{Model, Settings};
use crate::recipe::{LayerRule, Recipe};
use crate::survey::{Form, Largest, Score};
use crate::tensor::{Entry, FileEntry, Inventory, is_url};
use crate::vocabulary::Vocabulary;
use assemble::{Assembly, Models, Row};
use std::ops::Range;
use std::path::Path;

/// Changes when the same recipe and inputs would give other bytes.
pub const SEMANTICS: u32 = 1;

/// One merge, ready to run.
#[derive(Clone, Debug)]
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
    /// The file of masks, if it is written.
    pub masks: Option<Shard>,
    /// Reads over the inputs for statistics of the method, at most.
    pub surveys: u64,
    /// What is surveyed and merged together.
    pub waves: Waves,
    /// Bytes that the method's statistics and the vocabulary keep.
    kept_bytes: usize,
    /// Memory and tiles.
    pub budget: Budget,
    /// The stages whose results are made while they are read.
    pub fused: Vec<Fused>,
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
        let sources = models::sources(&recipe, &known);
        let Assembly { rows, restacked } = assemble::assemble(&recipe, &known)?;
        let labels: Vec<String> = sources.iter().map(|s| s.label.clone()).collect();
        let mut tensors = align::align(&rows, &labels, &known, recipe.dtype, vocabulary.as_ref())?;
        let floats = tensors.iter().filter(|t| t.dtype.is_float()).map(|t| t.name.as_str());
        recipe.check_names(&floats.collect())?;
        let layers = layers::build(&mut tensors, recipe.lwptv.as_ref().map(|l| &l.layer));
        let settings = depth::settle(&mut tensors, &rows, &recipe, &known)?;
        let shards = layout::lay_out(&mut tensors, options.shard_bytes);
        let reference = |r: &Row<'_>| r.cells[0].map(|c| (c.model, models[c.model].tensors[c.tensor].name.as_str()));
        let in_base = |r: &Row<'_>| r.taken != Some(Taken::CopiedFrom) && reference(r) == Some((0, &*r.name));
        let fits_base = has_base && rows.iter().all(in_base) && !gathers_base(&tensors);
        let ends_in_head = |name: &str| name.ends_with("lm_head.weight");
        let stands_in =
            |r: &Row<'_>| ends_in_head(&r.name) && reference(r).is_some_and(|(_, name)| !ends_in_head(name));
        let head = match models[sources[0].models[0]].tied {
            false => Head::Own,
            true if rows.iter().any(stands_in) => Head::Untied,
            true => Head::Tied,
        };
        drop(rows);
        let (models, files) = models::flatten(models);

        let elements = layers.iter().map(|l| l.elements).sum();
        let form = recipe.method.basis.form(has_base);
        let model = describe(&recipe, &options, &settings, (tensors.len(), elements), form);
        let method = (recipe.method.start)(&model).map_err(|problem| Error::recipe(recipe.method.name, problem))?;
        let surveys = method.surveys(&settings);
        if options.masks && !method.has_masks() {
            let problem =
                format!("`{}` has no masks to write; --masks is for consensus_ta and tall_mask", recipe.method.name);
            return Err(Error::recipe("merge_method", problem));
        }
        let experts = sources[usize::from(has_base)..].iter().map(|s| s.display_name(&models)).collect::<Vec<_>>();
        let masks = options.masks.then(|| layout::lay_out_masks(&mut tensors, &experts, &id));
        if surveys > 0 && method.tensor_bytes(1).is_none() && !recipe.has_same_tasks() {
            let problem = "these settings rank values over the whole model, but the slices list different models; list the \
                           same models in the same order in every slice";
            return Err(Error::recipe("slices", problem));
        }
        let waves = Waves::new(&tensors, method.as_ref(), options.wave_bytes.unwrap_or(options.memory_bytes / 4));
        let elements_pruned = recipe.lwptv.as_ref().is_some_and(|l| matches!(l.layer, LayerRule::Element));
        let ranking =
            if elements_pruned { Largest::resident_bytes(recipe.experts().len(), options.threads) } else { 0 };
        let kept_bytes = (method.resident_bytes(options.threads) + waves.bytes).max(ranking)
            + vocabulary.as_ref().map_or(0, |v| vocabulary_bytes(v, &tensors))
            + if options.memo { MEMO_BYTES } else { 0 }
            + if files.iter().any(|f| is_url(&f.path)) { REMOTE_BYTES } else { 0 };
        for t in &mut tensors {
            let unit = if t.layer.is_some() { method.unit(&t.shape) } else { 1 };
            t.block_elements = budget::block_elements(unit, t.elements);
        }
        let budget = budget::settle(&options, &sources, &tensors, options.delta && fits_base, kept_bytes)?;
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
            masks,
            surveys,
            waves,
            kept_bytes,
            budget,
            fused: Vec::new(),
            warnings: Vec::new(),
            id,
        };
        plan.warnings = warnings::warnings(&plan);
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

    /// Whether the base's values are read where layers are merged.
    pub fn reads_base(&self) -> bool {
        let coded = self.writes_delta() || self.has_coded();
        self.has_base && (self.form() == Form::TaskVectors || self.recipe.lwptv.is_some() || coded)
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
            identity: None,
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

    /// The models that are read, also by fused stages; those of the plan itself first.
    pub fn all_models(&self) -> Vec<&PlannedModel> {
        let inner = self.fused.iter().flat_map(|f| f.plan.all_models());
        self.models.iter().chain(inner).collect()
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

    /// The sources that pass 1 reads, and how often; `None` if there is no pass 1.
    fn scored(&self) -> Option<(Range<usize>, u64)> {
        let lwptv = self.recipe.lwptv.as_ref()?;
        let sources = match lwptv.score {
            Score::Saliency => self.experts(),
            Score::Magnitude => 0..self.sources.len(),
            Score::Random => return None,
        };
        // Elements are ranked by two digits.
        Some((sources, if self.prunes_elements() { 2 } else { 1 }))
    }

    /// How often pass 1 reads its sources; 0 if there is no pass 1.
    pub fn scored_reads(&self) -> u64 {
        self.scored().map_or(0, |(_, reads)| reads)
    }

    /// Bytes of the tables that rank single elements, where LwPTV prunes these.
    pub fn ranking_bytes(&self) -> usize {
        if self.prunes_elements() { Largest::resident_bytes(self.expert_count(), 0) } else { 0 }
    }

    /// Bytes that pass 1 reads; `None` if there is no pass 1.
    pub fn survey_bytes(&self) -> Option<u64> {
        let (sources, reads) = self.scored()?;
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
