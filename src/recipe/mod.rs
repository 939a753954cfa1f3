//! What to merge and how: mergekit's YAML and our `lwptv` block, parsed into a [`Recipe`] that cannot be wrong.

mod coefficients;
mod flags;
mod lwptv;
mod node;
mod parse;
mod setting;
mod suggest;
mod tokenizer;

pub use coefficients::Coefficients;
pub use flags::Flags;
pub use lwptv::{LayerRule, Lwptv};
pub use setting::Setting;
pub use suggest::unknown;
pub use tokenizer::{CHAT_FORMATS, ChatTemplate, TokenRow, TokenRule, Tokenizer, Tokens};

use crate::error::{Error, Result};
use crate::method::{Entry, Kind, Scope, Settings};
use crate::survey::Score;
use crate::tensor::Dtype;
use std::collections::{BTreeMap, BTreeSet};

/// A parsed recipe.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The text it was parsed from.
    pub text: String,
    /// The merge method.
    pub method: &'static Entry,
    /// `base_model`: theta_0.
    pub base: Option<String>,
    /// The experts, in recipe order.
    pub experts: Vec<Expert>,
    /// The top-level parameters.
    pub parameters: Parameters,
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
    /// Its place in the recipe's list.
    pub index: usize,
    /// The model as written.
    pub model: String,
    /// Its own parameters.
    pub parameters: Parameters,
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

    /// Takes the weights of experts from a file.
    pub fn set_coefficients(&mut self, coefficients: &Coefficients) -> Result<()> {
        let given = self.experts.iter().any(|e| e.parameters.contains_key("weight"));
        if given || self.parameters.contains_key("weight") {
            return Err(Error::recipe("coefficients", "the recipe has weights too; remove one of the two"));
        }
        if !self.method.parameters.iter().any(|p| p.name == "weight" && p.scope == Scope::Model) {
            let problem = format!("`{}` has no weights that they could become", self.method.name);
            return Err(Error::recipe("coefficients", problem));
        }
        for (k, expert) in self.experts.iter_mut().enumerate() {
            expert.parameters.insert("weight", coefficients.of_expert(k));
        }
        Ok(())
    }

    /// Fails if a table of coefficients names a tensor that is not among `names`.
    pub fn check_names(&self, names: &BTreeSet<&str>) -> Result<()> {
        let tables = self.experts.iter().flat_map(|e| e.parameters.values());
        let named = tables.filter_map(|s| if let Setting::Table(by_name, _) = s { Some(by_name.keys()) } else { None });
        match named.flatten().find(|n| !names.contains(n.as_str())) {
            Some(name) => {
                Err(Error::recipe("coefficients", unknown("tensor", name, &names.iter().copied().collect::<Vec<_>>())))
            }
            None => Ok(()),
        }
    }

    /// The place of a model among the base, if there is one, and the experts.
    pub fn source(&self, reference: &str) -> Option<usize> {
        let models = self.base.iter().chain(self.experts.iter().map(|e| &e.model));
        models.into_iter().position(|m| parse::same_path(m, reference))
    }

    /// The expert that is the base model itself.
    pub fn base_expert(&self) -> Option<usize> {
        let base = self.base.as_ref()?;
        self.experts.iter().position(|e| parse::same_path(base, &e.model))
    }

    /// Checks what depends on several parts, after overrides; called when the plan is made.
    pub fn check(&self) -> Result<()> {
        let (least, most) = self.method.experts;
        let experts = self.experts.len();
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
        if self.experts.len() < 2 {
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

    /// The values of all parameters for tensor `name` at depth `t`.
    pub fn settings(&self, name: &str, t: f64) -> Result<Settings> {
        let mut values = Vec::with_capacity(self.method.parameters.len());
        for p in self.method.parameters {
            let top = self.parameters.get(p.name).and_then(|s| s.at(name, t));
            let missing = |place: String| {
                let problem =
                    format!("`{}` has no value for tensor `{name}`, and {} requires one", p.name, self.method.name);
                Error::recipe(place, problem)
            };
            let of_expert = |e: &Expert| {
                let own = e.parameters.get(p.name).and_then(|s| s.at(name, t));
                own.or(top).or(p.default).ok_or_else(|| missing(format!("models[{}] ({})", e.index, e.model)))
            };
            values.push(match p.scope {
                Scope::Global => vec![top.or(p.default).ok_or_else(|| missing("parameters".into()))?],
                Scope::Model => self.experts.iter().map(of_expert).collect::<Result<_>>()?,
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
        serde_json::json!({
            "merge_method": self.method.name,
            "experts": self.experts.iter().map(|e| parameters(&e.parameters)).collect::<Vec<_>>(),
            "parameters": parameters(&self.parameters),
            "lwptv": self.lwptv.as_ref().map(Lwptv::canonical),
            "tokenizer": self.tokenizer.as_ref().map(Tokenizer::canonical),
            "chat_template": self.chat_template.as_ref().map(ChatTemplate::as_written),
            "dtype": self.dtype.map(Dtype::header_name),
        })
    }
}
