//! `tokenizer.json`: the tokens and their ids, read without the rest; and the same file with tokens added.

use crate::error::{Error, Result};
use crate::limits::TOKENIZER_MAX_BYTES;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// What a token takes in memory while its file is read: its text twice, with the tree around it.
const TOKEN_BYTES: usize = 200;

/// The tokens of one model.
#[derive(Debug)]
pub struct TokenizerFile {
    /// Where it was read.
    pub path: PathBuf,
    /// Ids of all tokens, of the model's vocabulary and added.
    pub ids: BTreeMap<String, u64>,
    /// The added tokens in their order.
    pub added: Vec<AddedToken>,
    /// Number of tokens in the model's vocabulary.
    words: u64,
    /// Its length.
    pub bytes: u64,
    /// Hash of its bytes.
    pub blake3: blake3::Hash,
}

/// A token that is matched in the text before the model sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "as the file has them")]
pub struct AddedToken {
    pub id: u64,
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default = "yes")]
    pub normalized: bool,
    #[serde(default)]
    pub special: bool,
}

fn yes() -> bool {
    true
}

impl AddedToken {
    /// A token of which nothing is known but its text; the id is settled later.
    pub fn plain(content: String) -> Self {
        let (single_word, lstrip, rstrip, special) = (false, false, false, false);
        Self { id: 0, content, single_word, lstrip, rstrip, normalized: true, special }
    }
}

#[derive(Deserialize)]
struct Text {
    #[serde(default)]
    added_tokens: Option<Vec<AddedToken>>,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    vocab: Words,
}

/// `{token: id}`, or `[[token, score]]` in the order of ids.
struct Words(Vec<(String, u64)>);

impl TokenizerFile {
    /// Reads the file in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let text = read_capped(&path)?;
        Self::parse(path, &text)
    }

    /// Parses `text`, the file at `path`.
    pub fn parse(path: PathBuf, text: &[u8]) -> Result<Self> {
        let parsed: Text =
            serde_json::from_slice(text).map_err(|e| Error::malformed(&path, format!("not a tokenizer: {e}")))?;
        let added = parsed.added_tokens.unwrap_or_default();
        let words = parsed.model.vocab.0;
        let count = words.len() as u64;
        let mut ids = BTreeMap::new();
        for (token, id) in words {
            match ids.entry(token) {
                Entry::Vacant(entry) => entry.insert(id),
                Entry::Occupied(entry) => {
                    let problem = format!("token {:?} stands twice in the vocabulary", entry.key());
                    return Err(Error::malformed(&path, problem));
                }
            };
        }
        let mut highest = None;
        for token in &added {
            let expected = ids.get(&token.content).copied().unwrap_or(next_id(count, highest));
            if token.id != expected {
                let problem = format!(
                    "added token {:?} has id {}, but the tokenizers library gives it {expected}",
                    token.content, token.id
                );
                return Err(Error::malformed(
                    &path,
                    format!("{problem}; load the tokenizer with transformers and save it again"),
                ));
            }
            ids.insert(token.content.clone(), token.id);
            highest = highest.max(Some(token.id));
        }
        let file = Self { ids, added, words: count, bytes: text.len() as u64, blake3: blake3::hash(text), path };
        file.refuse_shared_ids()?;
        Ok(file)
    }

    /// Bytes that it takes in memory, and reading it took besides.
    pub fn memory_bytes(&self) -> (usize, usize) {
        (self.ids.len() * TOKEN_BYTES, self.bytes as usize)
    }

    fn refuse_shared_ids(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        match self.ids.iter().find(|(_, id)| !seen.insert(**id)) {
            Some((token, id)) if !cfg!(feature = "planted-faults") => {
                Err(Error::malformed(&self.path, format!("two tokens have id {id}; one of them is {token:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Drops the tokens that have no row, and tells which.
    pub fn drop_from(&mut self, rows: u64) -> Vec<String> {
        let beyond: Vec<String> = self.ids.iter().filter(|(_, id)| **id >= rows).map(|(t, _)| t.clone()).collect();
        self.ids.retain(|_, id| *id < rows);
        self.added.retain(|t| t.id < rows);
        beyond
    }

    /// The id that the next added token gets.
    pub fn next_id(&self) -> u64 {
        next_id(self.words, self.added.iter().map(|t| t.id).max())
    }

    /// The tokens by id.
    pub fn in_order(&self) -> Vec<&str> {
        let mut all: Vec<(u64, &str)> = self.ids.iter().map(|(token, id)| (*id, token.as_str())).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, token)| token).collect()
    }
}

/// As the tokenizers library counts on: behind the words and behind the highest id added so far.
fn next_id(words: u64, highest: Option<u64>) -> u64 {
    match highest {
        Some(highest) if highest >= words => highest + 1,
        _ => words,
    }
}

/// The text of the file at `path` with these added tokens in place of its own.
pub fn with_added(path: &Path, added: &[AddedToken]) -> Result<Vec<u8>> {
    let text = read_capped(path)?;
    let mut json: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&text).map_err(|e| Error::malformed(path, format!("not a tokenizer: {e}")))?;
    json.insert("added_tokens".into(), serde_json::json!(added));
    let mut text = serde_json::to_vec_pretty(&json).map_err(|e| Error::malformed(path, e.to_string()))?;
    text.push(b'\n');
    Ok(text)
}

fn read_capped(path: &Path) -> Result<Vec<u8>> {
    let missing = |problem: String| Error::InputMissing { path: path.to_owned(), problem };
    let meta = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => missing(
            "no such file, but the recipe's tokenizer key needs the tokens of every model. Load the tokenizer with \
             transformers and save it there (AutoTokenizer.from_pretrained(...).save_pretrained(...)), or remove the key"
                .into(),
        ),
        _ => missing(format!("cannot be read: {e}")),
    })?;
    if !meta.is_file() {
        return Err(missing("is not a regular file".into()));
    }
    if meta.len() > TOKENIZER_MAX_BYTES {
        let problem = format!("{} bytes long; expected at most {TOKENIZER_MAX_BYTES}", meta.len());
        return Err(Error::malformed(path, problem));
    }
    std::fs::read(path).map_err(Error::io(path, "read"))
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        d.deserialize_any(WordsVisitor).map(Self)
    }
}

struct WordsVisitor;

impl<'de> Visitor<'de> for WordsVisitor {
    type Value = Vec<(String, u64)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a vocabulary: tokens with ids, or pairs of token and score")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut words = Vec::new();
        while let Some((token, id)) = map.next_entry::<String, u32>()? {
            words.push((token, u64::from(id)));
        }
        Ok(words)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Self::Value, A::Error> {
        let mut words = Vec::new();
        while let Some((token, _score)) = seq.next_element::<(String, f64)>()? {
            let id = u32::try_from(words.len()).map_err(A::Error::custom)?;
            words.push((token, u64::from(id)));
        }
        Ok(words)
    }
}
