//! The tokens of the models: united where the recipe says how, compared where it says nothing.

use crate::error::{Error, Result};
use crate::limits::{CONFIG_MAX_BYTES, TOKENIZER_MAX_BYTES};
use crate::plan::vocabulary_rows;
use crate::recipe::{Recipe, Tokenizer, same_path};
use crate::source::{Links, check_link, folder_of as folder, read_small, refuse_url};
use crate::tensor::Inventory;
use crate::vocabulary::{Member, TokenizerFile, Vocabulary, is_vocabulary};
use std::path::Path;

const FILE: &str = "tokenizer.json";

/// Keys of configurations that hold ids of tokens.
const ID_KEYS: [&str; 3] = ["bos_token_id", "eos_token_id", "pad_token_id"];

/// What the recipe's tokenizer key says, `None` if it has none, and notes. The models are those of [`Recipe::references`].
pub fn settle(recipe: &Recipe, models: &[Inventory], links: Links) -> Result<(Option<Vocabulary>, Vec<String>)> {
    let references = recipe.references();
    let index = |member: &str| references.iter().position(|r| same_path(r, member)).expect("a model of the recipe");
    let members = recipe.members();
    let inventories: Vec<&Inventory> = match &members {
        Some(members) => members.iter().map(|m| &models[index(m)]).collect(),
        None => models.iter().collect(),
    };
    let any_rows = inventories.iter().any(|i| i.tensors.iter().any(|t| is_vocabulary(&t.name)));
    let Some(rule) = &recipe.tokenizer else {
        return Ok((None, if any_rows { compare(&inventories, links) } else { Vec::new() }));
    };
    if !any_rows && *rule == Tokenizer::of_base() {
        let note = "no embeddings are known by their names, so tokenizer_source: base changes nothing";
        return Ok((None, vec![note.to_owned()]));
    }
    let Some(labels) = members else {
        let problem = "tokens are united over models that are merged in every slice, and these slices have other models; \
                       remove the key, or unite the tokens in a merge of its own";
        return Err(Error::recipe("tokenizer", problem));
    };
    let members = inventories.iter().map(|i| member(i, inventories[0], links)).collect::<Result<Vec<_>>>()?;
    let has_base = recipe.base.is_some();
    let place = |reference: &str| labels.iter().position(|m| same_path(m, reference));
    let vocabulary = Vocabulary::unite(rule, &members, &place, has_base)?;
    let moved = moved_ids(&folder(&inventories[0].path), links, &vocabulary)?;
    Ok((Some(vocabulary), moved))
}

/// A note for each id in the first model's configuration that is another token's in the output.
fn moved_ids(folder: &Path, links: Links, vocabulary: &Vocabulary) -> Result<Vec<String>> {
    let text = read_small(folder, "config.json", links, CONFIG_MAX_BYTES)?.unwrap_or_default();
    let config: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let note = |key: &&str| {
        let id = config[*key].as_u64().filter(|id| !vocabulary.keeps_id(*id))?;
        Some(format!("config.json: {key} is {id} as in the base, but that is another token in the output"))
    };
    Ok(ID_KEYS.iter().filter_map(note).collect())
}

/// A note for each model whose tokens have other ids than the first model's.
fn compare(inventories: &[&Inventory], links: Links) -> Vec<String> {
    let text = |i: &Inventory| read_small(&folder(&i.path), FILE, links, TOKENIZER_MAX_BYTES).ok()?;
    let hash = |i: &Inventory| text(i).map(|text| blake3::hash(&text));
    let read = |i: &Inventory| TokenizerFile::parse(folder(&i.path).join(FILE), &text(i)?).ok();
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
    refuse_url(&folder.to_string_lossy(), "the tokenizer of a model whose tokens are united")?;
    let path = folder.join(FILE);
    if path.exists() {
        check_link(&folder, &path, links)?;
    }
    Ok(Member { label: inventory.label.clone(), folder, rows: vocabulary_rows(inventory)? })
}
