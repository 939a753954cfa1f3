//! Parameters of methods: what they are, and their values for one tensor.

/// Whether a parameter is given per model or once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Under `models[].parameters`, or for all models under the top-level `parameters`.
    Model,
    /// Under the top-level `parameters` only.
    Global,
}

/// What values a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A number in a range, ends included.
    Number {
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
    },
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// One parameter of a method.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in recipes.
    pub name: &'static str,
    /// Per model or global.
    pub scope: Scope,
    /// Its values.
    pub kind: Kind,
    /// The value when none is given; `None` if it must be given. A flag is 0 or 1, a choice the word's place.
    pub default: Option<f64>,
    /// One line.
    pub help: &'static str,
}

impl Kind {
    /// Any number that an `f32` can hold.
    pub const NUMBER: Self = Self::Number { min: f32::MIN as f64, max: f32::MAX as f64 };
    /// A number from 0 to 1.
    pub const FRACTION: Self = Self::Number { min: 0.0, max: 1.0 };

    /// The values as text, for help and messages.
    pub fn describe(self) -> String {
        match self {
            Self::NUMBER => "a number".into(),
            Self::Number { min, max } if max >= f64::from(f32::MAX) => format!("a number from {min}"),
            Self::Number { min, max } => format!("a number from {min} to {max}"),
            Self::Flag => "true or false".into(),
            Self::Choice(words) => words.join(" | "),
        }
    }

    /// A value as text.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Number { .. } => value.to_string(),
            Self::Flag => (value != 0.0).to_string(),
            Self::Choice(words) => words.get(value as usize).map_or_else(String::new, ToString::to_string),
        }
    }
}

/// The values of all parameters of a method for one tensor.
#[derive(Clone, Debug)]
pub struct Settings {
    parameters: &'static [Parameter],
    /// Per parameter: one value, or one per expert.
    values: Vec<Vec<f64>>,
    depth: f64,
}

impl Settings {
    /// `values[i]` belongs to `parameters[i]`: one value, or one per expert. The tensor stands at `depth`, 0 to 1.
    pub fn new(parameters: &'static [Parameter], values: Vec<Vec<f64>>, depth: f64) -> Self {
        assert_eq!(parameters.len(), values.len());
        Self { parameters, values, depth }
    }

    /// The bits of all values: equal only where everything is.
    pub fn bits(&self) -> Vec<u64> {
        self.values.iter().flatten().chain([&self.depth]).map(|v| v.to_bits()).collect()
    }

    /// Where the tensor stands in its stack of blocks: 0 in the first and outside stacks, 1 in the last.
    pub fn depth(&self) -> f64 {
        self.depth
    }

    /// The values of all parameters, in the method's order.
    pub fn values(&self) -> &[Vec<f64>] {
        &self.values
    }

    /// All values of a parameter, if the method has it.
    pub fn find(&self, name: &str) -> Option<&[f64]> {
        let index = self.parameters.iter().position(|p| p.name == name)?;
        Some(&self.values[index])
    }

    /// All values of a parameter. Panics if the method has no such parameter.
    pub fn get(&self, name: &str) -> &[f64] {
        self.find(name).unwrap_or_else(|| panic!("no parameter `{name}`"))
    }

    /// A global number, rounded to `f32`.
    pub fn number(&self, name: &str) -> f32 {
        self.get(name)[0] as f32
    }

    /// A global flag.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name)[0] != 0.0
    }

    /// The place of a global choice among its words.
    pub fn choice(&self, name: &str) -> usize {
        self.get(name)[0] as usize
    }

    /// Numbers of all experts, each rounded to `f32`.
    pub fn per_model(&self, name: &str) -> impl Iterator<Item = f32> {
        self.get(name).iter().map(|&v| v as f32)
    }

    /// Multiplies a parameter that the method has.
    pub fn multiply(&mut self, name: &str, factor: f64) {
        if let Some(index) = self.parameters.iter().position(|p| p.name == name) {
            self.values[index].iter_mut().for_each(|v| *v *= factor);
        }
    }
}
