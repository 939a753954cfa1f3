//! The tokens of the models: united where the recipe says how, compared where it says nothing.

use crate::error::Result;
use crate::plan::vocabulary_rows;
use crate::recipe::Recipe;
use crate::source::{Links, check_link};
use crate::tensor::Inventory;
use crate::vocabulary::{Member, TokenizerFile, Vocabulary};
use std::path::{Path, PathBuf};

const FILE: &str = "tokenizer.json";

/// What the recipe's tokenizer key says; `None` if it has none. The first inventory is the base, if there is one.
pub fn settle(recipe: &Recipe, inventories: &[&Inventory], links: Links) -> Result<Option<Vocabulary>> {
    let Some(rule) = &recipe.tokenizer else { return Ok(None) };
    let members = inventories.iter().map(|i| member(i, inventories[0], links)).collect::<Result<Vec<_>>>()?;
    Vocabulary::unite(rule, &members, &|reference| recipe.source(reference), recipe.base.is_some()).map(Some)
}

/// A note for each model whose tokens have other ids than the first model's, where the recipe has no tokenizer key.
pub fn compare(recipe: &Recipe, inventories: &[&Inventory], links: Links) -> Vec<String> {
    if recipe.tokenizer.is_some() || inventories.iter().all(|i| vocabulary_rows(i).is_err()) {
        return Vec::new();
    }
    let path = |i: &Inventory| {
        let folder = folder(&i.path);
        check_link(&folder, &folder.join(FILE), links).ok().map(|()| folder.join(FILE))
    };
    let hash = |i: &Inventory| {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(std::fs::File::open(path(i)?).ok()?).ok().map(|h| h.finalize())
    };
    let read = |i: &Inventory| path(i).and_then(|_| TokenizerFile::read(&folder(&i.path)).ok());
    let Some(expected) = hash(inventories[0]) else { return Vec::new() };
    let unlike = |i: &&&Inventory| hash(i).is_some_and(|h| h != expected);
    let others: Vec<&&Inventory> = inventories[1..].iter().filter(unlike).collect();
    let Some(first) = (!others.is_empty()).then(|| read(inventories[0])).flatten() else { return Vec::new() };
    let mut notes = Vec::new();
    for other in others {
        let Some(file) = read(other) else { continue };
        let differ = |(token, id): &(&String, &u64)| file.ids.get(*token).is_some_and(|other| other != *id);
        let count = first.ids.iter().filter(differ).count();
        if count > 0 {
            notes.push(format!(
                "`{}` gives {count} tokens other ids than `{}` does; rows are merged by id. Write \
                 `tokenizer_source: base` or `union` to merge them by token",
                other.label, inventories[0].label
            ));
        }
    }
    notes
}

/// A delta file has the tokens of its base.
fn member(inventory: &Inventory, base: &Inventory, links: Links) -> Result<Member> {
    let coded = inventory.tensors.iter().any(|t| t.coded.is_some());
    let folder = folder(if coded { &base.path } else { &inventory.path });
    let path = folder.join(FILE);
    if path.exists() {
        check_link(&folder, &path, links)?;
    }
    Ok(Member { label: inventory.label.clone(), folder, rows: vocabulary_rows(inventory)? })
}

/// The folder of a model that may be named by one of its files.
fn folder(path: &Path) -> PathBuf {
    if path.is_dir() { path.to_owned() } else { path.parent().unwrap_or(path).to_owned() }
}
