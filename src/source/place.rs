//! Where a model is: a folder or file of this machine, or a URL.

use super::checkpoint::check_link;
use super::remote;
use super::{Links, checkpoint};
use crate::error::{Error, Result};
use crate::tensor::is_url;
use std::path::{Path, PathBuf};

/// The place that `reference` names; where it is a path, relative to `folder`.
pub fn joined(folder: &Path, reference: &str) -> PathBuf {
    if is_url(Path::new(reference)) { reference.trim_end_matches('/').into() } else { folder.join(reference) }
}

/// Whether something is at `path`. Folders under a URL are known by their files only.
pub fn exists(path: &Path) -> Result<bool> {
    if is_url(path) { Ok(remote::sizes(&[path.to_owned()])?[0].is_some()) } else { Ok(path.exists()) }
}

/// Whether `path` names a folder. Under a URL that is what has no name of a model's file.
pub fn is_folder(path: &Path) -> bool {
    const FILES: [&str; 7] = ["safetensors", "json", "tvd", "bin", "pt", "pth", "ckpt"];
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if is_url(path) { !FILES.contains(&extension) } else { path.is_dir() }
}

/// The folder of a model that may be named by one of its files.
pub fn folder_of(path: &Path) -> PathBuf {
    if is_folder(path) { path.to_owned() } else { path.parent().unwrap_or(path).to_owned() }
}

/// Fails where a URL is named and only files can be used.
pub fn refuse_url(reference: &str, what: &str) -> Result<()> {
    if !is_url(Path::new(reference)) {
        return Ok(());
    }
    remote::check(Path::new(reference))?;
    let problem = format!("{what} is read from disks only; fetch it first, and name the copy");
    Err(Error::InputMissing { path: reference.into(), problem })
}

/// The names among `names` that the model's folder at the URL `root` holds, and their lengths.
pub fn listed<'a>(root: &Path, names: &[&'a str]) -> Result<Vec<(&'a str, u64)>> {
    let paths: Vec<PathBuf> = names.iter().map(|n| root.join(n)).collect();
    let sizes = remote::sizes(&paths)?;
    Ok(names.iter().zip(sizes).filter_map(|(&name, size)| Some((name, size?))).collect())
}

/// The bytes of a file of at most `most` bytes in a model's folder; `None` if there is none.
pub fn read_small(root: &Path, name: &str, links: Links, most: u64) -> Result<Option<Vec<u8>>> {
    let path = root.join(name);
    if is_url(&path) {
        return Ok(remote::small(&path, most)?.map(|(bytes, _)| bytes));
    }
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    check_link(root, &path, links)?;
    checkpoint::read_whole(&path, most).map(Some)
}

/// Opens those of `paths` that are URLs, side by side: one after another would take a round trip for each.
pub fn open_urls<'a>(paths: impl Iterator<Item = &'a Path>) -> Result<()> {
    let urls: Vec<PathBuf> = paths.filter(|p| is_url(p)).map(Path::to_owned).collect();
    if urls.is_empty() { Ok(()) } else { remote::open_all(&urls) }
}

/// A URL without what may be secret: user, password, query.
pub fn without_secrets(url: &Path) -> String {
    let url = url.to_string_lossy();
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    path.map_or_else(|| format!("{scheme}://{host}"), |path| format!("{scheme}://{host}/{path}"))
}

/// Fails if `reference` (a model, or a model with an adapter) names a URL that cannot be read.
pub fn check_urls(reference: &str) -> Result<()> {
    let mut urls = reference.split('+').map(Path::new).filter(|part| is_url(part));
    urls.try_for_each(remote::check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_in_a_url_is_not_shown() {
        for (url, shown) in [
            ("https://user:pass@host/a/b?X-Signature=s#f", "https://host/a/b"),
            ("https://host?sig=s", "https://host"),
            ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
        ] {
            assert_eq!(without_secrets(Path::new(url)), shown);
        }
    }
}
