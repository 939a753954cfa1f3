//! Merge methods: a trait, and the table of all there are. A new method is one file and one line in [`METHODS`].
//!
//! Methods do no I/O and never see a whole model: they ask for statistics ([`Method::next_survey`]), then merge block by
//! block ([`Method::merge`]). Help, `taskvec methods`, recipe validation and the laws in `tests/method_laws.rs` are made
//! from the table. LwPTV is not a method but a stage that any method can wear.

mod linear;
mod settings;
mod task_arithmetic;
mod ties;

pub use settings::{Kind, Parameter, Scope, Settings};

use crate::survey::{Finding, Form, Place, Survey};

/// Everything that is known of a merge method.
#[derive(Debug)]
pub struct Entry {
    /// The name in a recipe's `merge_method`.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// The formula, in plain text.
    pub formula: &'static str,
    /// Paper and equation, or the tool whose semantics these are.
    pub source: &'static str,
    /// Whether the method is defined on task vectors (and so needs a base) or on weights.
    pub form: Form,
    /// Reads over the inputs, without LwPTV.
    pub passes: &'static str,
    /// Its parameters.
    pub parameters: &'static [Parameter],
    /// Checks the settings and makes the method.
    pub start: fn(&Model<'_>) -> Result<Box<dyn Method>, String>,
}

/// Every method, by name.
pub static METHODS: &[Entry] = &[linear::ENTRY, task_arithmetic::ENTRY, ties::ENTRY];

/// The method with this name.
pub fn find(name: &str) -> Option<&'static Entry> {
    METHODS.iter().find(|m| m.name == name)
}

/// What a method may know of the model as a whole.
#[derive(Debug)]
pub struct Model<'a> {
    /// Number of experts.
    pub experts: usize,
    /// Elements of all float tensors.
    pub elements: u64,
    /// The distinct settings that occur.
    pub settings: &'a [Settings],
}

impl Model<'_> {
    /// A parameter's values (one, or one per expert), which must not differ between tensors.
    fn uniform(&self, name: &str) -> Result<Vec<f64>, String> {
        let first = self.settings.first().map_or(&[][..], |s| s.get(name));
        if self.settings.iter().any(|s| s.get(name) != first) {
            return Err(format!("`{name}` must be the same for all tensors here: no gradient, no filter"));
        }
        Ok(first.to_vec())
    }
}

/// What a method may know when it asks for a statistic.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Number of experts.
    pub experts: usize,
    /// Elements of all float tensors.
    pub elements: u64,
    /// Elements of layers that LwPTV pruned: their task vectors are zero and are not shown.
    pub hidden: u64,
    /// Number of threads that may observe at once.
    pub workers: usize,
}

/// A merge method with its settings.
pub trait Method: Send + Sync {
    /// The statistic to gather next, given those gathered so far; `None` means: merge now.
    fn next_survey(&self, _scene: Scene, _done: &[Survey]) -> Option<Box<dyn Finding>> {
        None
    }

    /// Elements that must be seen together in a tensor of this shape: 1 for elementwise methods, the last dimension for
    /// row-wise ones, `m` for n:m blocks, all for methods that need a whole matrix. Blocks are whole multiples of it.
    fn unit(&self, _shape: &[u64]) -> u64 {
        1
    }

    /// Whether an output element depends on the same element of each model alone, wherever it lies: elements may then come
    /// in any order.
    fn is_elementwise(&self) -> bool {
        false
    }

    /// Bytes that the largest statistic keeps resident.
    fn resident_bytes(&self, _workers: usize) -> usize {
        0
    }

    /// How far an output value may be off, before rounding, where the experts' values are off by up to `errors`; `None`
    /// where nothing is known.
    fn error_bound(&self, _settings: &Settings, _errors: &[f64]) -> Option<f64> {
        None
    }

    /// Merges one block into `out`.
    fn merge(&self, settings: &Settings, done: &[Survey], block: Tile<'_>, out: &mut [f32]);
}

/// A block of one tensor over all models, to be merged.
#[derive(Debug)]
pub struct Tile<'a> {
    /// Where the block lies.
    pub place: Place<'a>,
    /// The base's values; empty if there is no base.
    pub base: &'a [f32],
    /// Each expert's values in the method's form; free to be overwritten. An expert that its own mask prunes here has a
    /// zero task vector.
    pub experts: &'a mut [Vec<f32>],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_distinct() {
        assert!(METHODS.windows(2).all(|w| w[0].name < w[1].name));
    }
}
