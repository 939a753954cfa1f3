//! A recipe of several YAML documents: merges one after another, each of which may take the results of those before.

use super::node::{Node, Value};
use super::{Recipe, parse};
use crate::error::{Error, Result};

/// One merge of a recipe.
#[derive(Clone, Debug)]
pub struct Stage {
    /// What later stages call its result.
    pub name: String,
    /// The merge.
    pub recipe: Recipe,
}

/// The stages of a recipe, in order, and the last merge, whose result is the output.
#[derive(Clone, Debug)]
pub struct Stages {
    /// All but the last.
    pub before: Vec<Stage>,
    /// The last; its text is that of the whole recipe.
    pub last: Recipe,
}

impl Stages {
    /// Parses YAML of one document or more.
    pub fn parse(text: &str) -> Result<Self> {
        let documents = documents(text);
        let [first @ .., last] = documents.as_slice() else { return Err(Error::recipe("recipe", "is empty")) };
        let mut stages =
            Self { before: Vec::new(), last: parse::parse(last).map_err(in_document(first.len(), first.len()))? };
        for (i, document) in first.iter().enumerate() {
            let stage = stage(document).map_err(in_document(i, first.len()))?;
            if stages.before.iter().any(|s| s.name == stage.name) {
                let problem = format!("two stages are called `{}`", stage.name);
                return Err(in_document(i, first.len())(Error::recipe("name", problem)));
            }
            stages.before.push(stage);
        }
        text.clone_into(&mut stages.last.text);
        stages.check()?;
        Ok(stages)
    }

    /// Every stage must be used by a later one.
    fn check(&self) -> Result<()> {
        for (i, stage) in self.before.iter().enumerate() {
            let later = self.before[i + 1..].iter().map(|s| &s.recipe).chain([&self.last]);
            if !later.flat_map(Recipe::references).any(|r| r == stage.name) {
                let problem = format!("no later stage merges `{}`; remove it, or name it as a model", stage.name);
                return Err(in_document(i, self.before.len())(Error::recipe("name", problem)));
            }
        }
        Ok(())
    }
}

/// Tells in which document an error is, if there are several.
fn in_document(index: usize, last: usize) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Recipe { place, problem } if last > 0 => {
            Error::recipe(format!("document {}: {place}", index + 1), problem)
        }
        other => other,
    }
}

fn stage(text: &str) -> Result<Stage> {
    let value = Value::parse(text).map_err(|e| Error::recipe("recipe", format!("not valid YAML: {e}")))?;
    let root = Node { value: &value, place: "recipe".into() };
    let fields = root.map()?;
    let Some((_, name)) = fields.iter().find(|(key, _)| *key == "name") else {
        return Err(root.error("`name` is missing: only the last document may do without"));
    };
    let text_of_name = name.text()?;
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text_of_name.is_empty() || text_of_name.starts_with('.') || !text_of_name.chars().all(plain) {
        return Err(name.error("expected a word of letters, digits, `-`, `_` and `.`"));
    }
    Ok(Stage { name: text_of_name.to_owned(), recipe: parse::parse(text)? })
}

/// The documents of a YAML stream: they begin with a line `---`. What holds comments only is none.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.split_inclusive('\n') {
        let last = documents.len() - 1;
        match line.strip_prefix("---") {
            Some(rest) if rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']) => {
                documents.push(rest.to_owned());
            }
            _ => documents[last].push_str(line),
        }
    }
    let holds_nothing =
        |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#') || line.trim() == "...";
    let kept: Vec<String> = documents.iter().filter(|d| !d.lines().all(holds_nothing)).cloned().collect();
    // A recipe without any keys is told so as one document.
    if kept.is_empty() { vec![text.to_owned()] } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_begin_with_three_dashes_alone_or_before_a_blank() {
        let text = "# head\n---\na: 1 # ---\nb: ---c\n--- {a: 2}\n---\n# nothing\n...\n--- \na: |\n  ---\n";
        assert_eq!(documents(text), ["\na: 1 # ---\nb: ---c\n", " {a: 2}\n", " \na: |\n  ---\n"]);
        assert_eq!(documents("a: 1\n"), ["a: 1\n"]);
        assert_eq!(documents(""), [""]);
    }
}
