//! Parameters that several methods share, with mergekit's names and meanings.

use super::{Kind, Parameter, Scope};

pub const WEIGHT: Parameter = Parameter {
    name: "weight",
    scope: Scope::Model,
    kind: Kind::NUMBER,
    default: None,
    help: "Scale of this model's task vector.",
};

pub const DENSITY: Parameter = Parameter {
    name: "density",
    scope: Scope::Model,
    kind: Kind::FRACTION,
    default: Some(1.0),
    help: "Fraction of this model's values that is kept; 1 keeps all.",
};

pub const LAMBDA: Parameter = Parameter {
    name: "lambda",
    scope: Scope::Global,
    kind: Kind::NUMBER,
    default: Some(1.0),
    help: "Scale of the merged task vector.",
};

/// On by default: for methods with an election.
pub const NORMALIZE: Parameter = Parameter {
    name: "normalize",
    scope: Scope::Global,
    kind: Kind::Flag,
    default: Some(1.0),
    help: "Divide each element by the sum of the weights that agree with the elected sign (by 1 if it is 0).",
};

/// The same, off by default.
pub const NORMALIZE_OFF: Parameter = Parameter { default: Some(0.0), ..NORMALIZE };

/// Off by default: for methods without an election.
pub const NORMALIZE_SUM: Parameter = Parameter {
    name: "normalize",
    scope: Scope::Global,
    kind: Kind::Flag,
    default: Some(0.0),
    help: "Divide by the sum of weights (by 1 if its magnitude is below 1e-8).",
};

/// On by default: for random sparsifiers.
pub const RESCALE: Parameter = Parameter {
    name: "rescale",
    scope: Scope::Global,
    kind: Kind::Flag,
    default: Some(1.0),
    help: "Scale what is kept, to make up for what was dropped.",
};

/// Off by default: for sparsifiers that keep the largest.
pub const RESCALE_OFF: Parameter = Parameter {
    name: "rescale",
    scope: Scope::Global,
    kind: Kind::Flag,
    default: Some(0.0),
    help: "Scale what is kept so that each tensor's L1 norm stays what it was (one more pass).",
};

pub const GAMMA: Parameter = Parameter {
    name: "gamma",
    scope: Scope::Model,
    kind: Kind::FRACTION,
    default: Some(0.01),
    help: "Fraction of this model's values, the largest, that is dropped as outliers.",
};

pub const SCOPE: Parameter = Parameter {
    name: "scope",
    scope: Scope::Global,
    kind: Kind::Choice(&["tensor", "model"]),
    default: Some(0.0),
    help: "What values are ranked in: each tensor by itself, or the whole model.",
};

/// Words of [`RESCALE_BY`].
pub const RESCALES: &[&str] = &["norm", "probability"];

pub const RESCALE_BY: Parameter = Parameter {
    name: "rescale_by",
    scope: Scope::Global,
    kind: Kind::Choice(RESCALES),
    default: Some(0.0),
    help: "norm: each tensor's L1 norm stays what it was (mergekit; one more pass). probability: each value is divided \
           by its probability of being kept (the papers).",
};

pub const EPSILON: Parameter = Parameter {
    name: "epsilon",
    scope: Scope::Model,
    kind: Kind::FRACTION,
    default: Some(0.15),
    help: "Half the spread of probabilities: they run from density - epsilon to density + epsilon, inside (0, 1).",
};
