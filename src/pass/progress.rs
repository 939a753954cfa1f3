//! What a run tells while it works, and how it is told to stop.

use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Hears how a run goes on. The library itself never prints.
pub trait Progress: Sync {
    /// A pass begins that will read and write about `bytes`.
    fn begin(&self, pass: &str, bytes: u64);
    /// More bytes are done.
    fn advance(&self, bytes: u64);
    /// The pass is over.
    fn end(&self);
}

/// Says nothing.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _pass: &str, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn end(&self) {}
}

/// A request to stop at the next job: the number of the signal that asked for it, 0 for none.
#[derive(Clone, Debug, Default)]
pub struct Stop(pub Arc<AtomicUsize>);

impl Stop {
    /// Fails once a stop was asked for.
    pub fn check(&self) -> Result<()> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Error::Interrupted { signal: i32::try_from(signal).unwrap_or(15) }),
        }
    }
}
