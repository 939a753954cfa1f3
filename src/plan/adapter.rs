//! What the matrices of adapters take in memory.

use super::PlannedTensor;
use crate::limits::ADAPTER_READ_BYTES;
use crate::tensor::LowRank;

/// Bytes that a compute thread keeps: of each source the widest matrix that belongs to columns, the rows that a tile
/// shares with its neighbours, and a piece as read and as widened.
pub fn thread_bytes(tensors: &[PlannedTensor]) -> usize {
    let sources = tensors.first().map_or(0, |t| t.places.len());
    let of_source = |source: usize| {
        let adapters = tensors.iter().filter_map(|t| t.places[source].adapter.as_deref());
        adapters.map(|a| (a.rank * (a.columns + 2)) as usize * size_of::<f32>()).max().unwrap_or(0)
    };
    let widest: usize = (0..sources).map(of_source).sum();
    if widest == 0 { 0 } else { widest + 5 * ADAPTER_READ_BYTES }
}

/// Bytes for each element of a tile that the rows of the other matrix take, widened.
pub fn row_bytes_per_element(adapter: &LowRank) -> usize {
    (adapter.rank as usize * size_of::<f32>()).div_ceil(adapter.columns.max(1) as usize)
}
