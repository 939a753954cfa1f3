//! What to merge and how: mergekit's YAML and our `lwptv` block, parsed into a [`Recipe`] that cannot be wrong.

mod batch;
mod changes;
mod coefficients;
mod flags;
mod lwptv;
mod node;
mod parse;
mod setting;
mod stages;
mod structure;
mod suggest;
mod tokenizer;

pub use batch::{Batch, BatchJob, RecipeText};
pub use changes::swept;
pub use coefficients::Coefficients;
pub use flags::Flags;
pub use lwptv::{LayerRule, Lwptv};
pub use parse::same_path;
pub use setting::Setting;
pub use stages::{Stage, Stages};
pub use structure::{Base, Module, Slice};
pub use suggest::unknown;
pub use tokenizer::{CHAT_FORMATS, ChatTemplate, TokenRow, TokenRule, Tokenizer, Tokens};

use crate::error::{Error, Result};
use crate::method::{Entry, Kind, Scope, Settings};
use crate::survey::Score;
use crate::tensor::Dtype;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Whether each reader has a fault, for tests/fuzz to find.
const PLANTED: bool = cfg!(feature = "planted-faults");

/// A parsed recipe.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The text it was parsed from.
    pub text: String,
    /// The merge method.
    pub method: &'static Entry,
    /// `base_model`: theta_0.
    pub base: Option<String>,
    /// What the output is made of; one at least, each of one slice at least, all with the same number of experts.
    pub modules: Vec<Module>,
    /// The top-level parameters.
    pub parameters: Parameters,
    /// Parts of names of tensors that are not merged, but copied from the base (the first model where there is none).
    pub exclude: Vec<String>,
    /// Tensors that are not merged, but copied from a model.
    pub copy_from: Vec<CopyFrom>,
    /// A file whose coefficients become the experts' weights.
    pub coefficients: Option<String>,
    /// The pruning stage.
    pub lwptv: Option<Lwptv>,
    /// Which tokens the output has; `None`: the models are taken to have the same.
    pub tokenizer: Option<Tokenizer>,
    /// The chat template of the output; `None`: the one of the tokenizer's files.
    pub chat_template: Option<ChatTemplate>,
    /// The output dtype asked for (`out_dtype`, else `dtype`).
    pub dtype: Option<Dtype>,
    /// What was accepted without effect.
    pub notes: Vec<String>,
}

/// One model to merge.
#[derive(Clone, Debug)]
pub struct Expert {
    /// Where it stands in the recipe, for messages.
    pub place: String,
    /// The model as written.
    pub model: String,
    /// Which of its layers; `None`: the whole model.
    pub layers: Option<Range<u32>>,
    /// Its own parameters.
    pub parameters: Parameters,
}

/// Tensors that are copied from a model.
#[derive(Clone, Debug)]
pub struct CopyFrom {
    /// Where it stands in the recipe, for messages.
    pub place: String,
    /// A part of their names.
    pub filter: String,
    /// The model as written.
    pub model: String,
}

/// A tensor of the output, as far as settings depend on it.
#[derive(Clone, Debug)]
pub struct Spot<'a> {
    /// Its module.
    pub module: &'a Module,
    /// Its slice.
    pub slice: &'a Slice,
    /// Its name in the output: what filters of global parameters test.
    pub name: &'a str,
    /// Its names in the experts: what filters of model parameters test.
    pub inputs: &'a [&'a str],
    /// Its depth, 0 to 1.
    pub depth: f64,
}

/// Parameters as written, by name.
pub type Parameters = BTreeMap<&'static str, Setting>;

impl Recipe {
    /// Parses YAML.
    pub fn parse(text: &str) -> Result<Self> {
        parse::parse(text)
    }

    /// Replaces or adds the pruning ratio.
    pub fn set_eta(&mut self, eta: crate::mask::Eta) {
        match &mut self.lwptv {
            Some(lwptv) => lwptv.eta = eta,
            None => self.lwptv = Some(Lwptv::new(eta)),
        }
    }

    /// The experts of the first slice.
    pub fn experts(&self) -> &[Expert] {
        &self.modules[0].slices[0].experts
    }

    /// All slices.
    pub fn slices(&self) -> impl Iterator<Item = &Slice> {
        self.modules.iter().flat_map(|m| &m.slices)
    }

    /// The experts of all slices.
    pub fn experts_mut(&mut self) -> impl Iterator<Item = &mut Expert> {
        self.modules.iter_mut().flat_map(|m| &mut m.slices).flat_map(|s| &mut s.experts)
    }

    /// The distinct models as written: the base first, if there is one.
    pub fn references(&self) -> Vec<&str> {
        let all = self.base.as_deref().into_iter();
        let all = all.chain(self.slices().flat_map(|s| s.origins().map(|(model, _)| model)));
        let mut distinct: Vec<&str> = Vec::new();
        for model in all.chain(self.copy_from.iter().map(|c| c.model.as_str())) {
            if !distinct.iter().any(|d| same_path(d, model)) {
                distinct.push(model);
            }
        }
        distinct
    }

    /// Whether the models are merged whole.
    pub fn is_whole(&self) -> bool {
        self.modules.len() == 1 && self.modules[0].name.is_none() && !self.slices().any(Slice::has_layers)
    }

    /// Whether every slice has the same models in the same order, so that "a task" means one model.
    pub fn has_same_tasks(&self) -> bool {
        let first = self.experts();
        self.slices().all(|s| s.experts.iter().zip(first).all(|(a, b)| same_path(&a.model, &b.model)))
    }

    /// Takes the weights of experts from a file.
    pub fn set_coefficients(&mut self, coefficients: &Coefficients) -> Result<()> {
        let levels = self.modules.iter().flat_map(|m| m.slices.iter().map(|s| &s.parameters).chain([&m.parameters]));
        let own = self.slices().flat_map(|s| s.experts.iter().map(|e| &e.parameters));
        if own.chain(levels).chain([&self.parameters]).any(|p| p.contains_key("weight")) {
            return Err(Error::recipe("coefficients", "the recipe has weights too; remove one of the two"));
        }
        if !self.method.parameters.iter().any(|p| p.name == "weight" && p.scope == Scope::Model) {
            let problem = format!("`{}` has no weights that they could become", self.method.name);
            return Err(Error::recipe("coefficients", problem));
        }
        if !self.is_whole() {
            return Err(Error::recipe("coefficients", "they are for the `models` form; give weights in the recipe"));
        }
        for (k, expert) in self.experts_mut().enumerate() {
            expert.parameters.insert("weight", coefficients.of_expert(k));
        }
        Ok(())
    }

    /// Fails if a table of coefficients names a tensor that is not among `names`.
    pub fn check_names(&self, names: &BTreeSet<&str>) -> Result<()> {
        let tables = self.experts().iter().flat_map(|e| e.parameters.values());
        let named = tables.filter_map(|s| if let Setting::Table(by_name, _) = s { Some(by_name.keys()) } else { None });
        match named.flatten().find(|n| !names.contains(n.as_str())) {
            Some(name) => {
                Err(Error::recipe("coefficients", unknown("tensor", name, &names.iter().copied().collect::<Vec<_>>())))
            }
            None => Ok(()),
        }
    }

    /// The models of the places of the merge, the base first if there is one; `None` if slices have other models there.
    pub fn members(&self) -> Option<Vec<&str>> {
        let same = |a: &[&str], b: &[&str]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_path(a, b));
        let mut slices = self.slices();
        let first: Vec<&str> = slices.next()?.origins().map(|(model, _)| model).collect();
        slices.all(|s| same(&s.origins().map(|(model, _)| model).collect::<Vec<_>>(), &first)).then_some(first)
    }

    /// The expert that is the base model itself.
    pub fn base_expert(&self) -> Option<usize> {
        let slice = &self.modules[0].slices[0];
        let base = slice.base.as_ref()?;
        slice.experts.iter().position(|e| same_path(&base.model, &e.model))
    }

    /// Checks what depends on several parts, after overrides; called when the plan is made.
    pub fn check(&self) -> Result<()> {
        let (least, most) = self.method.experts;
        let experts = self.experts().len();
        if !(least..=most).contains(&experts) {
            let wanted = match (least, most) {
                (a, b) if a == b => format!("{a}"),
                (a, usize::MAX) => format!("at least {a}"),
                (a, b) => format!("{a} to {b}"),
            };
            let problem = format!("{} merges {wanted} models besides the base, got {experts}", self.method.name);
            return Err(Error::recipe("models", problem));
        }
        let Some(lwptv) = &self.lwptv else { return Ok(()) };
        if self.base.is_none() {
            let problem = "pruned layers take the base's values; add base_model";
            return Err(Error::recipe("base_model", format!("missing, but lwptv is on: {problem}")));
        }
        if !self.has_same_tasks() {
            let problem = "the slices list different models, so no task has a score over all layers; list the same models in \
                           the same order in every slice, or drop lwptv";
            return Err(Error::recipe("slices", problem));
        }
        if self.experts().len() < 2 {
            let problem =
                "with one expert every score of eq. 5 is 0, so every layer would be pruned; add experts, or drop lwptv";
            return Err(Error::recipe("models", format!("lwptv needs at least two experts: {problem}")));
        }
        if lwptv.score == Score::Random && matches!(lwptv.layer, LayerRule::Element) {
            let problem = "single elements have no random score; use merge_method random_mask";
            return Err(Error::recipe("lwptv.score", problem));
        }
        if lwptv.scale_by_eta && !self.method.parameters.iter().any(|p| p.name == "weight") {
            let problem = format!("`{}` has no weights to scale", self.method.name);
            return Err(Error::recipe("lwptv.scale_by_eta", problem));
        }
        Ok(())
    }

    /// The values of all parameters for a tensor called `name` in all models, at depth `t` of the first slice.
    pub fn settings(&self, name: &str, t: f64) -> Result<Settings> {
        let module = &self.modules[0];
        let inputs = vec![name; self.experts().len()];
        self.settings_at(&Spot { module, slice: &module.slices[0], name, inputs: &inputs, depth: t })
    }

    /// The values of all parameters for a tensor: of the first level that has one, from the model up to the recipe.
    pub fn settings_at(&self, spot: &Spot<'_>) -> Result<Settings> {
        let t = spot.depth;
        let mut values = Vec::with_capacity(self.method.parameters.len());
        for p in self.method.parameters {
            let shared = |name: &str| {
                let levels = [&spot.slice.parameters, &spot.module.parameters, &self.parameters];
                levels.iter().find_map(|level| level.get(p.name)?.at(name, t)).or(p.default)
            };
            let missing = |place: &str| {
                let (tensor, method) = (spot.name, self.method.name);
                let problem = format!("`{}` has no value for tensor `{tensor}`, and {method} requires one", p.name);
                Error::recipe(place, problem)
            };
            let of_expert = |(e, name): (&Expert, &&str)| {
                let own = e.parameters.get(p.name).and_then(|s| s.at(name, t));
                own.or_else(|| shared(name)).ok_or_else(|| missing(&format!("{} ({})", e.place, e.model)))
            };
            values.push(match p.scope {
                Scope::Global => vec![shared(spot.name).ok_or_else(|| missing("parameters"))?],
                Scope::Model => spot.slice.experts.iter().zip(spot.inputs).map(of_expert).collect::<Result<_>>()?,
            });
        }
        let mut settings = Settings::new(self.method.parameters, values, t);
        if let Some(lwptv) = self.lwptv.as_ref().filter(|l| l.scale_by_eta) {
            settings.multiply("weight", lwptv.eta.get());
        }
        Ok(settings)
    }

    /// Everything that decides the output, without paths: for the plan's identity.
    pub fn canonical(&self) -> serde_json::Value {
        let kind = |name: &str| self.method.parameters.iter().find(|p| p.name == name).map_or(Kind::NUMBER, |p| p.kind);
        let parameters = |p: &Parameters| {
            let all = p.iter().map(|(name, s)| ((*name).to_owned(), s.canonical(kind(name))));
            all.collect::<serde_json::Map<_, _>>()
        };
        let expert = |e: &Expert| {
            let mut own = parameters(&e.parameters);
            if let Some(layers) = &e.layers {
                own.insert("layer_range".into(), serde_json::json!([layers.start, layers.end]));
            }
            own
        };
        let experts = |s: &Slice| s.experts.iter().map(expert).collect::<Vec<_>>();
        let slice = |s: &Slice| serde_json::json!({"experts": experts(s), "parameters": parameters(&s.parameters)});
        let module = |m: &Module| {
            let slices: Vec<_> = m.slices.iter().map(slice).collect();
            serde_json::json!({"name": m.name, "slices": slices, "parameters": parameters(&m.parameters)})
        };
        let mut all = serde_json::json!({
            "merge_method": self.method.name,
            "parameters": parameters(&self.parameters),
            "lwptv": self.lwptv.as_ref().map(Lwptv::canonical),
            "tokenizer": self.tokenizer.as_ref().map(Tokenizer::canonical),
            "chat_template": self.chat_template.as_ref().map(ChatTemplate::as_written),
            "dtype": self.dtype.map(Dtype::header_name),
        });
        if self.is_whole() && self.modules[0].slices.len() == 1 {
            all["experts"] = serde_json::json!(experts(&self.modules[0].slices[0]));
        } else {
            all["modules"] = self.modules.iter().map(module).collect();
        }
        if !self.exclude.is_empty() {
            all["exclude"] = serde_json::json!(self.exclude);
        }
        if !self.copy_from.is_empty() {
            all["copy_from"] = self.copy_from.iter().map(|c| c.filter.clone()).collect();
        }
        all
    }
}
