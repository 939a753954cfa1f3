//! What each tensor of the output is made from: modules and slices laid out, their layers numbered anew.
//!
//! A slice takes the same number of layers from each of its sources; the output's layers run on from slice to slice.
//! Tensors outside the stack of layers come from the first slice's sources where their names say that they belong before
//! it, else from the last slice's.

use super::stack::{Stack, heights, is_before_layers};
use crate::error::{Error, Result};
use crate::recipe::{Recipe, Slice, same_path};
use crate::tensor::Inventory;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A tensor of the output and where it comes from.
#[derive(Debug)]
pub struct Row<'a> {
    /// Its name in the output.
    pub name: Cow<'a, str>,
    /// Index into [`Recipe::modules`].
    pub module: usize,
    /// Index into the module's slices.
    pub slice: usize,
    /// Its depth in its slice; `None` where its own name tells.
    pub depth: Option<f64>,
    /// By source, the base first if there is one; `None` where the source does not have it.
    pub cells: Vec<Option<Cell>>,
    /// Why it is copied, if the recipe says so.
    pub taken: Option<Taken>,
}

/// A tensor of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Index into the distinct models.
    pub model: usize,
    /// Index into its tensors.
    pub tensor: usize,
}

/// What the recipe says of a tensor that is copied, not merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// `exclude`: the base's (the first model's where there is no base).
    Excluded,
    /// `copy_from`: another model's.
    CopiedFrom,
}

/// A stack whose layers are not those of the reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restack {
    /// The stack's name.
    pub stack: String,
    /// Layers that the reference's stack has.
    pub height: u32,
    /// For each layer of the output the layer of the first source that it is made from.
    pub layers: Vec<u32>,
}

/// The output's tensors.
#[derive(Debug, Default)]
pub struct Assembly<'a> {
    /// In the output's order.
    pub rows: Vec<Row<'a>>,
    /// The stacks that change.
    pub restacked: Vec<Restack>,
}

impl Assembly<'_> {
    /// Notes a stack whose layers are not those of the reference.
    fn restack(&mut self, stack: &str, layers: Vec<u32>, reference: &BTreeMap<&str, u32>) {
        let height = reference.get(stack).copied().unwrap_or_default();
        if !layers.iter().copied().eq(0..height) {
            self.restacked.push(Restack { stack: stack.to_owned(), height, layers });
        }
    }
}

/// The distinct models of a recipe.
#[derive(Debug)]
pub struct Models<'a> {
    /// What the recipe calls them.
    references: Vec<&'a str>,
    /// Their headers.
    pub inventories: &'a [Inventory],
    by_name: Vec<BTreeMap<&'a str, usize>>,
}

impl<'a> Models<'a> {
    /// `inventories` are those of [`Recipe::references`], in order.
    pub fn new(recipe: &'a Recipe, inventories: &'a [Inventory]) -> Self {
        let names = |i: &'a Inventory| i.tensors.iter().enumerate().map(|(n, t)| (t.name.as_str(), n)).collect();
        let references = recipe.references();
        assert_eq!(references.len(), inventories.len());
        Self { references, inventories, by_name: inventories.iter().map(names).collect() }
    }

    /// The model that a reference names.
    pub fn index(&self, reference: &str) -> usize {
        let found = self.references.iter().position(|r| same_path(r, reference));
        found.expect("every model of the recipe is among its references")
    }

    fn has(&self, model: usize, name: &str) -> bool {
        self.by_name[model].contains_key(name)
    }

    fn heights(&self, model: usize) -> BTreeMap<&'a str, u32> {
        heights(self.inventories[model].tensors.iter().map(|t| t.name.as_str()))
    }

    /// The tensor of this name in a model: where it has no `lm_head.weight` and its configuration says that the head is the
    /// embedding, that one.
    fn find(&self, model: usize, name: &str) -> Option<Cell> {
        let names = &self.by_name[model];
        let found = names.get(name).copied().or_else(|| {
            let tied = self.inventories[model].tied && name.ends_with("lm_head.weight");
            tied.then(|| names.iter().find(|(n, _)| is_embedding(n)).map(|(_, &t)| t)).flatten()
        });
        found.map(|tensor| Cell { model, tensor })
    }
}

fn is_embedding(name: &str) -> bool {
    name.ends_with("embed_tokens.weight") || name.ends_with("wte.weight")
}

/// Lays out the recipe's modules, then takes out what is copied.
pub fn assemble<'a>(recipe: &Recipe, models: &'a Models<'a>) -> Result<Assembly<'a>> {
    let mut assembly = Assembly::default();
    let owners = Owners::new(recipe);
    owners.check(recipe, models)?;
    let first = recipe.modules[0].slices[0].origins().next().map_or(0, |(model, _)| models.index(model));
    let reference = models.heights(first);
    for module in 0..recipe.modules.len() {
        let part = Part { recipe, models, owners: &owners, reference: &reference, module };
        let before = assembly.rows.len();
        part.lay_out(&mut assembly)?;
        if assembly.rows.len() == before {
            return Err(owners.nothing_in(recipe, module, models));
        }
    }
    take_copies(recipe, models, &mut assembly.rows)?;
    check_deltas(models, &assembly.rows)?;
    Ok(assembly)
}

/// Which module a tensor belongs to: the one with the longest name that its name begins with.
struct Owners<'a> {
    names: Vec<Option<&'a str>>,
}

impl<'a> Owners<'a> {
    fn new(recipe: &'a Recipe) -> Self {
        Self { names: recipe.modules.iter().map(|m| m.name.as_deref()).collect() }
    }

    fn of(&self, tensor: &str) -> Option<usize> {
        let begins =
            |name: &str| tensor.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let holds = |m: &usize| self.names[*m].is_none_or(begins);
        (0..self.names.len()).filter(holds).max_by_key(|m| self.names[*m].map(str::len))
    }

    /// Fails if a tensor is in no module.
    fn check(&self, recipe: &Recipe, models: &Models<'_>) -> Result<()> {
        for (model, _) in recipe.slices().flat_map(Slice::origins) {
            let inventory = &models.inventories[models.index(model)];
            if let Some(t) = inventory.tensors.iter().find(|t| self.of(&t.name).is_none()) {
                let problem = format!("no module takes tensor `{}` of `{model}`; add a module `default`", t.name);
                return Err(Error::recipe("modules", problem));
            }
        }
        Ok(())
    }

    fn nothing_in(&self, recipe: &Recipe, module: usize, models: &Models<'_>) -> Error {
        let Some(name) = self.names[module] else {
            return Error::recipe("modules.default", "no tensors are left for it; remove it");
        };
        let first = models.index(recipe.modules[module].slices[0].origins().next().map_or("", |(model, _)| model));
        let mut beginnings: Vec<&str> = Vec::new();
        for t in &models.inventories[first].tensors {
            let beginning = t.name.split('.').next().unwrap_or_default();
            if !beginnings.contains(&beginning) {
                beginnings.push(beginning);
            }
        }
        let problem = format!("no tensor begins with `{name}.`; names begin with {}", beginnings.join(", "));
        Error::recipe(format!("modules.{name}"), problem)
    }
}

/// One module.
struct Part<'p, 'a> {
    recipe: &'p Recipe,
    models: &'a Models<'a>,
    owners: &'p Owners<'p>,
    /// Layers of the stacks of the model that `config.json` is taken from.
    reference: &'p BTreeMap<&'a str, u32>,
    module: usize,
}

/// A slice's sources: model and layers.
type Sources = Vec<(usize, Range<u32>)>;

impl<'a> Part<'_, 'a> {
    fn slices(&self) -> &[Slice] {
        &self.recipe.modules[self.module].slices
    }

    fn holds(&self, tensor: &str) -> bool {
        self.owners.of(tensor) == Some(self.module)
    }

    fn lay_out(&self, assembly: &mut Assembly<'a>) -> Result<()> {
        if let [slice] = self.slices()
            && !slice.has_layers()
        {
            let models: Vec<usize> = slice.origins().map(|(model, _)| self.models.index(model)).collect();
            self.add_named(0, &models, &|_, _| true, &mut assembly.rows);
            let stacks =
                self.models.heights(models[0]).into_iter().filter(|(stack, _)| self.holds(&format!("{stack}.0")));
            stacks.for_each(|(stack, height)| assembly.restack(stack, (0..height).collect(), self.reference));
            return Ok(());
        }
        let stacks = self.stacks()?;
        let slices = self.slices().iter().map(|s| self.sources(s, &stacks)).collect::<Result<Vec<_>>>()?;
        let (first, last) = (&slices[0], &slices[slices.len() - 1]);
        let models = |sources: &Sources| sources.iter().map(|(model, _)| *model).collect::<Vec<_>>();
        let outside = |model: usize, name: &str| !stacks[&model].holds(name);
        let rows = &mut assembly.rows;
        self.add_named(0, &models(first), &|m, name| outside(m, name) && is_before_layers(name), rows);
        let mut layers = Vec::new();
        for (slice, sources) in slices.iter().enumerate() {
            self.add_layers(slice, sources, &stacks, layers.len(), rows)?;
            layers.extend(sources[0].1.clone());
        }
        let after = &|m, name: &str| outside(m, name) && !is_before_layers(name);
        self.add_named(slices.len() - 1, &models(last), after, rows);
        assembly.restack(&stacks[&first[0].0].name, layers, self.reference);
        Ok(())
    }

    /// The stack of each model that its layers are taken from.
    fn stacks(&self) -> Result<BTreeMap<usize, Stack<'_>>> {
        let mut ends: BTreeMap<usize, (u32, &str)> = BTreeMap::new();
        for slice in self.slices() {
            for (model, layers) in slice.origins() {
                let end = ends.entry(self.models.index(model)).or_insert((0, slice.place.as_str()));
                *end = (end.0.max(layers.map_or(0, |l| l.end)), end.1);
            }
        }
        let stack = |(model, (end, place)): (usize, (u32, &str))| {
            let inventory = &self.models.inventories[model];
            let tensors = inventory.tensors.iter().enumerate().filter(|(_, t)| self.holds(&t.name));
            let stack = Stack::find(tensors.map(|(i, t)| (i, t.name.as_str())), end);
            let stack = stack.map_err(|problem| Error::recipe(place, format!("`{}` {problem}", inventory.label)))?;
            Ok((model, stack))
        };
        ends.into_iter().map(stack).collect()
    }

    fn sources(&self, slice: &Slice, stacks: &BTreeMap<usize, Stack<'_>>) -> Result<Sources> {
        let mut sources = Sources::new();
        for (reference, layers) in slice.origins() {
            let model = self.models.index(reference);
            let stack = &stacks[&model];
            let layers = layers.cloned().unwrap_or(0..stack.height);
            let (first, length) = sources.first().map_or((stack, layers.len()), |(m, l)| (&stacks[m], l.len()));
            let range = format!("layer_range [{}, {}]", layers.start, layers.end);
            let problem = if layers.end > stack.height {
                format!("{range}: `{reference}` has {} layers in `{}`", stack.height, stack.name)
            } else if layers.len() != length {
                format!("{range}: {} layers of `{reference}`, but {length} of the first source", layers.len())
            } else if stack.name != first.name {
                format!(
                    "the layers of `{reference}` are in `{}`, those of the first source in `{}`",
                    stack.name, first.name
                )
            } else {
                sources.push((model, layers));
                continue;
            };
            return Err(Error::recipe(slice.place.clone(), problem));
        }
        Ok(sources)
    }

    /// Adds the tensors that `wanted` picks, by name: those of the first model in its order, then what only others have.
    fn add_named(&self, slice: usize, models: &[usize], wanted: &dyn Fn(usize, &str) -> bool, rows: &mut Vec<Row<'a>>) {
        let takes = |model: usize, name: &str| self.holds(name) && wanted(model, name);
        let known: &'a Models<'a> = self.models;
        for (i, &model) in models.iter().enumerate() {
            for t in &known.inventories[model].tensors {
                let seen = |&earlier: &usize| known.has(earlier, &t.name) && takes(earlier, &t.name);
                if takes(model, &t.name) && !models[..i].iter().any(seen) {
                    let cells = models.iter().map(|&m| known.find(m, &t.name)).collect();
                    rows.push(self.row(Cow::Borrowed(&t.name), slice, None, cells));
                }
            }
        }
    }

    /// Adds the layers of a slice, numbered from `next` on.
    fn add_layers(
        &self,
        slice: usize,
        sources: &Sources,
        stacks: &BTreeMap<usize, Stack<'_>>,
        next: usize,
        rows: &mut Vec<Row<'a>>,
    ) -> Result<()> {
        let length = sources[0].1.len();
        for i in 0..length {
            let depth = if length == 1 { 1.0 } else { i as f64 / (length - 1) as f64 };
            let layers: Vec<_> = sources.iter().map(|(m, range)| (*m, &stacks[m], range.start + i as u32)).collect();
            let mut seen = BTreeSet::new();
            for (_, stack, layer) in &layers {
                for (suffix, _) in stack.layer(*layer) {
                    if !seen.insert(*suffix) {
                        continue;
                    }
                    let cell = |(model, stack, layer): &(usize, &Stack<'_>, u32)| {
                        stack.find_in(*layer, suffix).map(|tensor| Cell { model: *model, tensor })
                    };
                    let name = format!("{}.{}{suffix}", stack.name, next + i);
                    rows.push(self.row(Cow::Owned(name), slice, Some(depth), layers.iter().map(cell).collect()));
                }
            }
            if seen.is_empty() {
                let problem = format!("layer {} of `{}` holds no tensors", layers[0].2, layers[0].1.name);
                return Err(Error::recipe(self.slices()[slice].place.clone(), problem));
            }
        }
        Ok(())
    }

    fn row(&self, name: Cow<'a, str>, slice: usize, depth: Option<f64>, cells: Vec<Option<Cell>>) -> Row<'a> {
        Row { name, module: self.module, slice, depth, cells, taken: None }
    }
}

/// Replaces the sources of tensors that are copied, not merged.
fn take_copies(recipe: &Recipe, models: &Models<'_>, rows: &mut [Row<'_>]) -> Result<()> {
    let matches = |name: &str, pattern: &str| pattern == "*" || name.contains(pattern);
    for copy in &recipe.copy_from {
        let model = models.index(&copy.model);
        let mut used = false;
        for row in rows.iter_mut().filter(|r| matches(&r.name, &copy.filter)) {
            used = true;
            let missing =
                || Error::recipe(copy.place.clone(), format!("`{}` has no tensor `{}`", copy.model, row.name));
            let cell = models.find(model, &row.name).ok_or_else(missing)?;
            if row.taken.is_none() {
                row.cells.fill(Some(cell));
                row.taken = Some(Taken::CopiedFrom);
            }
        }
        if !used {
            return Err(Error::recipe(copy.place.clone(), format!("no tensor's name holds `{}`", copy.filter)));
        }
    }
    for (i, pattern) in recipe.exclude.iter().enumerate() {
        let place = format!("exclude[{i}]");
        let mut used = false;
        for row in rows.iter_mut().filter(|r| matches(&r.name, pattern)) {
            used = true;
            if row.taken.is_some() {
                continue;
            }
            let Some(cell) = row.cells[0] else {
                let problem = format!("the first model has no tensor `{}` to copy; name one under copy_from", row.name);
                return Err(Error::recipe(place, problem));
            };
            row.cells.fill(Some(cell));
            row.taken = Some(Taken::Excluded);
        }
        if !used {
            return Err(Error::recipe(place, format!("no tensor's name holds `{pattern}`")));
        }
    }
    Ok(())
}

/// A delta file is decoded from the base's tensor of the same name: a layer of another number will not do.
fn check_deltas(models: &Models<'_>, rows: &[Row<'_>]) -> Result<()> {
    let entry = |cell: &Cell| &models.inventories[cell.model].tensors[cell.tensor];
    for row in rows {
        let base = row.cells[0].as_ref().map(entry);
        for cell in row.cells.iter().flatten().filter(|c| entry(c).coded.is_some()) {
            // A tensor that the base lacks is told with the other differences.
            let on_its_base = base.is_none_or(|b| b.coded.is_none() && b.name == entry(cell).name);
            if row.taken.is_some() || !on_its_base {
                let label = &models.inventories[cell.model].label;
                let problem =
                    format!("a delta file can only be merged with the same layers of its base (tensor `{}`)", row.name);
                return Err(Error::recipe(
                    label.as_str(),
                    format!("{problem}; make a checkpoint of it: taskvec apply"),
                ));
            }
        }
    }
    Ok(())
}
