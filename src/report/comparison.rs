//! What `taskvec compare` found.

use super::table::Table;
use super::xml::compact;
use crate::pass::PassRun;
use serde::Serialize;

/// A base and models, tensor by tensor; `schema_version` 1.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// 1.
    pub schema_version: u32,
    /// The base, as given.
    pub base: String,
    /// The models, as given.
    pub models: Vec<String>,
    /// Elements of all tensors that were compared.
    pub elements: u64,
    /// Over all tensors.
    pub total: Difference,
    /// The tensors that all models have alike, in the base's order.
    pub tensors: Vec<TensorDifference>,
    /// Those that only some models have, or in other shapes.
    pub apart: Vec<Apart>,
    /// What it cost; the only part that differs between runs.
    pub run: CompareCost,
}

/// A tensor that was compared.
#[derive(Clone, Debug, Serialize)]
pub struct TensorDifference {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its dtype in the base and in each model.
    pub dtypes: Vec<String>,
    /// Its elements.
    pub elements: u64,
    /// What was found.
    #[serde(flatten)]
    pub found: Difference,
}

/// How models differ.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Each model from the base.
    pub models: Vec<ModelDifference>,
    /// Each pair of task vectors; empty where there are none (one model, integers).
    pub pairs: Vec<PairDifference>,
}

/// A model against the base. What is `None` has no meaning: integers, or a length of 0.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ModelDifference {
    /// Elements whose value is another.
    pub changed: u64,
    /// `changed` over all elements.
    pub changed_share: f64,
    /// Elements whose difference is not finite; everywhere else they count as not changed.
    pub non_finite: u64,
    /// The largest absolute difference.
    pub max_abs: Option<f32>,
    /// Length of the task vector.
    pub l2: Option<f64>,
    /// The same over the length of the base.
    pub relative_l2: Option<f64>,
    /// Cosine between the weights of both.
    pub cosine_to_base: Option<f64>,
}

/// Two task vectors.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PairDifference {
    /// Index of a model.
    pub a: usize,
    /// Index of a later one.
    pub b: usize,
    /// Cosine; `None` if one is 0.
    pub cosine: Option<f64>,
    /// Elements that both change.
    pub both_changed: u64,
    /// Share of them that both change in one direction; `None` if there are none.
    pub sign_agreement: Option<f64>,
}

/// A tensor that was not compared.
#[derive(Clone, Debug, Serialize)]
pub struct Apart {
    /// Its name.
    pub name: String,
    /// Dtype and shape in the base; `None` where it is missing.
    pub base: Option<String>,
    /// The same in each model.
    pub models: Vec<Option<String>>,
}

/// What a comparison cost.
#[derive(Clone, Debug, Serialize)]
pub struct CompareCost {
    /// The passes.
    pub passes: Vec<PassRun>,
    /// The plan's peak of memory.
    pub peak_bytes: u64,
    /// Seconds in all.
    pub seconds: f64,
}

impl Comparison {
    /// The models' names, each as short as it can be told from the others.
    pub fn short_names(&self) -> Vec<String> {
        super::short_names(&self.models)
    }

    /// The text for a terminal.
    pub fn text(&self) -> String {
        let mut text = if self.models.len() == 1 { self.table_of_one() } else { self.table_of_many() }.to_string();
        if !self.apart.is_empty() {
            text += &format!(
                "\nnot compared: {} tensors that not all models have alike\n{}",
                self.apart.len(),
                self.table_of_apart()
            );
        }
        text += &format!("\n{}", self.summary());
        if self.models.len() > 1 {
            for (title, of) in [
                ("cosine between task vectors", (|p: &PairDifference| p.cosine) as fn(&PairDifference) -> Option<f64>),
                ("sign agreement, of elements that both change", |p| p.sign_agreement),
            ] {
                text += &format!("\n{title}\n{}", self.matrix(of));
            }
        }
        text
    }

    fn table_of_one(&self) -> Table {
        let mut table = Table::new(&["tensor", "dtype", "shape", "changed %", "max abs", "relative L2", "cosine"]);
        for t in &self.tensors {
            let m = &t.found.models[0];
            let mut dtypes = t.dtypes.clone();
            dtypes.dedup();
            table.row([
                t.name.clone(),
                dtypes.join(" > "),
                format!("{:?}", t.shape),
                percent(m.changed_share),
                number(m.max_abs.map(f64::from)),
                number(m.relative_l2),
                m.cosine_to_base.map_or("-".into(), |c| format!("{c:.6}")),
            ]);
        }
        table
    }

    /// With several models a row tells the ranges over them.
    fn table_of_many(&self) -> Table {
        let mut table =
            Table::new(&["tensor", "shape", "changed %", "max abs", "relative L2", "cosines", "sign agreement"]);
        for t in &self.tensors {
            let of =
                |f: &dyn Fn(&ModelDifference) -> Option<f64>| t.found.models.iter().filter_map(f).collect::<Vec<_>>();
            let pairs = |f: fn(&PairDifference) -> Option<f64>| t.found.pairs.iter().filter_map(f).collect::<Vec<_>>();
            table.row([
                t.name.clone(),
                format!("{:?}", t.shape),
                range(&of(&|m| Some(m.changed_share)), percent),
                range(&of(&|m| m.max_abs.map(f64::from)), |v| number(Some(v))),
                range(&of(&|m| m.relative_l2), |v| number(Some(v))),
                range(&pairs(|p| p.cosine), |v| format!("{v:.3}")),
                range(&pairs(|p| p.sign_agreement), |v| format!("{v:.3}")),
            ]);
        }
        table
    }

    fn table_of_apart(&self) -> Table {
        let names = self.short_names();
        let heading: Vec<&str> = ["tensor", "base"].into_iter().chain(names.iter().map(String::as_str)).collect();
        let mut table = Table::new(&heading);
        for a in &self.apart {
            let cells =
                std::iter::once(&a.base).chain(&a.models).map(|c| c.clone().unwrap_or_else(|| "missing".into()));
            table.row(std::iter::once(a.name.clone()).chain(cells));
        }
        table
    }

    fn summary(&self) -> Table {
        let first = format!(
            "all {} tensors against {}",
            self.tensors.len(),
            super::short_names(std::slice::from_ref(&self.base))[0]
        );
        let mut table = Table::new(&[&first, "changed %", "max abs", "L2", "relative L2", "cosine", "not finite"]);
        for (name, m) in self.short_names().into_iter().zip(&self.total.models) {
            table.row([
                name,
                percent(m.changed_share),
                number(m.max_abs.map(f64::from)),
                number(m.l2),
                number(m.relative_l2),
                m.cosine_to_base.map_or("-".into(), |c| format!("{c:.6}")),
                m.non_finite.to_string(),
            ]);
        }
        table
    }

    fn matrix(&self, of: fn(&PairDifference) -> Option<f64>) -> Table {
        let names = self.short_names();
        let heading: Vec<&str> = [""].into_iter().chain(names.iter().map(String::as_str)).collect();
        let mut table = Table::new(&heading);
        for (i, name) in names.iter().enumerate() {
            let cell = |j: usize| match self.pair(i, j) {
                None => String::new(),
                Some(p) => of(p).map_or("-".into(), |v| format!("{v:.4}")),
            };
            table.row(std::iter::once(name.clone()).chain((0..names.len()).map(cell)));
        }
        table
    }

    /// The pair of two different models, in either order.
    pub fn pair(&self, i: usize, j: usize) -> Option<&PairDifference> {
        self.total.pairs.iter().find(|p| (p.a, p.b) == (i.min(j), i.max(j)))
    }
}

fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".into(), compact)
}

/// One value, or the smallest and the largest.
fn range(values: &[f64], show: impl Fn(f64) -> String) -> String {
    let low = values.iter().copied().reduce(f64::min).map(&show);
    let high = values.iter().copied().reduce(f64::max).map(&show);
    match (low, high) {
        (Some(low), Some(high)) if low == high => low,
        (Some(low), Some(high)) => format!("{low}..{high}"),
        _ => "-".into(),
    }
}
