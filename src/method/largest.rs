//! The largest magnitudes of task vectors: how methods ask for them, and how they take them.

use super::Scene;
use crate::kernel;
use crate::survey::{Bar, Block, Largest, MAGNITUDES, View};

/// For each tensor and expert the `counts(tensor, expert)` largest magnitudes, exactly.
pub fn magnitude_bars<'a>(scene: Scene<'a>, counts: impl Fn(&super::Shown<'a>, usize) -> Vec<u64>) -> Largest<'a> {
    let asked = |t: &super::Shown<'a>| (t.tensor, t.elements, (0..scene.experts).map(|k| counts(t, k)).collect());
    let asked = scene.tensors.iter().map(asked).collect();
    Largest::per_tensor(MAGNITUDES, magnitudes(), asked, scene.workers)
}

/// For each expert the `counts[expert]` largest magnitudes of the whole model, and what ties with the last.
pub fn magnitude_bars_of_model(scene: Scene<'_>, counts: Vec<u64>) -> Largest<'_> {
    let rows: Vec<Vec<u64>> = counts.into_iter().map(|c| vec![c]).collect();
    let tensors = scene.tensors.iter().map(|t| t.tensor);
    let hidden = (kernel::magnitude_key(0.0), scene.hidden);
    Largest::of_model(MAGNITUDES, magnitudes(), tensors, (scene.elements, &rows), hidden, scene.workers).of_magnitudes()
}

/// Keeps the values that clear the bar in the block that starts at `first`, and makes the others 0.
pub fn keep_largest(bar: Bar, first: u64, x: &mut [f32]) {
    kernel::keep_above(kernel::magnitude_of_key(bar.key), bar.equals_in(first), x);
}

fn magnitudes() -> View<'static> {
    Box::new(|block: &Block<'_>, keys: &mut [Vec<u32>]| {
        for (x, keys) in block.experts.iter().zip(keys) {
            keys.clear();
            keys.extend(x.iter().map(|&x| kernel::magnitude_key(x)));
        }
    })
}
