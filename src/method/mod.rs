//! Merge methods: a trait, and the table of all there are. A new method is one file and one line in [`METHODS`].
//!
//! Methods do no I/O and never see a whole model: they ask for statistics ([`Method::next_survey`]), then merge block by
//! block ([`Method::merge`]). Help, `taskvec methods`, recipe validation and the laws in `tests/method_laws.rs` are made
//! from the table. LwPTV is not a method but a stage that any method can wear.

mod arcee_fusion;
mod breadcrumbs;
mod breadcrumbs_ties;
mod cabs;
mod combination;
mod consensus_ta;
mod dare_linear;
mod dare_ties;
mod della;
mod della_linear;
mod document;
mod karcher;
mod largest;
mod linear;
mod lines;
mod magnitude;
mod metagpt;
mod model_stock;
mod multislerp;
mod nearswap;
mod nuslerp;
mod parameters;
mod passthrough;
mod pcb;
mod ram;
mod ramplus_tl;
mod random_mask;
mod rows;
mod sce;
mod settings;
mod slerp;
mod sparse;
mod tall_mask;
mod task_arithmetic;
mod ties;
mod wise_ft;

pub use document::document;
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
    /// What the method is defined on.
    pub basis: Basis,
    /// The least and the largest number of models besides the base.
    pub experts: (usize, usize),
    /// Reads over the inputs, without LwPTV.
    pub passes: &'static str,
    /// What it keeps in memory beyond what is under way.
    pub memory: &'static str,
    /// Where it differs from other codes of the method, and why.
    pub differs: &'static [&'static str],
    /// Its parameters.
    pub parameters: &'static [Parameter],
    /// Checks the settings and makes the method.
    pub start: fn(&Model<'_>) -> Result<Box<dyn Method>, String>,
}

/// Every method, by name.
pub static METHODS: &[Entry] = &[
    arcee_fusion::ENTRY,
    breadcrumbs::ENTRY,
    breadcrumbs_ties::ENTRY,
    cabs::ENTRY,
    consensus_ta::ENTRY,
    dare_linear::ENTRY,
    dare_ties::ENTRY,
    della::ENTRY,
    della_linear::ENTRY,
    karcher::ENTRY,
    linear::ENTRY,
    lines::ENTRY,
    magnitude::ENTRY,
    metagpt::ENTRY,
    model_stock::ENTRY,
    multislerp::ENTRY,
    nearswap::ENTRY,
    nuslerp::ENTRY,
    passthrough::ENTRY,
    pcb::ENTRY,
    ram::ENTRY,
    ramplus_tl::ENTRY,
    random_mask::ENTRY,
    sce::ENTRY,
    slerp::ENTRY,
    tall_mask::ENTRY,
    task_arithmetic::ENTRY,
    ties::ENTRY,
    wise_ft::ENTRY,
];

/// What a method is defined on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Weights; a base is no more than one of the models.
    Weights,
    /// Task vectors, so that a base is needed.
    TaskVectors,
    /// Task vectors if there is a base, else weights.
    Either,
}

impl Basis {
    /// What the method sees.
    pub fn form(self, has_base: bool) -> Form {
        match self {
            Self::TaskVectors => Form::TaskVectors,
            Self::Either if has_base => Form::TaskVectors,
            Self::Weights | Self::Either => Form::Weights,
        }
    }
}

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
    /// Seed of random draws.
    pub seed: u64,
    /// Number of tensors.
    pub tensors: usize,
    /// What the method sees of the experts.
    pub form: Form,
    /// The expert that is the base model itself, of methods on weights.
    pub base_expert: Option<usize>,
}

impl Model<'_> {
    /// The two ends of a way between two models: the first is the one that `base_model` names, if it is among them.
    fn ends(&self) -> (usize, usize) {
        if self.base_expert == Some(1) { (1, 0) } else { (0, 1) }
    }

    /// A parameter's values (one, or one per expert), which must not differ between tensors.
    fn uniform(&self, name: &str) -> Result<Vec<f64>, String> {
        let first = self.settings.first().map_or(&[][..], |s| s.get(name));
        if self.settings.iter().any(|s| s.get(name) != first) {
            return Err(format!("`{name}` must be the same for all tensors here: no gradient, no filter"));
        }
        Ok(first.to_vec())
    }

    /// Whether `scope` is tensor, for all tensors.
    fn of_tensors(&self) -> Result<bool, String> {
        Ok(self.uniform("scope")? != [1.0])
    }
}

/// What a method may know when it asks for a statistic.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Number of experts.
    pub experts: usize,
    /// Elements of all float tensors.
    pub elements: u64,
    /// Elements of layers that LwPTV pruned: their task vectors are zero and are not shown.
    pub hidden: u64,
    /// Number of threads that may observe at once.
    pub workers: usize,
    /// The tensors that are shown, ascending.
    pub tensors: &'a [Shown<'a>],
}

/// A tensor that a statistic sees.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// Its index in the plan.
    pub tensor: usize,
    /// Its shape.
    pub shape: &'a [u64],
    /// Product of the shape.
    pub elements: u64,
    /// The method's settings for it.
    pub settings: &'a Settings,
}

impl<'a> Scene<'a> {
    /// A tensor that is shown.
    pub fn of(&self, tensor: usize) -> &'a Shown<'a> {
        let found = self.tensors.binary_search_by_key(&tensor, |t| t.tensor);
        &self.tensors[found.expect("the tensor is shown")]
    }
}

/// A merge method with its settings.
pub trait Method: Send + Sync {
    /// The statistic to gather next, given those gathered so far; `None` means: merge now.
    fn next_survey<'a>(&'a self, _scene: Scene<'a>, _done: &'a [Survey]) -> Option<Box<dyn Finding + 'a>> {
        None
    }

    /// Reads over the inputs that its statistics take, at most.
    fn surveys(&self, _settings: &[Settings]) -> u64 {
        0
    }

    /// Elements that must be seen together in a tensor of this shape: 1 for elementwise methods, the last dimension for
    /// row-wise ones, `m` for n:m blocks, all for methods that need a whole matrix. Blocks are whole multiples of it.
    fn unit(&self, _shape: &[u64]) -> u64 {
        1
    }

    /// Whether [`Method::merge`] makes an output element of the same element of each model alone, wherever it lies: elements
    /// may then come in any order. Not so where draws are keyed by place, ties go by place, or rows count.
    fn is_elementwise(&self) -> bool {
        false
    }

    /// Bytes that the largest statistic keeps resident, whatever the tensors.
    fn resident_bytes(&self, _workers: usize) -> usize {
        0
    }

    /// How far an output value may be off, before rounding, where the experts' values are off by up to `errors`; `None`
    /// where nothing is known.
    fn error_bound(&self, _settings: &Settings, _errors: &[f64]) -> Option<f64> {
        None
    }

    /// Bytes that statistics keep for a tensor of so many elements, if they are gathered tensor by tensor: then tensors are
    /// surveyed and merged in waves that fit the memory. `None` if there are none, or they are about the whole model.
    fn tensor_bytes(&self, _elements: u64) -> Option<usize> {
        None
    }

    /// Whether it tells which elements count as which expert's.
    fn has_masks(&self) -> bool {
        false
    }

    /// Appends to the mask of each expert which elements of a block count as its own: a bit each, the first in the highest
    /// bit of a byte.
    fn mask(&self, _settings: &Settings, _block: &Tile<'_>, _masks: &mut [Vec<u8>]) {}

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
