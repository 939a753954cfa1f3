//! What values depend on, as one hash: merges whose keys are equal have equal bytes.

use crate::method::Method;
use crate::pass::{Action, Contents, Copied, Engine, Work};
use crate::plan::{Place, Plan, Taken};
use crate::survey::Score;
use crate::tensor::Identity;
use serde_json::{Value, json};

/// blake3 of all that a value depends on.
pub type Key = [u8; 32];

/// Makes the keys of one merge.
pub struct Keys<'a> {
    plan: &'a Plan,
    told: Told<'a>,
}

/// What tells the values of an input tensor.
enum Told<'a> {
    /// Where it lies: enough as long as no file changes.
    Place(Vec<Identity>),
    /// The hash of its bytes, once they have been read.
    Content(&'a Contents),
}

impl<'a> Keys<'a> {
    pub fn new(plan: &'a Plan, engine: &'a Engine<'_>) -> Self {
        let told = engine.contents().map_or_else(|| Told::Place(engine.files().identities()), Told::Content);
        Self { plan, told }
    }

    /// The key of a tensor's sums; `None` where it is not simply stored in a file of each source.
    pub fn sums(&self, tensor: usize) -> Option<Key> {
        let plan = self.plan;
        let score = plan.recipe.lwptv.as_ref()?.score;
        let t = &plan.tensors[tensor];
        let sources = if score == Score::Saliency { plan.experts() } else { 0..plan.sources.len() };
        let contents = t.places[sources].iter().map(|p| self.content(p, t.elements)).collect::<Option<Vec<_>>>()?;
        let all = json!(["sums", score == Score::Saliency, plan.options.allow_non_finite, t.elements, contents]);
        t.layer.is_some().then(|| key(&all))
    }

    /// The keys of the tensors of a merge that are made from values that are simply stored, each by itself.
    pub fn made(&self, method: &dyn Method, works: &[Work], actions: &[Action]) -> Vec<(usize, Key)> {
        let plan = self.plan;
        let of_model = plan.surveys > 0 && method.tensor_bytes(1).is_none();
        let by_itself = !of_model && !plan.prunes_elements() && plan.masks.is_none();
        let key = |work: &Work| {
            let key = match actions[work.tensor].copied {
                Copied::No => self.merged(work).filter(|_| by_itself),
                Copied::Bytes | Copied::Cast => self.copied(work, actions[work.tensor].copied),
                Copied::Reused => None,
            };
            Some((work.tensor, key?))
        };
        works.iter().filter_map(key).collect()
    }

    /// The hash of the base's tensor, where it is known.
    pub fn base_hash(&self, tensor: usize) -> Option<blake3::Hash> {
        let Told::Content(contents) = &self.told else { return None };
        let t = &self.plan.tensors[tensor];
        let place = t.places.get(self.plan.base()?).filter(|p| is_stored(p))?;
        Some(contents.get(place.file, place.offset, t.elements * place.dtype.bytes() as u64)?.whole)
    }

    /// What stands at a place.
    fn content(&self, place: &Place, elements: u64) -> Option<Value> {
        let dtype = place.dtype.header_name();
        match &self.told {
            _ if !is_stored(place) => None,
            Told::Place(files) => Some(json!([files[place.file], place.offset, dtype])),
            Told::Content(contents) => {
                let content = contents.get(place.file, place.offset, elements * place.dtype.bytes() as u64)?;
                Some(json!([content.whole.to_hex().as_str(), dtype]))
            }
        }
    }

    /// What a merged tensor depends on.
    fn merged(&self, work: &Work) -> Option<Key> {
        let plan = self.plan;
        let t = &plan.tensors[work.tensor];
        let content = |&s: &usize| Some((s, self.content(&t.places[s], t.elements)?));
        let contents: Vec<_> = work.sources.iter().map(content).collect::<Option<_>>()?;
        let model = (plan.elements(), plan.tensors.len(), plan.sources.len(), plan.recipe.base_expert());
        Some(key(&json!([
            "merged",
            plan.recipe.method.name,
            format!("{:?}", plan.settings[t.settings].values()),
            plan.settings[t.settings].depth().to_bits(),
            format!("{:?}", plan.form()),
            model,
            t.name,
            t.shape,
            t.dtype.header_name(),
            t.block_elements,
            plan.options.seed,
            plan.options.allow_non_finite,
            contents,
        ])))
    }

    /// What a copied tensor depends on. Sources that must be equal are so, or there is no key.
    fn copied(&self, work: &Work, copied: Copied) -> Option<Key> {
        let plan = self.plan;
        let t = &plan.tensors[work.tensor];
        let reference = self.content(&t.places[plan.reference()], t.elements)?;
        let by_content = matches!(self.told, Told::Content(_));
        let same = |&s: &usize| {
            s == plan.reference() || by_content && self.content(&t.places[s], t.elements).as_ref() == Some(&reference)
        };
        let compared = plan.has_base && t.taken != Some(Taken::CopiedFrom);
        let all = json!(["copied", copied == Copied::Cast, compared, t.dtype.header_name(), t.elements, reference]);
        work.sources.iter().all(same).then(|| key(&all))
    }
}

/// Whether a tensor is simply stored there, so that a file and an offset say all.
pub fn is_stored(place: &Place) -> bool {
    place.coded.is_none() && place.adapter.is_none() && place.rows.is_none() && place.computed.is_none()
}

fn key(all: &Value) -> Key {
    *blake3::hash(all.to_string().as_bytes()).as_bytes()
}
