//! Passes over a whole model that several machines share.

use super::{Cut, Engine, PassRun, Work};
use crate::error::Result;
use crate::survey::Statistic;

/// Makes a pass of which this machine does only a part, or none.
pub trait Rounds: Sync {
    /// Gives `statistic` what all machines together gathered of `works`. Fails while that is not known. Sources marked in
    /// `hash` are hashed where they are read.
    fn pass(
        &self,
        engine: &Engine<'_>,
        works: &[Work],
        statistic: &mut dyn Statistic,
        cut: Cut,
        hash: &[bool],
    ) -> Result<PassRun>;
}
