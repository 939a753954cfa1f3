//! Every limit of the tool, with its unit and its reason.

/// Elements in a block: the run over which one `f64` partial sum is taken, and the piece that kernels work on.
/// 8 KiB of `f32`, so that the pieces of a few models stay in the first cache level.
pub const BLOCK_ELEMENTS: usize = 2048;

/// Elements in a block of a delta file.
pub const CODED_BLOCK_ELEMENTS: usize = 1 << 17;

/// What coding and decoding delta blocks takes for each compute thread.
pub const CODER_BYTES: usize = 10 << 20;

/// What a compute thread needs besides to code or decode lossy blocks.
pub const LOSSY_BYTES: usize = 14 << 20;

/// Blocks in a chunk: block sums are added up per chunk, chunk sums per tensor, both in order, so that a tensor can
/// be split between machines at chunk borders (one mebi-element) without changing a bit of its sum.
pub const CHUNK_BLOCKS: usize = 512;

/// Elements in a chunk: where a tensor may be cut between machines.
pub const CHUNK_ELEMENTS: u64 = (CHUNK_BLOCKS * BLOCK_ELEMENTS) as u64;

/// Parts of a merge on several machines, at most: more than a job array of any scheduler has.
pub const PARTS_MAX: usize = 100_000;

/// A file that a part writes for others may be this long at most.
pub const PART_RECORD_MAX_BYTES: u64 = 1 << 30;

/// A safetensors header may be this long at most; the limit of the `safetensors` crate.
pub const HEADER_MAX_BYTES: u64 = 100_000_000;

/// A shard index may be this long at most.
pub const INDEX_MAX_BYTES: u64 = 64 << 20;

/// The configuration of a model may be this long at most.
pub const CONFIG_MAX_BYTES: u64 = 16 << 20;

/// A file of coefficients may be this long at most: a number takes some 20 bytes, models have up to 10^5 tensors.
pub const COEFFICIENTS_MAX_BYTES: u64 = 64 << 20;

/// Values in a file of coefficients, at most: 16 for each of 10^5 tensors. Each takes some 100 bytes while it is read.
pub const COEFFICIENTS_MAX_VALUES: usize = 2_000_000;

/// What a header's table may take for each byte of the header, itself included.
pub const HEADER_MEMORY_FACTOR: usize = 3;

/// What a header's table may always take.
pub const HEADER_MEMORY_BYTES: usize = 4 << 20;

/// The configuration of an adapter may be this long at most.
pub const ADAPTER_CONFIG_MAX_BYTES: u64 = 1 << 20;

/// The expressions in such a configuration may take this much when compiled: some 20 KB for each of a thousand.
pub const ADAPTER_PATTERNS_BYTES: usize = 32 << 20;

/// Columns of an adapter's matrix that are multiplied at once.
pub const ADAPTER_PANEL_COLUMNS: usize = 64;

/// Bytes of an adapter's matrix that are read at once: matrices are widened as a whole, so pieces may be small.
pub const ADAPTER_READ_BYTES: usize = 64 << 10;

/// A delta file's index may take this much when unpacked: some 400 bytes for each tensor.
pub const DELTA_INDEX_MAX_BYTES: u64 = 128 << 20;

/// A delta file's index may be this many times as long as it is packed: nothing with hashes in it packs so well.
pub const DELTA_INDEX_RATIO_MAX: u64 = 64;

/// A histogram may be this long: 65,536 bins, each with a distance and a count.
pub const DELTA_HISTOGRAM_MAX_BYTES: u32 = 1 << 20;

/// The headers and side files in a delta file may take this much in all when unpacked.
pub const DELTA_FILES_MAX_BYTES: u64 = 256 << 20;

/// Deltas on deltas, at most.
pub const CHAIN_MAX: usize = 16;

/// A recipe may be this long at most.
pub const RECIPE_MAX_BYTES: u64 = 4 << 20;

/// A side file (tokenizer, configuration) larger than this is not copied from the base.
pub const SIDE_FILE_MAX_BYTES: u64 = 256 << 20;

/// A `tokenizer.json` may be this long at most.
pub const TOKENIZER_MAX_BYTES: u64 = 64 << 20;

/// Elements of an embedding that are averaged at a time.
pub const PADDING_PIECE_ELEMENTS: usize = 64 << 10;

/// Folders below a model's root that are searched for side files.
pub const SIDE_FILE_MAX_DEPTH: usize = 3;

/// Dimensions of a tensor, at most.
pub const RANK_MAX: usize = 64;

/// Length of a tensor's name, at most.
pub const NAME_MAX_BYTES: usize = 1024;

/// Models in one merge, at most: saliency multiplies by their number exactly in `f64`.
pub const MODELS_MAX: usize = 4096;

/// Bytes of input and output that one job holds at most: enough to make system calls rare, small enough that a job's
/// data is still in the cache when it is decoded.
pub const JOB_MAX_BYTES: usize = 8 << 20;

/// Bytes that one job may be cut down to when the memory budget is small.
pub const JOB_MIN_BYTES: usize = 64 << 10;

/// Tiles in one job, at most: a job of many small tensors ends here even if its bytes are few.
pub const JOB_MAX_TILES: usize = 1024;

/// Bytes that one job of a pass over delta files holds at most: read, decoded and to be written.
pub const STREAM_JOB_BYTES: usize = 3 << 20;

/// Jobs that wait between two stages of the pipeline, per compute thread.
pub const QUEUE_JOBS_PER_THREAD: usize = 2;

/// Memory that does not depend on the models: program text, stacks, allocator, channels.
pub const FIXED_BYTES: usize = 40 << 20;

/// What a mapped range may take beyond its own bytes: a page at each end.
pub const MAP_SLOP_BYTES: usize = 8 << 10;

/// Ranges below this are read, not mapped: to map and unmap costs as much as to copy so many bytes.
pub const MAP_MIN_BYTES: usize = 64 << 10;

/// Input bytes of one wave, at most: when its tensors are read again, they are still in the page cache.
pub const WAVE_INPUT_BYTES: u64 = 512 << 20;

/// So much of the start of a tensor is looked at to see whether it may be one that is known: few tensors that were trained
/// further begin as they did.
pub const HEAD_BYTES: u64 = 16 << 10;

/// Bytes that the kernel copies between two looks whether the run shall stop.
pub const COPY_BYTES: u64 = 64 << 20;

/// Numbers and tensors that the merges of a batch know from each other, at most.
pub const MEMO_ENTRIES_MAX: usize = 1 << 15;

/// A cache of these may be this long: some 2 KiB for each tensor of the output, 200 bytes for each of the inputs.
pub const CACHE_MAX_BYTES: u64 = 16 << 20;

/// What these take, with the batch itself.
pub const MEMO_BYTES: usize = 64 << 20;

/// Bytes that one request to a server asks for, at most: long enough that its latency hardly counts beside it.
pub const REMOTE_REQUEST_BYTES: usize = 4 << 20;

/// Requests under way at once: what latency leaves idle in one, others use.
pub const REMOTE_REQUESTS: usize = 32;

/// What reading over the network takes besides the ranges under way: threads, connections, cryptography.
pub const REMOTE_BYTES: usize = 48 << 20;

/// First bytes of a file that are asked for when it is opened: most headers are shorter.
pub const REMOTE_FRONT_BYTES: u64 = 64 << 10;

/// Seconds to wait for a connection.
pub const REMOTE_CONNECT_SECONDS: u64 = 10;

/// Seconds without a byte after which a request is given up, and made again. Tests cannot wait so long.
pub const REMOTE_STALL_SECONDS: u64 = if cfg!(feature = "failpoints") { 2 } else { 30 };

/// Times that a request is made again after a failure, at most.
pub const REMOTE_RETRIES: usize = 10;

/// Seconds after which a failing request is not made again.
pub const REMOTE_RETRY_SECONDS: u64 = 180;

/// The pause before a request is made again; it grows.
pub const REMOTE_BACKOFF_MILLIS: u64 = if cfg!(feature = "failpoints") { 2 } else { 100 };

/// Times that a range is asked for again after an answer that broke off, at most.
pub const REMOTE_REREADS: u32 = 5;

/// Memory budget when none is given.
pub const MEMORY_DEFAULT_BYTES: u64 = 1 << 30;

/// Room that must stay free on the disk beyond the output.
pub const DISK_RESERVE_BYTES: u64 = 16 << 20;

/// Size of an output shard when none is given (mergekit's default).
pub const SHARD_DEFAULT_BYTES: u64 = 5_000_000_000;

/// Rows of a table of differences that are printed.
pub const DIFFERENCES_SHOWN: usize = 10;

/// Bytes after which the writer asks the kernel to start writing back what it holds.
pub const WRITEBACK_BYTES: u64 = 32 << 20;

const _: () = assert!(JOB_MIN_BYTES < JOB_MAX_BYTES);
const _: () = assert!(CODED_BLOCK_ELEMENTS.is_multiple_of(BLOCK_ELEMENTS));
const _: () = assert!(CHUNK_ELEMENTS.is_multiple_of(CODED_BLOCK_ELEMENTS as u64));
const _: () = assert!(BLOCK_ELEMENTS.is_power_of_two());
