//! Hugging Face ids, resolved in the local cache, read-only and offline.
//!
//! The layout: `models--ORG--NAME/refs/REVISION` holds a commit, `snapshots/COMMIT` holds the files as links into
//! `blobs`. See <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.

use super::checkpoint::read_whole;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// A file that names a commit may be this long at most.
const COMMIT_MAX_BYTES: u64 = 4096;

/// Whether `text` has the form of an id: `name` or `org/name`, with an optional `@revision`.
pub fn looks_like_id(text: &str) -> bool {
    let (id, _) = split_revision(text);
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    id.split('/').count() <= 2 && id.split('/').all(plain)
}

/// The folder of the snapshot that `text` names in the cache at `cache`.
pub fn resolve(text: &str, cache: Option<&Path>) -> Result<PathBuf> {
    let (id, revision) = split_revision(text);
    let cache = cache.ok_or_else(|| missing(text, "no such file or folder, and no Hugging Face cache was found"))?;
    let repo = cache.join(format!("models--{}", id.replace('/', "--")));
    if !repo.is_dir() {
        let problem = format!("no such file or folder, and `{id}` is not in the cache at {}", cache.display());
        return Err(missing(text, &format!("{problem}; download it first, taskvec does not use the network")));
    }
    let revision = revision.unwrap_or("main");
    if revision.contains("..") || revision.starts_with('/') {
        return Err(missing(text, "the revision is not a branch, tag or commit"));
    }
    let named = read_whole(&repo.join("refs").join(revision), COMMIT_MAX_BYTES).ok();
    let named = named.and_then(|bytes| String::from_utf8(bytes).ok());
    let commit = named.as_deref().map_or(revision, str::trim);
    let snapshot = repo.join("snapshots").join(commit);
    if commit.is_empty() || commit.contains(['/', '\\']) || !snapshot.is_dir() {
        return Err(missing(text, &format!("revision `{revision}` is not in the cache at {}", repo.display())));
    }
    Ok(snapshot)
}

/// The cache's folder: `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
pub fn cache_folder() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("HF_HUB_CACHE")
        .or_else(|| var("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| var("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| var("HOME").map(|home| home.join(".cache/huggingface/hub")))
}

fn split_revision(text: &str) -> (&str, Option<&str>) {
    match text.split_once('@') {
        Some((id, revision)) => (id, Some(revision)),
        None => (text, None),
    }
}

fn missing(text: &str, problem: &str) -> Error {
    Error::InputMissing { path: PathBuf::from(text), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        for id in ["gpt2", "org/name", "org/name@v1.1", "meta-llama/Llama-3.1-8B"] {
            assert!(looks_like_id(id), "{id}");
        }
        for path in ["./a", "/a", "a/b/c", "../a", "a b", "x/../y", ""] {
            assert!(!looks_like_id(path), "{path}");
        }
    }

    #[test]
    fn an_id_resolves_through_refs_and_a_commit_directly() {
        let cache = tempfile::tempdir().unwrap();
        let repo = cache.path().join("models--org--m");
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        std::fs::create_dir_all(repo.join("snapshots/abc")).unwrap();
        std::fs::write(repo.join("refs/main"), "abc\n").unwrap();
        let found = |text| resolve(text, Some(cache.path()));
        assert_eq!(found("org/m").unwrap(), repo.join("snapshots/abc"));
        assert_eq!(found("org/m@abc").unwrap(), repo.join("snapshots/abc"));
        for text in ["org/m@v2", "org/other", "org/m@../../x"] {
            assert_eq!(found(text).unwrap_err().exit_code(), 66, "{text}");
        }
    }
}
