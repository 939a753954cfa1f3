//! A batch file: many merges, each with its output, and matrices of them.

use super::changes::{Change, changed};
use super::node::{Node, Value};
use super::{Stages, unknown};
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Jobs of a batch, at most.
const JOBS_MAX: usize = 10_000;

const KEYS: &[&str] = &["jobs", "matrix"];
const JOB_KEYS: &[&str] = &["name", "recipe", "output", "overrides", "matrix"];

/// Many merges.
#[derive(Clone, Debug)]
pub struct Batch {
    /// In the order in which they run; names and outputs differ.
    pub jobs: Vec<BatchJob>,
}

/// One merge of a batch.
#[derive(Clone, Debug)]
pub struct BatchJob {
    /// What messages call it.
    pub name: String,
    /// Where its recipe is.
    pub recipe: RecipeText,
    /// Its output, as written, placeholders filled in.
    pub output: String,
    /// Where it stands in the batch file.
    place: String,
    changes: Vec<Change>,
}

/// Where a recipe is.
#[derive(Clone, Debug)]
pub enum RecipeText {
    /// In this file, as written.
    Path(String),
    /// In the batch file.
    Inline(String),
}

impl Batch {
    /// Parses YAML, and makes one job of each cell of the matrices.
    pub fn parse(text: &str) -> Result<Self> {
        let value = Value::parse(text).map_err(|e| Error::recipe("batch", format!("not valid YAML: {e}")))?;
        let root = Node { value: &value, place: "recipe".into() };
        let fields = known_fields(&root, KEYS)?;
        let shared = field(&fields, "matrix").map_or(Ok(Vec::new()), axes)?;
        let list = field(&fields, "jobs").ok_or_else(|| Error::recipe("batch", "`jobs` is missing"))?.list()?;
        let mut jobs = Vec::new();
        for node in &list {
            jobs.extend(cells(node, &shared)?);
            if jobs.len() > JOBS_MAX {
                return Err(node.error(format!("more than {JOBS_MAX} jobs; split the batch")));
            }
        }
        if jobs.is_empty() {
            return Err(Error::recipe("jobs", "is empty"));
        }
        distinct(&jobs, "name", |job| &job.name)?;
        distinct(&jobs, "output", |job| job.output.trim_end_matches('/'))?;
        Ok(Self { jobs })
    }
}

impl BatchJob {
    /// The merge, made from the recipe's text.
    pub fn stages(&self, text: &str) -> Result<Stages> {
        let stages = match self.changes.as_slice() {
            [] => Stages::parse(text),
            changes => changed(text, changes).and_then(|text| Stages::parse(&text)),
        };
        stages.map_err(|e| self.located(e))
    }

    /// Says which job an error in a recipe is about.
    pub fn located(&self, error: Error) -> Error {
        match error {
            Error::Recipe { place, problem } => Error::recipe(format!("{}: {place}", self.place), problem),
            other => other,
        }
    }
}

/// One choice of an axis: what the output's name gets for it, and what it changes.
type Choice = (String, Change);
type Axis = (String, Vec<Choice>);

/// The jobs of one entry: one for each cell of its matrix.
fn cells(node: &Node<'_>, shared: &[Axis]) -> Result<Vec<BatchJob>> {
    let fields = known_fields(node, JOB_KEYS)?;
    let required = |key: &str| field(&fields, key).ok_or_else(|| node.error(format!("`{key}` is missing")));
    let (recipe, stem) = recipe(required("recipe")?)?;
    let output = required("output")?;
    let overrides = field(&fields, "overrides").map_or(Ok(Vec::new()), overrides)?;
    let own = field(&fields, "matrix").map_or(Ok(Vec::new()), axes)?;
    let replaced = |axis: &&Axis| !own.iter().any(|(name, _)| *name == axis.0);
    let axes: Vec<&Axis> = shared.iter().filter(replaced).chain(&own).collect();
    let name = match field(&fields, "name") {
        Some(name) => name.text()?.to_owned(),
        None => stem.ok_or_else(|| node.error("`name` is missing: an inline recipe gives none"))?,
    };
    if axes.iter().map(|a| a.1.len()).try_fold(1usize, usize::checked_mul).is_none_or(|n| n > JOBS_MAX) {
        return Err(node.error(format!("the matrix has more than {JOBS_MAX} cells")));
    }
    let mut jobs = Vec::new();
    for cell in product(&axes) {
        let mut words = BTreeMap::from([("name", name.as_str())]);
        words.extend(cell.iter().map(|(axis, choice)| (axis.as_str(), choice.0.as_str())));
        let label: Vec<String> = cell.iter().map(|(axis, choice)| format!("{axis} {}", choice.0)).collect();
        let name = if label.is_empty() { name.clone() } else { format!("{name} ({})", label.join(", ")) };
        jobs.push(BatchJob {
            place: format!("{} {name}", node.place),
            name,
            recipe: recipe.clone(),
            output: filled(output, &words)?,
            changes: overrides.iter().cloned().chain(cell.iter().map(|(_, choice)| choice.1.clone())).collect(),
        });
    }
    Ok(jobs)
}

/// A recipe's text or path, and the name that a path gives.
fn recipe(node: &Node<'_>) -> Result<(RecipeText, Option<String>)> {
    if let Value::Map(_) = node.value {
        return Ok((RecipeText::Inline(super::changes::text(node.value)), None));
    }
    let path = node.text()?;
    let stem = std::path::Path::new(path).file_stem().map(|s| s.to_string_lossy().into_owned());
    Ok((RecipeText::Path(path.to_owned()), stem))
}

fn overrides(node: &Node<'_>) -> Result<Vec<Change>> {
    node.map()?.into_iter().map(|(key, value)| Change::parse(key, &value)).collect()
}

/// `eta: [0.5, 0.7]`; or `models: {all: [a, b], few: [a]}`, whose keys name the choices.
fn axes(node: &Node<'_>) -> Result<Vec<Axis>> {
    let mut axes = Vec::new();
    for (name, values) in node.map()? {
        let choices: Vec<Choice> = if let Value::Map(_) = values.value {
            let choice = |(label, node): (&str, Node<'_>)| Ok((label.to_owned(), Change::parse(name, &node)?));
            values.map()?.into_iter().map(choice).collect::<Result<_>>()?
        } else {
            let choice = |node: Node<'_>| Ok((label(&node)?, Change::parse(name, &node)?));
            values.list()?.into_iter().map(choice).collect::<Result<_>>()?
        };
        if choices.is_empty() {
            return Err(values.error("has no choice"));
        }
        axes.push((name.to_owned(), choices));
    }
    Ok(axes)
}

/// What stands for a value in names.
fn label(node: &Node<'_>) -> Result<String> {
    match node.value {
        Value::Number(n) => Ok(n.to_string()),
        Value::Flag(flag) => Ok(flag.to_string()),
        Value::Text(text) => Ok(text.clone()),
        Value::Null => Ok("none".into()),
        Value::List(_) | Value::Map(_) => {
            Err(node.error("expected a number or a word; name such choices: {few: [...], all: [...]}"))
        }
    }
}

/// All combinations, the last axis changing fastest.
fn product<'a>(axes: &[&'a Axis]) -> Vec<Vec<(&'a String, &'a Choice)>> {
    let mut cells = vec![Vec::new()];
    for (name, choices) in axes {
        let longer = |cell: Vec<(&'a String, &'a Choice)>| {
            choices.iter().map(move |c| cell.iter().copied().chain([(name, c)]).collect())
        };
        cells = cells.into_iter().flat_map(longer).collect();
    }
    cells
}

/// Fills in `{name}` and `{axis}`. A choice must not lead out of the folder that the output names.
fn filled(node: &Node<'_>, words: &BTreeMap<&str, &str>) -> Result<String> {
    let mut rest = node.text()?;
    let mut out = String::new();
    while let Some((before, after)) = rest.split_once('{') {
        let (key, after) = after.split_once('}').ok_or_else(|| node.error("`{` without `}`"))?;
        let known: Vec<&str> = words.keys().copied().collect();
        let word = words.get(key).ok_or_else(|| node.error(unknown("placeholder", key, &known)))?;
        out.push_str(before);
        out.extend(word.chars().map(|c| if c == '/' || c == '\\' || c.is_control() { '_' } else { c }));
        rest = after;
    }
    out.push_str(rest);
    if out.is_empty() { Err(node.error("is empty")) } else { Ok(out) }
}

fn distinct<'a>(jobs: &'a [BatchJob], what: &str, of: impl Fn(&'a BatchJob) -> &'a str) -> Result<()> {
    let mut seen: BTreeMap<&str, &BatchJob> = BTreeMap::new();
    for job in jobs {
        if let Some(other) = seen.insert(of(job), job) {
            let hint = if what == "output" { "; put the matrix's axes into it, as in out/{name}-{eta}" } else { "" };
            let problem = format!("{} and {} have the same {what}, `{}`{hint}", other.place, job.place, of(job));
            return Err(Error::recipe("jobs", problem));
        }
    }
    Ok(())
}

fn known_fields<'a>(node: &Node<'a>, keys: &[&str]) -> Result<Vec<(&'a str, Node<'a>)>> {
    let fields = node.map()?;
    match fields.iter().find(|(key, _)| !keys.contains(key)) {
        Some((key, node)) => Err(node.error(unknown("key", key, keys))),
        None => Ok(fields),
    }
}

fn field<'a, 'b>(fields: &'b [(&'a str, Node<'a>)], key: &str) -> Option<&'b Node<'a>> {
    fields.iter().find(|(k, node)| *k == key && *node.value != Value::Null).map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n- {model: exp/a}\n- {model: exp/b}\n- {model: exp/c}\nparameters: {weight: 0.4}\n";

    fn refused(text: &str) -> String {
        Batch::parse(text).expect_err("the batch is refused").to_string()
    }

    #[test]
    fn a_matrix_makes_one_job_of_each_cell() {
        let text = "jobs:\n- {recipe: r/ta.yml, output: 'out/{name}-{eta}'}\n- {recipe: r/ties.yml, output: 'out/{name}-{eta}-{k}', matrix: {k: {two: 2}}}\nmatrix: {eta: [0.5, 0.7]}\n";
        let text = text.replace("k:", "lambda:").replace("{k}", "{lambda}");
        let outputs: Vec<String> = Batch::parse(&text).unwrap().jobs.into_iter().map(|j| j.output).collect();
        assert_eq!(outputs, ["out/ta-0.5", "out/ta-0.7", "out/ties-0.5-two", "out/ties-0.7-two"]);
    }

    #[test]
    fn changes_reach_the_recipe() {
        let text = "jobs:\n- recipe: r.yml\n  output: 'o{models}'\n  overrides: {eta: 0.5, lambda: 0.25, dtype: float32}\n  matrix: {models: {few: [a, c]}}\n";
        let job = &Batch::parse(text).unwrap().jobs[0];
        let recipe = job.stages(RECIPE).unwrap().last;
        let models: Vec<&str> = recipe.experts().iter().map(|e| e.model.as_str()).collect();
        assert_eq!(models, ["exp/a", "exp/c"]);
        assert!((recipe.lwptv.unwrap().eta.get() - 0.5).abs() < 1e-12);
        assert!(recipe.parameters.contains_key("lambda") && recipe.parameters.contains_key("weight"));
    }

    #[test]
    fn eta_null_takes_the_pruning_away() {
        let text = "jobs:\n- {recipe: r.yml, output: 'o-{eta}', matrix: {eta: [null, 0.7]}}\n";
        let jobs = Batch::parse(text).unwrap().jobs;
        let pruned = format!("{RECIPE}lwptv: {{eta: 0.3}}\n");
        assert_eq!(jobs[0].output, "o-none");
        assert!(jobs[0].stages(&pruned).unwrap().last.lwptv.is_none());
        assert!((jobs[1].stages(&pruned).unwrap().last.lwptv.unwrap().eta.get() - 0.7).abs() < 1e-12);
    }

    #[test]
    fn an_unchanged_recipe_keeps_its_text() {
        let job = &Batch::parse("jobs: [{recipe: r.yml, output: o}]").unwrap().jobs[0];
        assert_eq!(job.stages(RECIPE).unwrap().last.text, RECIPE);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        assert!(refused("jobs: [{recipe: r.yml, output: o}]\nmatrix: {eta: [0.5, 0.7]}").contains("out/{name}-{eta}"));
        assert!(refused("jobs: [{recipe: r.yml, outptu: o}]").contains("did you mean `output`"));
        assert!(
            refused("jobs: [{recipe: r.yml, output: 'o-{etta}', matrix: {eta: [1]}}]").contains("did you mean `eta`")
        );
        assert!(refused("jobs: []").contains("empty"));
        assert!(refused("jobs: [{recipe: {merge_method: linear}, output: o}]").contains("name"));
        let job = &Batch::parse("jobs: [{recipe: r.yml, output: o, overrides: {models: [a, d]}}]").unwrap().jobs[0];
        let message = job.stages(RECIPE).expect_err("no such model").to_string();
        assert!(message.contains("`d`") && message.contains("exp/a"), "{message}");
    }

    #[test]
    fn a_choice_cannot_lead_out_of_the_output_folder() {
        let job = Batch::parse("jobs: [{recipe: r.yml, output: 'o/{method}', matrix: {method: ['../../x']}}]");
        assert_eq!(job.unwrap().jobs[0].output, "o/.._.._x");
    }
}
