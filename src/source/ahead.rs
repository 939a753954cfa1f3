//! Ranges that are on their way from servers, so that whoever needs them does not wait for one after another.

use super::remote::{Fetched, Object, Pending};
use crate::error::Result;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// File, first byte, and a number of its own.
type Key = (usize, u64, u64);

/// The ranges on their way, or here and not given back.
#[derive(Debug, Default)]
pub struct Ahead(Mutex<Ranges>);

#[derive(Debug, Default)]
struct Ranges {
    by_place: BTreeMap<Key, Arc<Pending>>,
    started: u64,
}

/// A range that was asked for. Its memory is given back when this is dropped.
#[derive(Debug)]
pub struct Prepared<'a> {
    ahead: &'a Ahead,
    key: Key,
}

impl Ahead {
    /// Asks for a range.
    #[cfg_attr(
        not(feature = "remote"),
        allow(unreachable_code, unused_variables, reason = "without the feature there are no objects")
    )]
    pub fn start(&self, object: &Object, file: usize, offset: u64, bytes: usize) -> Prepared<'_> {
        let pending = Arc::new(object.start(offset, bytes));
        let mut ranges = self.lock();
        ranges.started += 1;
        let key = (file, offset, ranges.started);
        ranges.by_place.insert(key, pending);
        Prepared { ahead: self, key }
    }

    /// The bytes of a range, as soon as they are here; `None` if nobody asked for them.
    pub fn bytes(&self, file: usize, offset: u64, bytes: usize) -> Option<Result<Fetched>> {
        let holds = |start: u64, pending: &Pending| offset + bytes as u64 <= start + pending.bytes() as u64;
        let (start, pending) = {
            let ranges = self.lock();
            let before = ranges.by_place.range((file, 0, 0)..=(file, offset, u64::MAX)).rev();
            let mut covering = before.filter(|((_, start, _), p)| holds(*start, p));
            covering.next().map(|((_, start, _), p)| (*start, p.clone()))?
        };
        let first = (offset - start) as usize;
        Some(pending.wait(first..first + bytes))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ranges> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        let pending = self.ahead.lock().by_place.remove(&self.key);
        // Outside of the lock: it may be large.
        drop(pending);
    }
}
