//! The staging folder: nothing has a final name until everything is whole and synced.
//!
//! `OUT` is built as `.OUT.part-ID` beside it, under a lock on `.OUT.lock`. Publishing renames the folder; `--overwrite`
//! exchanges the two names in one step and then removes the old folder. Dropping an unpublished staging removes it, unless
//! it is kept to be resumed.

use crate::disk;
use crate::error::{Error, Result};
use crate::tensor::Bytes;
use rustix::fs::statvfs;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What to do with an output that is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse it, unless it is an empty folder.
    Refuse,
    /// Replace it once the new one is whole.
    Replace,
    /// The same, and keep so many old ones: `OUT.1` is the newest.
    Rotate(usize),
}

/// What to do with what an interrupted run has left of the same output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// Remove it.
    Discard,
    /// Go on with it.
    Resume,
}

/// An output being built.
#[derive(Debug)]
pub struct Staging {
    out: PathBuf,
    folder: PathBuf,
    lock_path: PathBuf,
    _lock: File,
    existing: Existing,
    stays: bool,
}

impl Staging {
    /// Locks `out` and makes an empty folder to build it in, or takes the one that a run of the same plan has left. `id`
    /// names the plan. What runs of other plans have left is removed.
    ///
    /// An output that is, or holds, one of `inputs` is refused whatever `existing` says.
    pub fn begin(out: &Path, id: &str, existing: Existing, unfinished: Unfinished, inputs: &[&Path]) -> Result<Self> {
        let out = absolute(out)?;
        refuse_inputs(&out, inputs)?;
        let parent =
            out.parent().ok_or_else(|| Error::Usage(format!("{}: not a folder to write to", out.display())))?;
        disk::make_folders(parent)?;
        refuse_existing(&out, existing)?;
        let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lock_path = parent.join(format!(".{name}.lock"));
        let lock = lock(&lock_path, &out)?;
        // Again, now that nobody else can publish.
        refuse_existing(&out, existing)?;
        let folder = parent.join(format!(".{name}.part-{}", &id[..16]));
        let mut staging = Self { out, folder, lock_path, _lock: lock, existing, stays: true };
        staging.remove_leftovers(&format!(".{name}.part-"), unfinished)?;
        if !staging.folder.is_dir() {
            disk::make_folder(&staging.folder)?;
        }
        staging.stays = false;
        Ok(staging)
    }

    /// Removes what earlier runs have left, but for what is to be resumed.
    fn remove_leftovers(&self, prefix: &str, unfinished: Unfinished) -> Result<()> {
        let parent = self.folder.parent().unwrap_or(Path::new("/"));
        for entry in fs::read_dir(parent).map_err(Error::io(parent, "list the folder"))? {
            let path = entry.map_err(Error::io(parent, "list the folder"))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let id = name.strip_prefix(prefix).filter(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()));
            if id.is_some() && (path != self.folder || unfinished == Unfinished::Discard) {
                disk::remove_folder(&path)?;
            }
        }
        Ok(())
    }

    /// Makes the folder empty again, for a journal and what it tells of.
    pub fn clear(&self) -> Result<()> {
        disk::remove_folder(&self.folder)?;
        disk::make_folder(&self.folder)?;
        self.sync_parent()
    }

    /// Where the run's journal is.
    pub fn journal(&self) -> PathBuf {
        self.folder.join(".journal")
    }

    /// Leaves the folder for a later run to go on with.
    pub fn keep(mut self) {
        self.stays = true;
    }

    /// Bytes on the disk that earlier runs on `out` have left; they will be taken up or removed.
    pub fn left_bytes(out: &Path) -> u64 {
        let Ok(out) = absolute(out) else { return 0 };
        let prefix = format!(".{}.part-", out.file_name().unwrap_or_default().to_string_lossy());
        let folder = |e: &fs::DirEntry| e.file_name().to_string_lossy().starts_with(&prefix);
        let list = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
        let left = list(out.parent().unwrap_or(Path::new("/"))).filter(folder);
        let bytes = |e: fs::DirEntry| e.metadata().map_or(0, |m| m.blocks() * 512);
        left.flat_map(|e| list(&e.path())).map(bytes).sum()
    }

    /// Fails if `out` is there and may not be replaced.
    pub fn check(out: &Path, existing: Existing) -> Result<()> {
        refuse_existing(&absolute(out)?, existing)
    }

    /// The folder being filled.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The final name.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Writes and syncs a whole small file; `name` may hold folders.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        if let Some(parent) = path.parent() {
            disk::make_folders(parent)?;
        }
        // What a resumed run had written before it was stopped.
        disk::remove_file(&path)?;
        let file = disk::File::create(&path)?;
        file.write_at(content, 0)?;
        file.sync()
    }

    /// Syncs the folders and gives the output its name.
    pub fn publish(mut self) -> Result<()> {
        sync_folders(&self.folder)?;
        let occupied = self.out.exists() && !is_empty_folder(&self.out);
        if occupied && self.existing != Existing::Refuse {
            let first_old = self.make_room()?;
            disk::exchange(&self.folder, &self.out)?;
            self.stays = true;
            self.sync_parent()?;
            match first_old {
                None => disk::remove_folder(&self.folder),
                Some(name) => disk::rename(&self.folder, &name).and_then(|()| self.sync_parent()),
            }
        } else {
            disk::rename(&self.folder, &self.out)?;
            self.stays = true;
            self.sync_parent()
        }
    }

    /// Moves old outputs on by one, and names the place that this leaves for the present one; `None` if it is not kept.
    fn make_room(&self) -> Result<Option<PathBuf>> {
        let Existing::Rotate(keep @ 1..) = self.existing else { return Ok(None) };
        let old = |number: usize| {
            let name = self.out.file_name().unwrap_or_default().to_string_lossy();
            self.out.with_file_name(format!("{name}.{number}"))
        };
        let kept = (1..=keep).take_while(|&n| old(n).exists()).count();
        if let Some(n) = (1..=kept).find(|&n| !looks_like_output(&old(n))) {
            let problem = "stands where an old output is to be kept, and is none".to_owned();
            return Err(Error::OutputExists { path: old(n), problem });
        }
        if kept == keep {
            disk::remove_folder(&old(keep))?;
        }
        for number in (1..=kept.min(keep - 1)).rev() {
            disk::rename(&old(number), &old(number + 1))?;
        }
        Ok(Some(old(1)))
    }

    fn sync_parent(&self) -> Result<()> {
        disk::sync_folder(self.out.parent().unwrap_or(Path::new("/")))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.stays {
            let _ = disk::remove_folder(&self.folder);
        }
        let _ = disk::remove_file(&self.lock_path);
    }
}

/// A lock on an output, free again when dropped.
#[derive(Debug)]
pub struct Locked {
    path: PathBuf,
    _file: File,
}

impl Locked {
    /// Takes the lock file at `path`, which guards `out`. Waits for nobody.
    pub fn take(path: &Path, out: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), _file: lock(path, out)? })
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = disk::remove_file(&self.path);
    }
}

/// Makes `path` with this content: whole and synced, or not at all.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    stream_whole(path, |out| out(content)).map(drop)
}

/// Makes `path` of what `write` puts out: whole and synced, or not at all. Returns its length.
pub fn stream_whole(path: &Path, write: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>) -> Result<u64> {
    let parent = path.parent().unwrap_or(Path::new("."));
    disk::make_folders(parent)?;
    let part = parent.join(format!(".{}.part", path.file_name().unwrap_or_default().to_string_lossy()));
    disk::remove_file(&part)?;
    let file = disk::File::create(&part)?;
    let mut bytes = 0;
    let written = write(&mut |piece| {
        file.write_at(piece, bytes)?;
        bytes += piece.len() as u64;
        Ok(())
    });
    let named = written.and_then(|()| {
        file.sync()?;
        disk::rename(&part, path)?;
        disk::sync_folder(parent)
    });
    if named.is_err() {
        let _ = disk::remove_file(&part);
    }
    named.map(|()| bytes)
}

/// A single file being built beside its final name.
#[derive(Debug)]
pub struct StagedFile {
    out: PathBuf,
    part: PathBuf,
    journal: PathBuf,
    lock_path: PathBuf,
    _lock: File,
    existing: Existing,
    stays: bool,
}

impl StagedFile {
    /// Locks `out`. An output that is one of `inputs` is refused whatever `existing` says.
    pub fn begin(out: &Path, existing: Existing, unfinished: Unfinished, inputs: &[&Path]) -> Result<Self> {
        let out = absolute(out)?;
        refuse_inputs(&out, inputs)?;
        let parent = out.parent().ok_or_else(|| Error::Usage(format!("{}: not a file to write", out.display())))?;
        disk::make_folders(parent)?;
        let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
        refuse_existing_file(&out, existing)?;
        let lock_path = parent.join(format!(".{name}.lock"));
        let lock = lock(&lock_path, &out)?;
        // Again, now that nobody else can publish.
        refuse_existing_file(&out, existing)?;
        let (part, journal) = (parent.join(format!(".{name}.part")), parent.join(format!(".{name}.journal")));
        let mut staged = Self { out, part, journal, lock_path, _lock: lock, existing, stays: true };
        if unfinished == Unfinished::Discard {
            staged.clear()?;
        }
        staged.stays = false;
        Ok(staged)
    }

    /// Removes what an earlier run has left.
    pub fn clear(&self) -> Result<()> {
        disk::remove_file(&self.part)?;
        disk::remove_file(&self.journal)
    }

    /// Where the run's journal is, if it has one of its own.
    pub fn journal(&self) -> &Path {
        &self.journal
    }

    /// Leaves the file for a later run to go on with.
    pub fn keep(mut self) {
        self.stays = true;
    }

    /// The file to fill; it does not exist, unless it is to be resumed.
    pub fn part(&self) -> &Path {
        &self.part
    }

    /// Gives the file, which must be synced, its name.
    pub fn publish(mut self) -> Result<()> {
        let free = match self.existing {
            Existing::Refuse => disk::rename_to_free(&self.part, &self.out)?,
            Existing::Replace | Existing::Rotate(_) => disk::rename(&self.part, &self.out).map(|()| true)?,
        };
        if !free {
            let problem = "another program made it meanwhile; choose another name, or pass --overwrite".to_owned();
            return Err(Error::OutputExists { path: self.out.clone(), problem });
        }
        self.stays = true;
        disk::sync_folder(self.out.parent().unwrap_or(Path::new("/")))
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.stays {
            let _ = self.clear();
        }
        let _ = disk::remove_file(&self.lock_path);
    }
}

fn refuse_existing_file(out: &Path, existing: Existing) -> Result<()> {
    let problem = match existing {
        _ if out.is_dir() => "is a folder; name a file to write",
        Existing::Refuse if out.exists() => "the output exists; choose another name, or pass --overwrite to replace it",
        _ => return Ok(()),
    };
    Err(Error::OutputExists { path: out.to_owned(), problem: problem.to_owned() })
}

/// Bytes free for this user on the file system that would hold `path`.
pub fn free_bytes(path: &Path) -> Result<Bytes> {
    let path = absolute(path)?;
    let there = path.ancestors().find(|a| a.exists()).unwrap_or(Path::new("/"));
    let stat = statvfs(there).map_err(|e| Error::io(there, "read the free space")(e.into()))?;
    Ok(Bytes(stat.f_bavail * stat.f_frsize))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    // Resolves `.` and links in what exists, so that the lock is the same however the output is named.
    if let Ok(real) = fs::canonicalize(path) {
        return Ok(real);
    }
    let path = std::path::absolute(path).map_err(Error::io(path, "resolve"))?;
    match (path.parent().map(fs::canonicalize), path.file_name()) {
        (Some(Ok(parent)), Some(name)) => Ok(parent.join(name)),
        _ => Ok(path),
    }
}

fn refuse_inputs(out: &Path, inputs: &[&Path]) -> Result<()> {
    let inside = |input: &&&Path| fs::canonicalize(input).is_ok_and(|real| real.starts_with(out));
    match inputs.iter().find(inside) {
        Some(input) if out.exists() => {
            let problem = format!("is or holds an input of this merge ({}); choose another output", input.display());
            Err(Error::OutputExists { path: out.to_owned(), problem })
        }
        _ => Ok(()),
    }
}

fn refuse_existing(out: &Path, existing: Existing) -> Result<()> {
    if out.is_symlink() && !out.exists() {
        let problem = "is a link to nothing; remove it or choose another output".to_owned();
        return Err(Error::OutputExists { path: out.to_owned(), problem });
    }
    if !out.exists() || is_empty_folder(out) {
        return Ok(());
    }
    let problem = match existing {
        Existing::Refuse if out.is_dir() => {
            "the output folder is not empty; choose another, or pass --overwrite to replace it"
        }
        Existing::Refuse => "the output exists and is not a folder; choose another name",
        Existing::Replace | Existing::Rotate(_) if !out.is_dir() => {
            "is not a folder, so --overwrite does not replace it"
        }
        Existing::Replace | Existing::Rotate(_) if !looks_like_output(out) => {
            "--overwrite replaces model folders only, and this one holds neither taskvec.json nor config.json nor weights"
        }
        Existing::Replace | Existing::Rotate(_) => return Ok(()),
    };
    Err(Error::OutputExists { path: out.to_owned(), problem: problem.to_owned() })
}

/// `--overwrite` must not remove somebody's home folder.
fn looks_like_output(out: &Path) -> bool {
    let weights = |e: &fs::DirEntry| e.path().extension().is_some_and(|x| x == "safetensors");
    out.join("taskvec.json").exists()
        || out.join("config.json").exists()
        || fs::read_dir(out).is_ok_and(|list| list.flatten().any(|e| weights(&e)))
}

fn is_empty_folder(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn lock(path: &Path, out: &Path) -> Result<File> {
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(Error::io(path, "open the lock"))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { path: out.to_owned() }),
            Err(TryLockError::Error(e)) => return Err(Error::io(path, "lock")(e)),
            // A run that ended removed this lock file between our open and our lock: take the new one.
            Ok(()) if !is_at(&file, path) => {}
            Ok(()) => return Ok(file),
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn sync_folders(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "list the folder"))? {
        let path = entry.map_err(Error::io(folder, "list the folder"))?.path();
        if path.is_dir() {
            sync_folders(&path)?;
        }
    }
    disk::sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123";

    #[test]
    fn an_output_appears_whole_and_only_when_published() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("a/out");
        let staging = Staging::begin(&out, ID, Existing::Refuse, Unfinished::Discard, &[]).unwrap();
        staging.write("sub/x.txt", b"x").unwrap();
        assert!(!out.exists());
        staging.publish().unwrap();
        assert_eq!(fs::read(out.join("sub/x.txt")).unwrap(), b"x");
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn an_unpublished_output_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        drop(Staging::begin(&root.path().join("out"), ID, Existing::Refuse, Unfinished::Discard, &[]).unwrap());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_existing_output_is_refused_or_replaced_as_a_whole() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("config.json"), "old").unwrap();
        assert_eq!(Staging::begin(&out, ID, Existing::Refuse, Unfinished::Discard, &[]).unwrap_err().exit_code(), 73);
        let staging = Staging::begin(&out, ID, Existing::Replace, Unfinished::Discard, &[]).unwrap();
        staging.write("new", b"").unwrap();
        assert!(out.join("config.json").exists());
        staging.publish().unwrap();
        assert!(out.join("new").exists() && !out.join("config.json").exists());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn overwrite_does_not_replace_a_folder_that_holds_no_model() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("home");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("letters.txt"), "dear").unwrap();
        assert_eq!(Staging::begin(&out, ID, Existing::Replace, Unfinished::Discard, &[]).unwrap_err().exit_code(), 73);
        assert!(out.join("letters.txt").exists());
    }

    #[test]
    fn a_second_run_on_the_same_output_is_told_so() {
        let root = tempfile::tempdir().unwrap();
        let _first = Staging::begin(&root.path().join("out"), ID, Existing::Refuse, Unfinished::Discard, &[]).unwrap();
        let second =
            Staging::begin(&root.path().join("./out"), ID, Existing::Refuse, Unfinished::Discard, &[]).unwrap_err();
        assert_eq!(second.exit_code(), 75);
    }
}
