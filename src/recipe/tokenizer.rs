//! `tokenizer_source`, `tokenizer` and `chat_template`: which tokens the output has, and where their rows come from.

use super::node::{Node, Value};
use super::parse::reference;
use super::suggest::unknown;
use crate::error::Result;

/// Which tokens the output has.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokenizer {
    /// Whose tokens, by id.
    pub source: Tokens,
    /// What is said of single tokens.
    pub tokens: Vec<TokenRule>,
    /// What the number of rows is a multiple of.
    pub pad_to_multiple_of: Option<u64>,
}

/// Whose tokens the output has.
#[derive(Clone, Debug, PartialEq)]
pub enum Tokens {
    /// The base's; the first model's where there is no base.
    Base,
    /// The base's, then those that only others have.
    Union,
    /// Those of one model of the merge.
    Of(String),
}

/// What is said of one token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRule {
    /// The token.
    pub token: String,
    /// What a model that lacks it takes.
    pub row: TokenRow,
    /// Whether models that have it take that too.
    pub force: bool,
}

/// A row for a token.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenRow {
    /// Zeros.
    Zero,
    /// That of the same token in this model.
    Same(String),
    /// That of an id in this model.
    Id(String, u64),
    /// That of another token in this model.
    Other(String, String),
}

/// The chat template of the output.
#[derive(Clone, Debug, PartialEq)]
pub enum ChatTemplate {
    /// The one that most models have.
    Auto,
    /// One of [`CHAT_FORMATS`].
    Named(&'static str),
    /// Jinja.
    Text(String),
}

/// The chat formats that have a name.
pub const CHAT_FORMATS: &[&str] = &["alpaca", "chatml", "exaone", "llama3", "mistral"];

impl Tokenizer {
    /// From the two keys, of which a recipe has one at most.
    pub(super) fn parse(short: Option<&Node<'_>>, long: Option<&Node<'_>>) -> Result<Option<Self>> {
        match (short, long) {
            (None, None) => Ok(None),
            (Some(_), Some(node)) => Err(node.error("tokenizer_source is given too; write one of the two")),
            (Some(node), None) => {
                Ok(Some(Self { source: tokens_of(node)?, tokens: Vec::new(), pad_to_multiple_of: None }))
            }
            (None, Some(node)) => Self::block(node).map(Some),
        }
    }

    fn block(node: &Node<'_>) -> Result<Self> {
        let mut found = Self { source: Tokens::Union, tokens: Vec::new(), pad_to_multiple_of: None };
        for (key, child) in node.map()? {
            match key {
                "source" | "tokens" | "pad_to_multiple_of" if *child.value == Value::Null => {}
                "source" => found.source = tokens_of(&child)?,
                "tokens" => {
                    let rule = |(token, node): (&str, Node<'_>)| TokenRule::parse(token, &node);
                    found.tokens = child.map()?.into_iter().map(rule).collect::<Result<_>>()?;
                }
                "pad_to_multiple_of" => {
                    found.pad_to_multiple_of = Some(whole(&child, 1)?);
                }
                _ => return Err(child.error(unknown("key", key, &["source", "tokens", "pad_to_multiple_of"]))),
            }
        }
        Ok(found)
    }

    /// What `tokenizer_source: base` says.
    pub fn of_base() -> Self {
        Self { source: Tokens::Base, tokens: Vec::new(), pad_to_multiple_of: None }
    }

    /// Everything that decides the output.
    pub fn canonical(&self) -> serde_json::Value {
        let source = match &self.source {
            Tokens::Base => "base",
            Tokens::Union => "union",
            Tokens::Of(model) => model,
        };
        let rule = |rule: &TokenRule| {
            let row = match &rule.row {
                TokenRow::Zero => serde_json::json!({"kind": "zero"}),
                TokenRow::Same(model) => serde_json::json!(model),
                TokenRow::Id(model, id) => serde_json::json!({"model": model, "token_id": id}),
                TokenRow::Other(model, token) => serde_json::json!({"model": model, "token": token}),
            };
            serde_json::json!({"token": rule.token, "source": row, "force": rule.force})
        };
        let tokens: Vec<_> = self.tokens.iter().map(rule).collect();
        serde_json::json!({"source": source, "tokens": tokens, "pad_to_multiple_of": self.pad_to_multiple_of})
    }
}

impl TokenRule {
    fn parse(token: &str, node: &Node<'_>) -> Result<Self> {
        let (mut row, mut force) = (None, false);
        for (key, child) in node.map()? {
            match key {
                "source" => row = Some(TokenRow::parse(&child)?),
                "force" => force = child.flag()?,
                _ => return Err(child.error(unknown("key", key, &["source", "force"]))),
            }
        }
        let row = row.ok_or_else(|| node.error("`source` is missing: a model, or {kind: zero}"))?;
        Ok(Self { token: token.to_owned(), row, force })
    }
}

impl TokenRow {
    fn parse(node: &Node<'_>) -> Result<Self> {
        let fields = match node.value {
            Value::Map(_) => node.map()?,
            _ => return reference(node).map(Self::Same),
        };
        let field = |key: &str| fields.iter().find(|(k, node)| *k == key && *node.value != Value::Null);
        let Some((_, kind)) = field("kind") else { return reference(node).map(Self::Same) };
        let known: &[&str] = match kind.text()? {
            "zero" => &["kind"],
            "model_token" => &["kind", "model", "token", "token_id"],
            other => return Err(kind.error(unknown("kind", other, &["zero", "model_token"]))),
        };
        if let Some((key, child)) = fields.iter().find(|(key, _)| !known.contains(key)) {
            return Err(child.error(unknown("key", key, known)));
        }
        if kind.text()? == "zero" {
            return Ok(Self::Zero);
        }
        let (_, model) = field("model").ok_or_else(|| node.error("`model` is missing"))?;
        let model = reference(model)?;
        match (field("token"), field("token_id")) {
            (Some((_, token)), None) => Ok(Self::Other(model, token.text()?.to_owned())),
            (None, Some((_, id))) => Ok(Self::Id(model, whole(id, 0)?)),
            _ => Err(node.error("expected either `token` or `token_id`")),
        }
    }
}

impl ChatTemplate {
    /// As the recipe has it.
    pub fn as_written(&self) -> &str {
        match self {
            Self::Auto => "auto",
            Self::Named(name) => name,
            Self::Text(text) => text,
        }
    }

    pub(super) fn parse(node: &Node<'_>) -> Result<Self> {
        let text = node.text()?;
        let format = CHAT_FORMATS.iter().find(|name| **name == text);
        match format {
            Some(name) => Ok(Self::Named(name)),
            None if text == "auto" => Ok(Self::Auto),
            None if text.contains("{{") || text.contains("{%") => Ok(Self::Text(text.to_owned())),
            None => {
                let known: Vec<&str> = ["auto"].iter().chain(CHAT_FORMATS).copied().collect();
                let problem = unknown("chat template", text, &known);
                Err(node.error(format!("{problem}; or write the template itself, in Jinja")))
            }
        }
    }
}

fn tokens_of(node: &Node<'_>) -> Result<Tokens> {
    match node.value {
        Value::Text(text) if text == "base" => Ok(Tokens::Base),
        Value::Text(text) if text == "union" => Ok(Tokens::Union),
        _ => reference(node).map(Tokens::Of),
    }
}

fn whole(node: &Node<'_>, least: u64) -> Result<u64> {
    let number = node.number()?;
    if number.fract() != 0.0 || number < least as f64 || number > u32::MAX as f64 {
        return Err(node.error(format!("expected a whole number, at least {least}, got {number}")));
    }
    Ok(number as u64)
}
