//! The block codec beside zstd -3 on the raw bytes and BitX (xor, exponent and rest planes, zstd -3), on one core.
//!
//! `cargo bench --bench delta` prints a table for each share of unchanged elements of simulated pairs (base N(0, 0.02^2)
//! with row scales, Laplace updates), K = 8 deltas merged in permuted order among it. `-- --short` is a quick check;
//! `-- --pair BASE.safetensors MODEL.safetensors`, any number of times, measures these files instead.
//! Sizes are in percent of the raw bytes, speeds in GB/s of raw bytes, ratios to zstd -3 in the same run.

#![allow(clippy::print_stdout, reason = "a bench prints its results")]

use std::hint::black_box;
use std::time::Instant;
use taskvec::codec::{BLOCK, Codec, Kind, Permutation, Scratch, decode, decode_permuted, encode};
use taskvec::tensor::Dtype;
use zstd::bulk::{Compressor, Decompressor};

/// One tensor and its base.
struct Case {
    dtype: Dtype,
    base: Vec<u8>,
    result: Vec<u8>,
}

impl Case {
    fn blocks(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let bytes = BLOCK * self.dtype.bytes();
        self.base.chunks(bytes).zip(self.result.chunks(bytes))
    }
}

/// Size, and seconds of both directions: the best of several runs.
struct Measured {
    bytes: usize,
    encode: f64,
    decode: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let short = arguments.iter().any(|a| a == "--short" || a == "--test");
    let (elements, runs) = if short { (300_000, 1) } else { (1 << 20, 25) };
    let mut pairs = arguments.iter().enumerate().filter(|(_, a)| *a == "--pair").map(|(i, _)| i).peekable();
    if pairs.peek().is_some() {
        for at in pairs {
            println!("{} -> {}", arguments[at + 1], arguments[at + 2]);
            table(&read_pair(&arguments[at + 1], &arguments[at + 2]), runs);
        }
        return;
    }
    for percent in [10, 30, 50, 70, 90, 99] {
        let (base, updates) = simulated(elements, 1);
        let case = updated_bf16(&base, &updates, f64::from(percent) / 100.0);
        println!("bf16, {percent} % unchanged: {:.2} % by count", unchanged(&case) * 100.0);
        let zstd = table(std::slice::from_ref(&case), runs);
        permuted(&case, zstd, runs);
    }
    let (base, updates) = simulated(elements / 2, 2);
    println!("f32, relative update 0.4 %");
    table(&[updated_f32(&base, &updates, 0.004)], runs);
}

/// Prints one line per codec; returns the seconds that zstd needs to decode.
fn table(cases: &[Case], runs: usize) -> f64 {
    let raw: usize = cases.iter().map(|c| c.result.len()).sum();
    println!("  {:<18} {:>7} {:>8} {:>8} {:>7} {:>7}", "", "size %", "encode", "decode", "enc x", "dec x");
    let zstd = zstd_raw(cases, runs);
    let line = |name: &str, m: &Measured| {
        let rate = |seconds: f64| raw as f64 / seconds / 1e9;
        println!(
            "  {name:<18} {:>7.2} {:>8.2} {:>8.2} {:>7.2} {:>7.2}",
            m.bytes as f64 / raw as f64 * 100.0,
            rate(m.encode),
            rate(m.decode),
            zstd.encode / m.encode,
            zstd.decode / m.decode
        );
    };
    line("zstd -3, raw", &zstd);
    line("BitX", &bitx(cases, runs));
    line("S1", &blocks(cases, Codec::S1, runs));
    line("S2", &blocks(cases, Codec::S2, runs));
    line("auto", &blocks(cases, Codec::Auto, runs));
    if let Some(bound) = bound(cases) {
        println!("  {:<18} {:>7.2}", "H(d | exponent)", bound / raw as f64 * 100.0);
    }
    zstd.decode
}

/// The shortest of `runs` calls, in seconds.
fn seconds(runs: usize, mut call: impl FnMut()) -> f64 {
    let one = |call: &mut dyn FnMut()| {
        let start = Instant::now();
        call();
        start.elapsed().as_secs_f64()
    };
    (0..runs).map(|_| one(&mut call)).fold(f64::INFINITY, f64::min)
}

fn zstd_raw(cases: &[Case], runs: usize) -> Measured {
    let streams: Vec<&[u8]> = cases.iter().map(|c| c.result.as_slice()).collect();
    zstd_streams(&streams, runs)
}

/// Compresses and decompresses each of `streams` by zstd -3.
fn zstd_streams(streams: &[&[u8]], runs: usize) -> Measured {
    let mut compressor = Compressor::new(3).expect("zstd");
    let mut decompressor = Decompressor::new().expect("zstd");
    let longest = streams.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut buffer = vec![0; zstd::zstd_safe::compress_bound(longest)];
    let frames: Vec<Vec<u8>> = streams.iter().map(|s| compressor.compress(s).expect("zstd")).collect();
    let encode = seconds(runs, || {
        for stream in streams {
            black_box(compressor.compress_to_buffer(stream, &mut buffer[..]).expect("zstd"));
        }
    });
    let decode = seconds(runs, || {
        for frame in &frames {
            black_box(decompressor.decompress_to_buffer(frame, &mut buffer[..]).expect("zstd"));
        }
    });
    Measured { bytes: frames.iter().map(Vec::len).sum(), encode, decode }
}

/// BitX as ZipLLM has it: xor with the base, the exponent plane and the planes of the rest, zstd -3.
fn bitx(cases: &[Case], runs: usize) -> Measured {
    let mut planes: Vec<Vec<u8>> = Vec::new();
    let split = |planes: &mut Vec<Vec<u8>>| {
        planes.clear();
        for case in cases {
            planes.extend(xor_planes(case));
        }
    };
    let encode = seconds(runs, || split(&mut planes));
    let streams: Vec<&[u8]> = planes.iter().map(Vec::as_slice).collect();
    let mut measured = zstd_streams(&streams, runs);
    let mut result = Vec::new();
    let mut first = 0;
    let decode = seconds(runs, || {
        first = 0;
        for case in cases {
            let width = case.dtype.bytes();
            join_planes(case, &streams[first..first + width], &mut result);
            first += width;
        }
        black_box(&result);
    });
    measured.encode += encode;
    measured.decode += decode;
    measured
}

fn xor_planes(case: &Case) -> Vec<Vec<u8>> {
    let width = case.dtype.bytes();
    let rotate = u32::from(case.dtype.is_float() && width > 1);
    let mut planes = vec![vec![0; case.result.len() / width]; width];
    let pairs = case.base.chunks_exact(width).zip(case.result.chunks_exact(width));
    for (i, (b, r)) in pairs.enumerate() {
        let x = rotate_word(word(b) ^ word(r), width, rotate);
        for (p, plane) in planes.iter_mut().enumerate() {
            plane[i] = (x >> (8 * p)) as u8;
        }
    }
    planes
}

fn join_planes(case: &Case, planes: &[&[u8]], result: &mut Vec<u8>) {
    let width = case.dtype.bytes();
    let rotate = u32::from(case.dtype.is_float() && width > 1);
    result.resize(case.base.len(), 0);
    for (i, (b, r)) in case.base.chunks_exact(width).zip(result.chunks_exact_mut(width)).enumerate() {
        let x = planes.iter().enumerate().fold(0, |x, (p, plane)| x | u64::from(plane[i]) << (8 * p));
        let x = rotate_word(x, width, width as u32 * 8 - rotate) ^ word(b);
        r.copy_from_slice(&x.to_le_bytes()[..width]);
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |x, &b| x << 8 | u64::from(b))
}

fn rotate_word(x: u64, width: usize, left: u32) -> u64 {
    match width {
        1 => u64::from((x as u8).rotate_left(left)),
        2 => u64::from((x as u16).rotate_left(left)),
        4 => u64::from((x as u32).rotate_left(left)),
        _ => x.rotate_left(left),
    }
}

fn blocks(cases: &[Case], codec: Codec, runs: usize) -> Measured {
    let mut scratch = Scratch::new();
    let mut out = Vec::new();
    let mut ends: Vec<(Kind, usize)> = Vec::new();
    let encode_seconds = seconds(runs, || {
        out.clear();
        ends.clear();
        for case in cases {
            for (base, result) in case.blocks() {
                let kind = encode(codec, case.dtype, Some(base), result, &mut scratch, &mut out);
                ends.push((kind, out.len()));
            }
        }
    });
    let mut back: Vec<Vec<u8>> = cases.iter().map(|c| vec![0; c.result.len()]).collect();
    let decode_seconds = seconds(runs, || {
        let (mut first, mut stored) = (0, ends.iter());
        for (case, back) in cases.iter().zip(&mut back) {
            for ((base, _), back) in case.blocks().zip(back.chunks_mut(BLOCK * case.dtype.bytes())) {
                let &(kind, end) = stored.next().expect("one entry per block");
                decode(kind.byte(), case.dtype, Some(base), &out[first..end], &mut scratch, back)
                    .expect("our own block");
                first = end;
            }
        }
    });
    assert!(cases.iter().zip(&back).all(|(c, b)| c.result == *b), "every byte comes back");
    Measured { bytes: out.len(), encode: encode_seconds, decode: decode_seconds }
}

/// Decodes K = 8 deltas of one base block by block in permuted order, and brings one output back to natural order.
fn permuted(case: &Case, zstd_decode: f64, runs: usize) {
    const K: usize = 8;
    let mut scratch = Scratch::new();
    let width = BLOCK * case.dtype.bytes();
    let stored: Vec<(Kind, Vec<u8>)> = (case.blocks())
        .map(|(base, result)| {
            let mut out = Vec::new();
            (encode(Codec::Auto, case.dtype, Some(base), result, &mut scratch, &mut out), out)
        })
        .collect();
    let mut permutation = Permutation::default();
    let (mut base_permuted, mut result, mut natural) = (vec![0; width], vec![0; width], vec![0; width]);
    let time = seconds(runs, || {
        for ((base, _), (kind, block)) in case.blocks().zip(&stored) {
            permutation.derive(case.dtype, base);
            let (base_permuted, result) = (&mut base_permuted[..base.len()], &mut result[..base.len()]);
            permutation.permute(base, base_permuted);
            for _ in 0..K {
                decode_permuted(
                    kind.byte(),
                    case.dtype,
                    base_permuted,
                    &permutation,
                    black_box(block),
                    &mut scratch,
                    result,
                )
                .expect("our own block");
            }
            permutation.unpermute(result, &mut natural[..base.len()]);
        }
    });
    let rate = (case.result.len() * K) as f64 / time / 1e9;
    println!("  {:<18} {:>25.2} {:>15.2}", "permuted, K = 8", rate, zstd_decode * K as f64 / time);
}

/// Bytes that the entropy of the difference takes, given the exponent of the base; of BF16 alone.
fn bound(cases: &[Case]) -> Option<f64> {
    let mut pairs = Vec::new();
    for case in cases {
        if case.dtype != Dtype::BF16 {
            return None;
        }
        for (b, r) in case.base.chunks_exact(2).zip(case.result.chunks_exact(2)) {
            let (b, r) = (word(b) as u16, word(r) as u16);
            let ordered = |x: u16| x ^ if x >> 15 == 1 { 0xffff } else { 0x8000 };
            pairs.push(u32::from(b >> 7 & 0xff) << 16 | u32::from(ordered(r).wrapping_sub(ordered(b))));
        }
    }
    pairs.sort_unstable();
    let bits = |n: usize| n as f64 * (n as f64).log2();
    let total: f64 = pairs.chunk_by(|a, b| a >> 16 == b >> 16).map(|same| bits(same.len())).sum();
    let inner: f64 = pairs.chunk_by(|a, b| a == b).map(|same| bits(same.len())).sum();
    Some((total - inner) / 8.0)
}

fn unchanged(case: &Case) -> f64 {
    let width = case.dtype.bytes();
    let pairs = case.base.chunks_exact(width).zip(case.result.chunks_exact(width));
    pairs.filter(|(b, r)| b == r).count() as f64 / (case.result.len() / width) as f64
}

/// Numbers in [0, 1), by counting (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ x >> 31) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.next()).ln()).sqrt() * (std::f64::consts::TAU * self.next()).cos()
    }

    fn laplace(&mut self) -> f64 {
        let u = self.next() - 0.5;
        -u.signum() * (1.0 - 2.0 * u.abs()).max(1e-300).ln()
    }
}

/// A base, N(0, 0.02^2) with rows of 1024 whose scales are log-normal, and updates of scale 1.
fn simulated(elements: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let mut random = Random(seed);
    let mut base = Vec::with_capacity(elements);
    while base.len() < elements {
        let scale = 0.02 * (0.3 * random.normal()).exp();
        base.extend((0..1024.min(elements - base.len())).map(|_| (scale * random.normal()) as f32));
    }
    let updates = (0..elements).map(|_| random.laplace() as f32).collect();
    (base, updates)
}

/// Updates scaled by bisection, so that `share` of the elements keeps its BF16 value.
fn updated_bf16(base: &[f32], updates: &[f32], share: f64) -> Case {
    let mut base_bytes = vec![0; base.len() * 2];
    Dtype::BF16.encode(base, &mut base_bytes);
    let mut rounded = vec![0.0; base.len()];
    Dtype::BF16.decode(&base_bytes, &mut rounded);
    let (mut low, mut high) = (1e-9f64, 1.0f64);
    let mut case = Case { dtype: Dtype::BF16, base: base_bytes, result: Vec::new() };
    for _ in 0..40 {
        let scale = (low * high).sqrt();
        let sum: Vec<f32> = rounded.iter().zip(updates).map(|(b, u)| b + scale as f32 * u).collect();
        case.result.resize(base.len() * 2, 0);
        Dtype::BF16.encode(&sum, &mut case.result);
        if unchanged(&case) > share { low = scale } else { high = scale }
    }
    case
}

/// Updates whose root mean square is `relative` of the base's.
fn updated_f32(base: &[f32], updates: &[f32], relative: f64) -> Case {
    let power = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
    let scale = (relative * (power(base) / power(updates)).sqrt()) as f32;
    let sum: Vec<f32> = base.iter().zip(updates).map(|(b, u)| b + scale * u).collect();
    let mut case = Case { dtype: Dtype::F32, base: vec![0; base.len() * 4], result: vec![0; base.len() * 4] };
    Dtype::F32.encode(base, &mut case.base);
    Dtype::F32.encode(&sum, &mut case.result);
    case
}

/// All tensors that both files have in the same dtype and shape.
fn read_pair(base: &str, model: &str) -> Vec<Case> {
    let (base, model) = (std::fs::read(base).expect("the base"), std::fs::read(model).expect("the model"));
    let base = safetensors::SafeTensors::deserialize(&base).expect("the base's header");
    let model = safetensors::SafeTensors::deserialize(&model).expect("the model's header");
    let mut cases = Vec::new();
    for (name, tensor) in model.tensors() {
        let Ok(other) = base.tensor(&name) else { continue };
        let dtype = Dtype::from_header(&tensor.dtype().to_string());
        if let (Some(dtype), true) = (dtype, other.dtype() == tensor.dtype() && other.shape() == tensor.shape()) {
            cases.push(Case { dtype, base: other.data().to_vec(), result: tensor.data().to_vec() });
        }
    }
    cases
}
