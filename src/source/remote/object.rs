//! Objects: what they are when they are opened, and that they stay so.

use super::client::{Location, client};
use super::failure::Failure;
use super::fetch::{self, Pending};
use crate::error::{Error, Result};
use crate::limits::REMOTE_FRONT_BYTES;
use crate::tensor::Identity;
use bytes::Bytes;
use object_store::{GetOptions, ObjectMeta};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// An object as it was when it was opened.
#[derive(Clone, Debug)]
pub struct Object(Arc<Inner>);

#[derive(Debug)]
pub struct Inner {
    pub location: Location,
    pub meta: ObjectMeta,
    /// Its first bytes, until the header has been read.
    front: Mutex<Option<Bytes>>,
}

/// The objects as they were opened last, so that who opens one to read tensors gets the one whose header was read.
static OPENED: Mutex<BTreeMap<PathBuf, Object>> = Mutex::new(BTreeMap::new());

/// Opens all of these and keeps them for [`opened`].
pub fn open_all(paths: &[PathBuf]) -> Result<()> {
    let client = client()?;
    let all = paths.iter().map(|p| client.locate(p)).collect::<Result<Vec<_>>>()?;
    let opened = client.runtime.block_on(fetch::side_by_side(all, open_with_front));
    for (path, opened) in paths.iter().zip(opened) {
        let object = opened.map_err(|failure| failure.error(path))?;
        lock(&OPENED).insert(path.clone(), object);
    }
    Ok(())
}

/// The object as it was opened last.
pub fn opened(path: &Path) -> Result<Object> {
    if let Some(object) = lock(&OPENED).get(path) {
        return Ok(object.clone());
    }
    Object::open(path)
}

/// What the server calls this state of the object, if it has been opened.
pub fn tag(path: &Path) -> Option<String> {
    lock(&OPENED).get(path).map(|object| tag_of(&object.0.meta))
}

/// Fails if one of these is no longer what it was.
pub fn check_unchanged(objects: &[&Object]) -> Result<()> {
    if objects.is_empty() {
        return Ok(());
    }
    let all: Vec<Object> = objects.iter().map(|o| (*o).clone()).collect();
    let results = client()?.runtime.block_on(fetch::side_by_side(all, |object| async move {
        let now = head(&object.0.location).await?;
        object.0.expect(&now)
    }));
    objects.iter().zip(results).try_for_each(|(object, r)| r.map_err(|f| f.error(&object.0.location.url)))
}

/// The lengths of the objects that are there.
pub fn sizes(paths: &[PathBuf]) -> Result<Vec<Option<u64>>> {
    let client = client()?;
    let all = paths.iter().map(|p| client.locate(p)).collect::<Result<Vec<_>>>()?;
    let found = client.runtime.block_on(fetch::side_by_side(all, |location| async move { head(&location).await }));
    let one = |(path, meta): (&PathBuf, std::result::Result<ObjectMeta, Failure>)| match meta {
        Ok(meta) => Ok(Some(meta.size)),
        Err(Failure::Absent) => Ok(None),
        Err(failure) => Err(failure.error(path)),
    };
    paths.iter().zip(found).map(one).collect()
}

/// A small object, of at most `most` bytes, and what it was; `None` if there is none.
pub fn small(path: &Path, most: u64) -> Result<Option<(Vec<u8>, Identity)>> {
    let client = client()?;
    let location = client.locate(path)?;
    let object = match client.runtime.block_on(open(location)) {
        Ok(object) => object,
        Err(Failure::Absent) => return Ok(None),
        Err(failure) => return Err(failure.error(path)),
    };
    let bytes = object.0.meta.size;
    if bytes > most {
        return Err(Error::malformed(path, format!("{bytes} bytes long; expected at most {most}")));
    }
    let mut content = vec![0; bytes as usize];
    object.fill(0, &mut content)?;
    Ok(Some((content, object.identity())))
}

impl Object {
    /// Asks the server for the object at the URL `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let client = client()?;
        let object = client.runtime.block_on(open(client.locate(path)?)).map_err(|failure| failure.error(path))?;
        lock(&OPENED).insert(path.to_owned(), object.clone());
        Ok(object)
    }

    /// What tells it from a changed one. Its numbers stand for what the server calls this state of it.
    pub fn identity(&self) -> Identity {
        let Inner { location, meta, .. } = &*self.0;
        let mut hasher = blake3::Hasher::new();
        hasher.update(location.url.as_os_str().as_encoded_bytes()).update(&[0]).update(tag_of(meta).as_bytes());
        let hash = hasher.finalize();
        let (words, _) = hash.as_bytes().as_chunks::<8>();
        let number = |i: usize| i64::from_le_bytes(words[i]);
        Identity {
            device: u64::MAX,
            inode: number(0).cast_unsigned(),
            bytes: meta.size,
            modified: (number(1), number(2)),
            changed: (number(3), 0),
        }
    }

    /// Fills `out` with what stands at `offset`.
    pub fn fill(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset + out.len() as u64;
        if let Some(front) = lock(&self.0.front).as_ref()
            && end <= front.len() as u64
        {
            out.copy_from_slice(&front[offset as usize..end as usize]);
            return Ok(());
        }
        out.copy_from_slice(&self.start(offset, out.len()).wait(0..out.len())?);
        Ok(())
    }

    /// Asks for a range.
    pub fn start(&self, offset: u64, bytes: usize) -> Pending {
        Pending::start(self.0.clone(), offset, bytes)
    }

    /// Gives the memory of its first bytes back.
    pub fn forget_front(&self) {
        lock(&self.0.front).take();
    }
}

impl Inner {
    /// Fails if an answer is about another state of the object.
    pub fn expect(&self, now: &ObjectMeta) -> std::result::Result<(), Failure> {
        let state = |meta: &ObjectMeta| format!("{} of {} bytes", tag_of(meta), meta.size);
        if now.size == self.meta.size && tag_of(now) == tag_of(&self.meta) {
            return Ok(());
        }
        Err(Failure::Changed { expected: state(&self.meta), got: state(now) })
    }

    /// What tells the server to answer about this state only.
    pub fn condition(&self) -> GetOptions {
        let weak = |tag: &String| tag.starts_with("W/");
        match &self.meta.e_tag {
            // No weak tag ever matches; answers tell theirs.
            Some(tag) if weak(tag) => GetOptions::default(),
            Some(tag) => GetOptions { if_match: Some(tag.clone()), ..GetOptions::default() },
            None => GetOptions { if_unmodified_since: Some(self.meta.last_modified), ..GetOptions::default() },
        }
    }

    /// The same failure, with what the object is now.
    pub async fn explain(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Changed { .. } => match head(&self.location).await {
                Ok(now) => self.expect(&now).err().unwrap_or(failure),
                Err(Failure::Absent) => self.gone(),
                Err(other) => other,
            },
            // It was there when it was opened.
            Failure::Absent => self.gone(),
            failure => failure,
        }
    }

    fn gone(&self) -> Failure {
        Failure::Changed { expected: tag_of(&self.meta), got: "nothing: it is gone".into() }
    }
}

async fn open_with_front(location: Location) -> std::result::Result<Object, Failure> {
    let object = open(location).await?;
    let bytes = REMOTE_FRONT_BYTES.min(object.0.meta.size) as usize;
    if bytes > 0 {
        let front = fetch::range(object.0.clone(), 0, bytes).await?;
        lock(&object.0.front).replace(front);
    }
    Ok(object)
}

async fn open(location: Location) -> std::result::Result<Object, Failure> {
    let meta = head(&location).await?;
    if meta.e_tag.is_none() && meta.last_modified.timestamp() == 0 {
        let problem = "the server gives neither ETag nor Last-Modified, so that a change could not be noticed";
        return Err(Failure::Unusable(problem.into()));
    }
    Ok(Object(Arc::new(Inner { location, meta, front: Mutex::default() })))
}

async fn head(location: &Location) -> std::result::Result<ObjectMeta, Failure> {
    let options = GetOptions { head: true, ..GetOptions::default() };
    let answer = location.store.get_opts(&location.key, options).await;
    answer.map(|answer| answer.meta).map_err(|e| Failure::of(&e))
}

fn tag_of(meta: &ObjectMeta) -> String {
    match &meta.e_tag {
        Some(tag) => format!("ETag {tag}"),
        None => format!("Last-Modified {}", meta.last_modified),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
