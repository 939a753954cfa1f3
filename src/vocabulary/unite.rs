//! The output's tokens, and every model's rows in their order.

use super::rows::{From, RowMap};
use super::tokenizer::{AddedToken, TokenizerFile, with_added};
use crate::error::{Error, Result};
use crate::recipe::{TokenRow, Tokenizer, Tokens};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of a table of tokens that are named in a note.
const SHOWN: usize = 5;

/// A model of the merge, as far as tokens go.
#[derive(Clone, Debug)]
pub struct Member {
    /// As the recipe names it.
    pub label: String,
    /// The folder that holds its tokenizer.
    pub folder: PathBuf,
    /// Rows of its embeddings.
    pub rows: u64,
}

/// The output's tokens.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// Rows of the output's embeddings.
    pub rows: u64,
    /// By source.
    pub maps: Vec<Arc<RowMap>>,
    /// The source whose tokenizer files the output takes.
    pub files_of: usize,
    /// Their folder.
    pub folder: PathBuf,
    /// The added tokens of the output's `tokenizer.json`, where they are not those of that source.
    added: Option<Vec<AddedToken>>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// A hash over all tokenizers.
    pub blake3: String,
    /// Bytes that reading the tokenizers took at most.
    pub peak_bytes: usize,
}

impl Vocabulary {
    /// Reads the tokenizers and settles every row. `find` tells which member a reference of the recipe names; the first
    /// is the base if `has_base`.
    pub fn unite(
        rule: &Tokenizer,
        members: &[Member],
        find: &impl Fn(&str) -> Option<usize>,
        has_base: bool,
    ) -> Result<Self> {
        let source = |model: &str| {
            let known = || members.iter().map(|m| m.label.as_str()).collect::<Vec<_>>().join(", ");
            find(model).ok_or_else(|| {
                Error::recipe("tokenizer", format!("`{model}` is not a model of this merge; they are: {}", known()))
            })
        };
        let files_of = match &rule.source {
            Tokens::Base | Tokens::Union => 0,
            Tokens::Of(model) => source(model)?,
        };
        let mut notes = Vec::new();
        let mut out = Out::new(open(&members[files_of], Some(&mut notes))?);
        let mut hasher = blake3::Hasher::new();
        if rule.source == Tokens::Union {
            out.add_all(members, files_of)?;
        }
        for rule in &rule.tokens {
            out.add(AddedToken::plain(rule.token.clone()));
        }
        out.settle_new()?;

        let mut ids = Vec::with_capacity(members.len());
        let mut overrides = Overrides::new(rule);
        let (mut tokens_bytes, mut text_bytes) = out.file.memory_bytes();
        for (index, member) in members.iter().enumerate() {
            let file = open(member, (index != files_of).then_some(&mut notes))?;
            let (tokens, text) = file.memory_bytes();
            (tokens_bytes, text_bytes) = (tokens_bytes.max(tokens), text_bytes.max(text));
            hasher.update(file.blake3.as_bytes());
            ids.push(out.ids_in(&file));
            overrides.look_up(index, &source, &file, member)?;
        }
        let table = Table { ids, overrides: overrides.by_id(&out, rule), has_base };
        let tokens = out.file.ids.values().max().map_or(0, |id| id + 1);
        let rows = rule.pad_to_multiple_of.map_or(tokens, |m| tokens.next_multiple_of(m));
        let maps: Vec<Arc<RowMap>> = (0..members.len()).map(|s| Arc::new(table.map(s, tokens, rows))).collect();
        let nobody = out.named(|id| table.default_row(id) == From::Zero && !table.overrides.contains_key(&id));
        if !nobody.is_empty() {
            notes.push(format!("no model has a row for {}; theirs are zero", listed(&nobody)));
        }
        let added = (!out.new.is_empty()).then_some(out.file.added);
        // One file's text, the tokens of two or three, and a number for each row and model.
        let peak_bytes = text_bytes + 3 * tokens_bytes + members.len() * tokens as usize * size_of::<Option<u32>>();
        let blake3 = hasher.finalize().to_hex().to_string();
        let folder = members[files_of].folder.clone();
        Ok(Self { rows, maps, files_of, folder, added, notes, blake3, peak_bytes })
    }

    /// The output's `tokenizer.json`, where it is not the one at `path`.
    pub fn tokenizer_json(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.added.as_ref().map(|added| with_added(path, added)).transpose()
    }

    /// Whether an id is that of the same token in the first model and in the output.
    pub fn keeps_id(&self, id: u64) -> bool {
        let run = self.maps[0].covering(id, id).first();
        run.is_some_and(|run| matches!(run.from, From::Source(0, row) if row == run.start))
    }

    /// Whether tokens were added.
    pub fn is_extended(&self) -> bool {
        self.added.is_some()
    }
}

fn open(member: &Member, notes: Option<&mut Vec<String>>) -> Result<TokenizerFile> {
    let mut file = TokenizerFile::read(&member.folder)?;
    let beyond = file.drop_from(member.rows);
    if let Some(notes) = notes.filter(|_| !beyond.is_empty()) {
        let rows = member.rows;
        notes.push(format!("`{}`: beyond its {rows} rows, so left out: {}", member.label, listed(&beyond)));
    }
    Ok(file)
}

fn listed(tokens: &[String]) -> String {
    let shown: Vec<String> = tokens.iter().take(SHOWN).map(|t| format!("{t:?}")).collect();
    let more = tokens.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{} {}{more}", if tokens.len() == 1 { "token" } else { "tokens" }, shown.join(", "))
}

/// The output's tokenizer under way.
struct Out {
    file: TokenizerFile,
    new: Vec<AddedToken>,
    seen: BTreeSet<String>,
}

impl Out {
    fn new(file: TokenizerFile) -> Self {
        Self { file, new: Vec::new(), seen: BTreeSet::new() }
    }

    fn add(&mut self, token: AddedToken) {
        if !self.file.ids.contains_key(&token.content) && self.seen.insert(token.content.clone()) {
            self.new.push(token);
        }
    }

    /// What only others have: their words in the order of models and ids, then their added tokens.
    fn add_all(&mut self, members: &[Member], first: usize) -> Result<()> {
        let (mut words, mut added) = (Vec::new(), Vec::new());
        for (_, member) in members.iter().enumerate().filter(|(i, _)| *i != first) {
            let file = open(member, None)?;
            let own: BTreeSet<&str> = file.added.iter().map(|t| t.content.as_str()).collect();
            let missing = |t: &&str| !own.contains(t) && !self.file.ids.contains_key(*t);
            words.extend(file.in_order().into_iter().filter(missing).map(str::to_owned));
            added.extend(file.added.iter().filter(|t| !self.file.ids.contains_key(&t.content)).cloned());
        }
        let special: BTreeSet<String> = added.iter().map(|t: &AddedToken| t.content.clone()).collect();
        words.into_iter().filter(|w| !special.contains(w)).for_each(|w| self.add(AddedToken::plain(w)));
        added.into_iter().for_each(|t| self.add(t));
        Ok(())
    }

    /// Gives the new tokens their ids.
    fn settle_new(&mut self) -> Result<()> {
        let taken: BTreeSet<u64> = self.file.ids.values().copied().collect();
        for token in &mut self.new {
            token.id = self.file.next_id();
            if taken.contains(&token.id) {
                let problem =
                    format!("cannot be given more tokens: its ids have gaps, so id {} would be given twice", token.id);
                return Err(Error::malformed(&self.file.path, problem));
            }
            self.file.ids.insert(token.content.clone(), token.id);
            self.file.added.push(token.clone());
        }
        Ok(())
    }

    /// The row of each of the output's tokens in a model.
    fn ids_in(&self, file: &TokenizerFile) -> Vec<Option<u32>> {
        let count = self.file.ids.values().max().map_or(0, |id| id + 1) as usize;
        let mut ids = vec![None; count];
        for (token, id) in &self.file.ids {
            ids[*id as usize] = file.ids.get(token).map(|row| *row as u32);
        }
        ids
    }

    /// The tokens whose id fulfils a condition.
    fn named(&self, condition: impl Fn(usize) -> bool) -> Vec<String> {
        self.file.ids.iter().filter(|(_, id)| condition(**id as usize)).map(|(t, _)| t.clone()).collect()
    }
}

/// What the recipe says of single tokens, as far as it is looked up.
struct Overrides<'a> {
    rule: &'a Tokenizer,
    rows: Vec<From>,
}

impl<'a> Overrides<'a> {
    fn new(rule: &'a Tokenizer) -> Self {
        Self { rule, rows: vec![From::Zero; rule.tokens.len()] }
    }

    /// Settles the rules that take rows of source `index`.
    fn look_up(
        &mut self,
        index: usize,
        source: &impl Fn(&str) -> Result<usize>,
        file: &TokenizerFile,
        member: &Member,
    ) -> Result<()> {
        for (rule, found) in self.rule.tokens.iter().zip(&mut self.rows) {
            let place = || format!("tokenizer.tokens.{}", rule.token);
            let (model, row) = match &rule.row {
                TokenRow::Zero => continue,
                TokenRow::Same(model) => (model, file.ids.get(&rule.token).ok_or(&rule.token)),
                TokenRow::Other(model, token) => (model, file.ids.get(token).ok_or(token)),
                TokenRow::Id(model, id) => (model, Ok(id)),
            };
            if source(model)? != index {
                continue;
            }
            let row = *row.map_err(|t| Error::recipe(place(), format!("`{model}` has no token {t:?}")))?;
            if row >= member.rows {
                let problem = format!("`{model}` has no row {row}; its embeddings have {}", member.rows);
                return Err(Error::recipe(place(), problem));
            }
            *found = From::Source(index, row);
        }
        Ok(())
    }

    fn by_id(self, out: &Out, rule: &Tokenizer) -> BTreeMap<usize, (From, bool)> {
        let all = rule.tokens.iter().zip(self.rows);
        all.map(|(rule, row)| (out.file.ids[&rule.token] as usize, (row, rule.force))).collect()
    }
}

/// All that decides rows.
struct Table {
    /// By source: the row of each of the output's tokens.
    ids: Vec<Vec<Option<u32>>>,
    /// By id: the row that is taken instead, and whether always.
    overrides: BTreeMap<usize, (From, bool)>,
    has_base: bool,
}

impl Table {
    fn row(&self, source: usize, id: usize) -> From {
        let own = self.ids[source][id].map(|row| From::Source(source, u64::from(row)));
        match self.overrides.get(&id) {
            Some((row, true)) => row.clone(),
            Some((row, false)) => own.unwrap_or_else(|| row.clone()),
            None => own.unwrap_or_else(|| self.default_row(id)),
        }
    }

    /// What a model without the token takes: the base's row, else the mean over those that have one.
    fn default_row(&self, id: usize) -> From {
        let having: Vec<(usize, u64)> =
            self.ids.iter().enumerate().filter_map(|(s, ids)| ids[id].map(|row| (s, u64::from(row)))).collect();
        match having.as_slice() {
            [] => From::Zero,
            [(source, row)] => From::Source(*source, *row),
            [(0, row), ..] if self.has_base => From::Source(0, *row),
            _ => From::Mean(having),
        }
    }

    fn map(&self, source: usize, tokens: u64, rows: u64) -> RowMap {
        let mut map = RowMap::default();
        (0..tokens).for_each(|id| map.push(self.row(source, id as usize)));
        (tokens..rows).for_each(|_| map.push(From::Padding));
        map.runs.shrink_to_fit();
        map
    }
}
