//! Kernels and conversions, each beside a memcpy of the same bytes.
//!
//! `cargo bench --bench kernels` prints, per kernel, the bytes that it reads and writes a second and the ratio to
//! copying the same bytes, both from buffers that fit the caches of one core, but for the last line: there both come from
//! memory. `-- --short` runs each once, as a check.

#![allow(clippy::print_stdout, reason = "a bench prints its results")]

use std::hint::black_box;
use std::time::{Duration, Instant};
use taskvec::kernel;
use taskvec::limits::BLOCK_ELEMENTS;
use taskvec::tensor::Dtype;

struct Bench {
    /// Time spent on each kernel.
    time: Duration,
}

impl Bench {
    /// Seconds of one call over so many bytes, the best of several runs.
    fn seconds(&self, bytes: usize, mut call: impl FnMut()) -> f64 {
        let mut best = f64::INFINITY;
        let start = Instant::now();
        while start.elapsed() < self.time || best.is_infinite() {
            let calls = if self.time.is_zero() || bytes > 1 << 20 { 1 } else { 200 };
            let run = Instant::now();
            (0..calls).for_each(|_| call());
            best = best.min(run.elapsed().as_secs_f64() / f64::from(calls));
        }
        best
    }

    fn line(&self, name: &str, bytes: usize, call: impl FnMut()) {
        let (source, mut target) = (vec![1u8; bytes / 2], vec![0u8; bytes / 2]);
        let copy = self.seconds(bytes, || black_box(&mut target).copy_from_slice(black_box(&source)));
        let seconds = self.seconds(bytes, call);
        let rate = |s: f64| bytes as f64 / s / 1e9;
        println!(
            "{name:<44} {:>7.1} GB/s   memcpy {:>7.1} GB/s   ratio {:>5.2}",
            rate(seconds),
            rate(copy),
            copy / seconds
        );
    }
}

fn main() {
    let short = std::env::args().any(|a| a == "--short" || a == "--test");
    let bench = Bench { time: if short { Duration::ZERO } else { Duration::from_millis(300) } };
    let n = BLOCK_ELEMENTS;
    let values: Vec<f32> = (0..n).map(|i| (i as f32).sin() * 0.02).collect();
    println!("blocks of {n} elements; bytes are those read and written");

    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::F8E4M3, Dtype::F8E5M2, Dtype::F64] {
        let mut bytes = vec![0; n * dtype.bytes()];
        let mut out = vec![0.0; n];
        bench
            .line(&format!("{dtype} encode"), n * (4 + dtype.bytes()), || dtype.encode(black_box(&values), &mut bytes));
        bench.line(&format!("{dtype} decode"), n * (4 + dtype.bytes()), || {
            dtype.decode(black_box(&bytes), &mut out);
        });
        bench.line(&format!("{dtype} store"), n * (8 + dtype.bytes()), || {
            dtype.store(black_box(&mut out), &mut bytes, f32::MAX);
        });
    }
    let mut acc = values.clone();
    bench.line("delta", n * 12, || kernel::delta(black_box(&values), &mut acc));
    bench.line("axpy", n * 12, || kernel::axpy(0.3, black_box(&values), &mut acc));
    bench.line("add_scaled", n * 12, || kernel::add_scaled(black_box(&values), 0.3, &mut acc));
    bench.line("change", n * 8, || {
        black_box(kernel::change(black_box(&values), &acc));
    });
    bench.line("first_non_finite", n * 4, || {
        black_box(kernel::first_non_finite(black_box(&values)));
    });
    for models in [2, 3, 8] {
        let x = vec![values.clone(); models];
        let mut sums = vec![0.0; models];
        bench.line(&format!("saliency, {models} models"), n * 4 * models, || {
            kernel::deviations(black_box(&x), &mut sums);
        });
    }
    for models in [2, 3, 8] {
        let x = vec![&values[..]; models];
        let mut products = vec![0.0; models * (models + 1) / 2];
        bench.line(&format!("inner products, {models} models"), n * 4 * models, || {
            kernel::inner_products(black_box(&x), &mut products);
        });
    }
    let x = vec![values.clone(); 8];
    let mut scores = x.clone();
    bench.line("element scores, 8 models", n * 8 * 8, || kernel::element_deviations(black_box(&x), &mut scores));
    let x = vec![values.clone(); 3];
    let mut sign = vec![0.0; n];
    bench.line("elect_sum, 3 models", n * 16, || kernel::elect_sum(black_box(&x), &mut sign));
    merge_bf16(&bench, "bf16 widen, task arithmetic K = 3, round", n);
    merge_bf16(&bench, "the same from memory", if short { 4 * n } else { 8192 * n });
    histogram(&bench, &x[..1]);
}

fn histogram(bench: &Bench, x: &[Vec<f32>]) {
    use taskvec::survey::{Block, Finding as _, Largest, MAGNITUDES, Place, Statistic as _};
    let view = Box::new(|block: &Block<'_>, keys: &mut [Vec<u32>]| {
        keys[0].clear();
        keys[0].extend(block.experts[0].iter().map(|&x| kernel::magnitude_key(x)));
    });
    let ranks = Box::new(Largest::of_model(MAGNITUDES, view, 0..1, (1 << 20, &[vec![1]]), (0, 0), 1));
    bench.line("magnitude histogram", x[0].len() * 4, || {
        let place = Place { tensor: 0, name: "", shape: &[], first: 0 };
        ranks.observe(0, Block { place, base: &[], experts: black_box(x) }, &mut Vec::new());
    });
    black_box(ranks.finish());
}

/// The whole inner loop of task arithmetic on bf16, block by block: widen a base and three experts, add, round.
fn merge_bf16(bench: &Bench, name: &str, elements: usize) {
    let values: Vec<f32> = (0..elements).map(|i| (i as f32).cos() * 0.02).collect();
    let mut model = vec![0; elements * 2];
    Dtype::BF16.encode(&values, &mut model);
    let models = vec![model; 4];
    let block = || vec![0.0; BLOCK_ELEMENTS];
    let (mut base, mut x, mut acc, mut out) = (block(), block(), block(), vec![0; elements * 2]);
    bench.line(name, elements * 10, || {
        for (at, out) in (0..).step_by(2 * BLOCK_ELEMENTS).zip(out.chunks_exact_mut(2 * BLOCK_ELEMENTS)) {
            let bytes = |k: usize| black_box(&models[k][at..at + 2 * BLOCK_ELEMENTS]);
            Dtype::BF16.decode(bytes(0), &mut base);
            for k in 1..4 {
                Dtype::BF16.decode(bytes(k), &mut x);
                kernel::delta(&base, &mut x);
                if k == 1 { kernel::scale(0.3, &x, &mut acc) } else { kernel::axpy(0.3, &x, &mut acc) }
            }
            kernel::add_scaled(&base, 1.0, &mut acc);
            Dtype::BF16.store(&mut acc, out, f32::MAX);
        }
    });
}
