//! What adapters take in memory.

use super::PlannedTensor;
use crate::limits::{ADAPTER_PANEL_COLUMNS, ADAPTER_READ_BYTES};
use crate::tensor::LowRank;

const VALUE: usize = size_of::<f32>();

/// Bytes that a compute thread keeps: of each source the largest matrix that belongs to columns, the two rows of the
/// other that a tile shares with its neighbours, and a piece as read and as widened.
pub fn thread_bytes(tensors: &[PlannedTensor]) -> usize {
    let sources = tensors.first().map_or(0, |t| t.places.len());
    let of_adapter = |a: &LowRank| a.rank as usize * ((a.columns as usize).next_multiple_of(ADAPTER_PANEL_COLUMNS) + 2);
    let of_source = |source: usize| {
        let adapters = tensors.iter().filter_map(|t| t.places[source].adapter.as_deref());
        VALUE * adapters.map(of_adapter).max().unwrap_or(0)
    };
    match (0..sources).map(of_source).sum() {
        0 => 0,
        kept => kept + (1 + VALUE) * ADAPTER_READ_BYTES,
    }
}

/// Bytes for each element of a tile: what is added to it, and the rows of the matrix that belongs to rows.
pub fn element_bytes(adapter: &LowRank) -> usize {
    VALUE + (adapter.rank as usize * VALUE).div_ceil(adapter.columns.max(1) as usize)
}
