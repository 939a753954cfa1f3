//! A merged model's own account of itself, read back.

use crate::error::{Error, Result};
use crate::limits::{INDEX_MAX_BYTES, RECIPE_MAX_BYTES};
use crate::report::Record;
use std::path::{Path, PathBuf};

const REPORT: &str = "taskvec.json";
const RECIPE: &str = "mergekit_config.yml";

/// What an output says of itself.
#[derive(Debug)]
pub struct Account {
    /// The output's folder.
    pub folder: PathBuf,
    /// Its report.
    pub record: Record,
    /// The recipe's text, if its hash is the one in the report.
    pub recipe: Option<String>,
}

/// Reads the report of the output `path`, a folder or its `taskvec.json`. No weight is read.
pub fn read_account(path: &Path) -> Result<Account> {
    let file = if path.is_dir() { path.join(REPORT) } else { path.to_owned() };
    let missing = |problem: &str| Error::InputMissing { path: file.clone(), problem: problem.to_owned() };
    let meta = std::fs::metadata(&file).map_err(|_| {
        missing("no such file; expected the folder of a model that taskvec merged, or its taskvec.json")
    })?;
    if !meta.is_file() {
        return Err(missing("is not a regular file"));
    }
    if meta.len() > INDEX_MAX_BYTES {
        return Err(Error::malformed(&file, format!("is too long for a report: {} bytes", meta.len())));
    }
    let json = std::fs::read(&file).map_err(Error::io(&file, "read"))?;
    let record = Record::parse(&json).map_err(|problem| Error::malformed(&file, problem))?;
    let folder = file.parent().unwrap_or(Path::new("")).to_owned();
    let recipe = read_recipe(&folder.join(RECIPE), &record.recipe_blake3);
    Ok(Account { folder, record, recipe })
}

fn read_recipe(path: &Path, blake3: &str) -> Option<String> {
    std::fs::metadata(path).ok().filter(|m| m.is_file() && m.len() <= RECIPE_MAX_BYTES)?;
    let text = std::fs::read(path).ok()?;
    (blake3::hash(&text).to_hex().as_str() == blake3).then(|| String::from_utf8(text).ok())?
}
