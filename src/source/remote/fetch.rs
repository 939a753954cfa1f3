//! Ranges under way: large ones in several requests side by side, each again if it breaks off.

use super::client::{Client, client};
use super::failure::Failure;
use super::object::Inner;
use crate::error::Result;
use crate::limits::{REMOTE_BACKOFF_MILLIS, REMOTE_REQUEST_BYTES, REMOTE_REQUESTS, REMOTE_REREADS};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use object_store::GetRange;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

type Answer<T> = std::result::Result<T, Failure>;

/// A range that was asked for. Nobody waits for its bytes any more when it is dropped.
#[derive(Debug)]
pub struct Pending {
    object: Arc<Inner>,
    bytes: usize,
    slot: Arc<Slot>,
    task: tokio::task::AbortHandle,
}

#[derive(Debug, Default)]
struct Slot {
    answer: Mutex<Option<Answer<Bytes>>>,
    here: Condvar,
}

impl Pending {
    pub fn start(object: Arc<Inner>, offset: u64, bytes: usize) -> Self {
        let slot = Arc::new(Slot::default());
        let (for_task, of_task) = (slot.clone(), object.clone());
        let fetch = async move { for_task.put(range(of_task, offset, bytes).await) };
        let task = client().expect("an object was opened").runtime.spawn(fetch).abort_handle();
        Self { object, bytes, slot, task }
    }

    /// The length of the range.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// These bytes of it, as soon as all are here.
    pub fn wait(&self, part: Range<usize>) -> Result<Bytes> {
        let mut answer = self.slot.answer.lock().unwrap_or_else(PoisonError::into_inner);
        while answer.is_none() {
            answer = self.slot.here.wait(answer).unwrap_or_else(PoisonError::into_inner);
        }
        match answer.as_ref().expect("waited for it") {
            Ok(bytes) => Ok(bytes.slice(part)),
            Err(failure) => Err(failure.clone().error(&self.object.location.url)),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Slot {
    fn put(&self, answer: Answer<Bytes>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.here.notify_all();
    }
}

/// What `one` makes of each, in order; so many at once as requests may be.
pub async fn side_by_side<T, R, F>(all: Vec<T>, one: impl Fn(T) -> F) -> Vec<Answer<R>>
where
    F: Future<Output = Answer<R>> + Send + 'static,
    R: Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut results: Vec<Option<Answer<R>>> = all.iter().map(|_| None).collect();
    let mut waiting = all.into_iter().enumerate();
    loop {
        for (i, item) in waiting.by_ref().take(REMOTE_REQUESTS - tasks.len()) {
            let work = one(item);
            tasks.spawn(async move { (i, work.await) });
        }
        match tasks.join_next().await {
            Some(Ok((i, result))) => results[i] = Some(result),
            Some(Err(_)) => {}
            None => break,
        }
    }
    let lost = || Err(Failure::Failed("the request was dropped".into()));
    results.into_iter().map(|r| r.unwrap_or_else(lost)).collect()
}

/// A range of an object.
pub async fn range(object: Arc<Inner>, offset: u64, bytes: usize) -> Answer<Bytes> {
    if bytes == 0 {
        return Ok(Bytes::new());
    }
    let mut rest = BytesMut::zeroed(bytes);
    let mut pieces = Vec::with_capacity(bytes.div_ceil(REMOTE_REQUEST_BYTES));
    let mut at = offset;
    while rest.len() > REMOTE_REQUEST_BYTES {
        pieces.push((at, rest.split_to(REMOTE_REQUEST_BYTES)));
        at += REMOTE_REQUEST_BYTES as u64;
    }
    pieces.push((at, rest));
    let read = |(at, target)| piece(object.clone(), at, target);
    let mut whole = BytesMut::new();
    for piece in side_by_side(pieces, read).await {
        // They lie one after another, so that nothing is copied.
        whole.unsplit(piece?);
    }
    Ok(whole.freeze())
}

/// Fills `target` with what stands at `offset`.
async fn piece(object: Arc<Inner>, offset: u64, mut target: BytesMut) -> Answer<BytesMut> {
    let Client { requests, .. } = client().map_err(|e| Failure::Failed(e.to_string()))?;
    let Ok(_request) = requests.acquire().await else { return Err(Failure::Failed("the client has ended".into())) };
    for attempt in 0.. {
        match once(&object, offset, &mut target).await {
            Ok(Whole::Yes) => break,
            Ok(Whole::No(cause)) if attempt == REMOTE_REREADS => return Err(Failure::Failed(cause)),
            Ok(Whole::No(cause)) => {
                tracing::info!("{}: {cause}; asking again", object.location.url.display());
                tokio::time::sleep(Duration::from_millis(REMOTE_BACKOFF_MILLIS << attempt)).await;
            }
            Err(failure) => return Err(object.explain(failure).await),
        }
    }
    Ok(target)
}

/// Whether all bytes of an answer arrived; why not.
enum Whole {
    Yes,
    No(String),
}

/// One request. Those that fail before their first byte have been tried again by the store.
async fn once(object: &Inner, offset: u64, target: &mut [u8]) -> Answer<Whole> {
    let mut options = object.condition();
    options.range = Some(GetRange::Bounded(offset..offset + target.len() as u64));
    let answer = object.location.store.get_opts(&object.location.key, options).await.map_err(|e| Failure::of(&e))?;
    object.expect(&answer.meta)?;
    let mut stream = answer.into_stream();
    let mut at = 0;
    while let Some(part) = stream.next().await {
        let part = match part {
            Ok(part) => part,
            Err(e) => match Failure::of(&e) {
                Failure::Failed(cause) => return Ok(Whole::No(cause)),
                failure => return Err(failure),
            },
        };
        let Some(place) = target.get_mut(at..at + part.len()) else {
            return Ok(Whole::No(format!("the answer has more than the {} bytes that were asked for", target.len())));
        };
        place.copy_from_slice(&part);
        at += part.len();
    }
    if at == target.len() {
        return Ok(Whole::Yes);
    }
    Ok(Whole::No(format!("the answer ended after {at} of {} bytes", target.len())))
}
