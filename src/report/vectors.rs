//! How task vectors lie to each other: on the page of `taskvec report --inputs` and on that of `taskvec compare`.

use super::charts::{Bar, bars, matrix};
use super::comparison::{Comparison, ModelDifference, PairDifference, TensorDifference};
use super::gist::percent;
use super::page::Page;
use super::xml::compact;
use std::fmt;

/// The page of `taskvec compare`. The same bytes for the same input.
pub fn compare_page(found: &Comparison) -> String {
    page(found).expect("a String takes any text")
}

fn page(found: &Comparison) -> Result<String, fmt::Error> {
    let names = found.short_names();
    let base = super::short_names(std::slice::from_ref(&found.base)).remove(0);
    let title = format!(
        "{} against {base}",
        if names.len() < 4 { names.join(", ") } else { format!("{} models", names.len()) }
    );
    let mut sections = vec![("vectors", "All tensors together"), ("tensors", "By tensor")];
    if !found.apart.is_empty() {
        sections.push(("apart", "Not compared"));
    }
    let about = format!("compared by taskvec: {} tensors, {} elements", found.tensors.len(), found.elements);
    let mut page = Page::begin(&title, &about, &sections)?;
    for (id, heading) in sections {
        page.section(id, heading, |p| match id {
            "vectors" => show(p, found, &names),
            "tensors" => tensors(p, found, &names),
            _ => apart(p, found, &names),
        })?;
    }
    Ok(page.finish())
}

/// The sums over all tensors.
pub fn show(p: &mut Page, found: &Comparison, names: &[String]) -> fmt::Result {
    let names = if names.len() == found.models.len() { names.to_vec() } else { found.short_names() };
    lengths(p, found, &names)?;
    if names.len() < 2 {
        return Ok(());
    }
    let conflict = |p: &PairDifference| p.sign_agreement.map(|a| 1.0 - a);
    let pair = |of: &dyn Fn(&PairDifference) -> Option<f64>, i, j| found.pair(i, j).and_then(of);
    let cosine = |p: &PairDifference| p.cosine;
    p.subheading("Cosine between task vectors")?;
    p.paragraph(
        "1: one direction, 0: at right angles, -1: against each other. Colours run over the values that there are.",
    )?;
    p.picture("Cosines", &matrix("Cosine between task vectors", &names, |i, j| pair(&cosine, i, j)))?;
    p.subheading("Sign conflict between task vectors")?;
    p.paragraph("Of the elements that both change, the share that they change in opposite directions.")?;
    p.picture("Sign conflicts", &matrix("Sign conflict between task vectors", &names, |i, j| pair(&conflict, i, j)))?;
    p.folded("All pairs as a table", |p| {
        let row = |pair: &PairDifference| {
            let none = || "-".to_owned();
            let conflict = conflict(pair).map_or_else(none, |v| format!("{v:.4}"));
            let cosine = pair.cosine.map_or_else(none, |v| format!("{v:.4}"));
            vec![format!("{}, {}", names[pair.a], names[pair.b]), cosine, conflict, pair.both_changed.to_string()]
        };
        let head = ["models", "cosine", "sign conflict", "elements that both change"];
        p.table("Pairs of task vectors", &head, found.total.pairs.iter().map(row))
    })
}

fn lengths(p: &mut Page, found: &Comparison, names: &[String]) -> fmt::Result {
    let most = found.total.models.iter().filter_map(|m| m.relative_l2).fold(0.0, f64::max);
    let bar = |(name, m): (&String, &ModelDifference)| Bar {
        label: name.clone(),
        start: 0.0,
        length: m.relative_l2.map_or(0.0, |l| if most > 0.0 { l / most } else { 0.0 }),
        says: format!("{}, {} changed", number(m.relative_l2), percent(m.changed_share, 1.0)),
        second: false,
    };
    p.paragraph(
        "The length (L2) of each task vector over the length of the base, and the share of elements that it changes.",
    )?;
    let list: Vec<Bar> = names.iter().zip(&found.total.models).map(bar).collect();
    p.picture("Lengths", &bars("Length of each task vector over the length of the base", &list))?;
    let row = |(name, m): (&String, &ModelDifference)| {
        let not_finite = m.non_finite.to_string();
        let max = number(m.max_abs.map(f64::from));
        vec![
            name.clone(),
            number(m.relative_l2),
            number(m.l2),
            percent(m.changed_share, 1.0),
            max,
            near_one(m.cosine_to_base),
            not_finite,
        ]
    };
    let head = ["model", "relative L2", "L2", "changed", "largest change", "cosine to the base", "not finite"];
    p.table(
        "Task vectors: length over the base's length, and what it comes from",
        &head,
        names.iter().zip(&found.total.models).map(row),
    )
}

fn tensors(p: &mut Page, found: &Comparison, names: &[String]) -> fmt::Result {
    let row = |t: &TensorDifference| {
        let shape = format!("{:?}", t.shape);
        let of = |m: &ModelDifference| {
            [percent(m.changed_share, 1.0), number(m.max_abs.map(f64::from)), number(m.relative_l2)]
        };
        [t.name.clone(), shape].into_iter().chain(t.found.models.iter().flat_map(of)).collect::<Vec<_>>()
    };
    let columns = names.iter().flat_map(|n| ["changed", "largest", "relative L2"].map(|what| format!("{n}: {what}")));
    let head: Vec<String> = ["tensor".to_owned(), "shape".to_owned()].into_iter().chain(columns).collect();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    p.table("Each tensor of each model against the base", &head, found.tensors.iter().map(row))?;
    if names.len() < 2 {
        return Ok(());
    }
    let pairs = |t: &TensorDifference| {
        let cells = |p: &PairDifference| [cosine(p.cosine), cosine(p.sign_agreement)];
        let none = || vec!["-".to_owned(); 2 * found.total.pairs.len()];
        let cells = if t.found.pairs.is_empty() { none() } else { t.found.pairs.iter().flat_map(cells).collect() };
        std::iter::once(t.name.clone()).chain(cells).collect::<Vec<_>>()
    };
    let columns = found
        .total
        .pairs
        .iter()
        .flat_map(|p| ["cosine", "agree"].map(|what| format!("{}, {}: {what}", names[p.a], names[p.b])));
    let head: Vec<String> = std::iter::once("tensor".to_owned()).chain(columns).collect();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    p.folded("Each pair of task vectors, by tensor", |p| {
        p.table("Cosine, and sign agreement of the elements that both change", &head, found.tensors.iter().map(pairs))
    })
}

fn apart(p: &mut Page, found: &Comparison, names: &[String]) -> fmt::Result {
    p.paragraph("These tensors are not in all models, or have other shapes, or integers meet floats.")?;
    let row = |a: &super::comparison::Apart| {
        let cells = std::iter::once(&a.base).chain(&a.models).map(|c| c.clone().unwrap_or_else(|| "missing".into()));
        std::iter::once(a.name.clone()).chain(cells).collect::<Vec<_>>()
    };
    let head: Vec<&str> = ["tensor", "base"].into_iter().chain(names.iter().map(String::as_str)).collect();
    p.table("Dtype and shape in each", &head, found.apart.iter().map(row))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), compact)
}

fn cosine(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.4}"))
}

/// A cosine that differs from 1 far behind the point.
fn near_one(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.7}"))
}
