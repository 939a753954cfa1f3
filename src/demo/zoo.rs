//! The measure of the demo: how many test images of each task an encoder names rightly.

use super::lanes::{LANES, Lanes, add_product};
use super::npz::{Array, Elements, read_npz};
use super::vit::{Config, Network, Parameters};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The frozen heads and the test sets.
#[derive(Debug)]
pub struct Zoo {
    config: Config,
    id: Vec<Task>,
    ood: Vec<Task>,
}

#[derive(Debug)]
struct Task {
    name: String,
    head: Vec<f32>,
    images: Vec<u8>,
    labels: Vec<u8>,
}

/// The accuracies of one encoder in percent, per task in the order of `tasks.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// The tasks that an expert was fine-tuned on.
    pub id: Vec<(String, f64)>,
    /// The tasks that none was fine-tuned on.
    pub ood: Vec<(String, f64)>,
}

impl Zoo {
    /// The zoo of these four files.
    pub fn parse(config: &[u8], tasks: &[u8], heads: &[u8], testsets: &[u8]) -> Result<Zoo, String> {
        #[derive(Deserialize)]
        struct Tasks {
            id: Vec<String>,
            ood: Vec<String>,
            head: BTreeMap<String, String>,
        }
        let config = Config::parse(config)?;
        let tasks: Tasks = serde_json::from_slice(tasks).map_err(|e| format!("tasks.json: {e}"))?;
        let heads = read_npz(heads).map_err(|e| format!("heads.npz: {e}"))?;
        let sets = read_npz(testsets).map_err(|e| format!("testsets.npz: {e}"))?;
        let task = |name: &String| {
            let head = tasks.head.get(name).and_then(|head| heads.get(head));
            Task::new(&config, name, head, sets.get(&format!("{name}.x")), sets.get(&format!("{name}.y")))
        };
        let id = tasks.id.iter().map(task).collect::<Result<_, _>>()?;
        let ood = tasks.ood.iter().map(task).collect::<Result<_, _>>()?;
        Ok(Zoo { config, id, ood })
    }

    /// The accuracies of the encoder with these parameters.
    ///
    /// # Panics
    /// If `parameters` are not those of the zoo's encoder.
    pub fn evaluate(&self, parameters: &Parameters) -> Scores {
        let network = Network::new(&self.config, parameters);
        let jobs: Vec<_> = self.id.iter().chain(&self.ood).map(|task| (task, &network)).collect();
        let accuracies = accuracies(&jobs);
        let (id, ood) = accuracies.split_at(self.id.len());
        Scores { id: named(&self.id, id), ood: named(&self.ood, ood) }
    }

    /// The accuracies of the experts, given by task: each ID task by its own one, each OOD task averaged over all.
    ///
    /// # Panics
    /// If an ID task has no expert, or one's parameters are not those of the zoo's encoder.
    pub fn individual(&self, experts: &BTreeMap<String, Parameters>) -> Scores {
        let network = |task: &Task| Network::new(&self.config, &experts[&task.name]);
        let networks: Vec<_> = self.id.iter().map(network).collect();
        let id: Vec<_> = self.id.iter().zip(&networks).collect();
        let ood: Vec<_> = self.ood.iter().flat_map(|task| networks.iter().map(move |n| (task, n))).collect();
        let accuracies = accuracies(&[id, ood].concat());
        let (id, ood) = accuracies.split_at(self.id.len());
        let ood: Vec<f64> = ood.chunks(networks.len()).map(mean).collect();
        Scores { id: named(&self.id, id), ood: named(&self.ood, &ood) }
    }
}

impl Task {
    fn new(
        config: &Config,
        name: &str,
        head: Option<&Array>,
        images: Option<&Array>,
        labels: Option<&Array>,
    ) -> Result<Task, String> {
        let (Some(head), Some(images), Some(labels)) = (head, images, labels) else {
            return Err(format!("task `{name}`: its head, `{name}.x` or `{name}.y` is missing"));
        };
        let shapes = (&head.shape[..], &images.shape[..], &labels.shape[..]);
        let (side, features) = (config.image_size(), config.features());
        match (&head.elements, &images.elements, &labels.elements, shapes) {
            (Elements::F32(head), Elements::U8(images), Elements::U8(labels), ([_, f], [n, h, w], [m]))
                if *f == features && *h == side && *w == side && n == m && *n > 0 =>
            {
                Ok(Task { name: name.to_owned(), head: head.clone(), images: images.clone(), labels: labels.clone() })
            }
            _ => Err(format!(
                "task `{name}`: head, images and labels have shapes {shapes:?}, expected [classes, {features}] of f4, [n, {side}, {side}] and [n] of u1"
            )),
        }
    }

    /// How many of the images with these labels `network` names rightly.
    fn hits(&self, network: &Network, images: &[u8], labels: &[u8]) -> usize {
        let features = network.features(images);
        let mut logits = vec![[0.0; LANES]; self.head.len() / features.len()];
        add_product(&self.head, &features, &mut logits);
        labels.iter().enumerate().filter(|&(lane, &label)| first_largest(&logits, lane) == usize::from(label)).count()
    }
}

/// The class with the largest logit; of equals the first, as in numpy.
fn first_largest(logits: &[Lanes], lane: usize) -> usize {
    (1..logits.len()).fold(0, |best, class| if logits[class][lane] > logits[best][lane] { class } else { best })
}

/// The accuracy of each job in percent. The threads of this machine take piece after piece from all jobs together.
fn accuracies(jobs: &[(&Task, &Network)]) -> Vec<f64> {
    let pieces: Vec<_> = (jobs.iter().enumerate())
        .flat_map(|(job, &(task, network))| {
            let images = task.images.chunks(task.images.len() / task.labels.len() * LANES);
            images.zip(task.labels.chunks(LANES)).map(move |(images, labels)| (job, task, network, images, labels))
        })
        .collect();
    let next = AtomicUsize::new(0);
    // Counts, not sums of floats: integers add in any order.
    let hits: Vec<_> = jobs.iter().map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(&(job, task, network, images, labels)) = pieces.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    hits[job].fetch_add(task.hits(network, images, labels), Ordering::Relaxed);
                }
            });
        }
    });
    let percent =
        |(hits, (task, _)): (AtomicUsize, &(&Task, _))| 100.0 * hits.into_inner() as f64 / task.labels.len() as f64;
    hits.into_iter().zip(jobs).map(percent).collect()
}

fn named(tasks: &[Task], accuracies: &[f64]) -> Vec<(String, f64)> {
    tasks.iter().map(|task| task.name.clone()).zip(accuracies.iter().copied()).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

impl Scores {
    /// The mean over the ID tasks.
    pub fn id_avg(&self) -> f64 {
        mean(&self.id.iter().map(|t| t.1).collect::<Vec<_>>())
    }

    /// The mean over the OOD tasks.
    pub fn ood_avg(&self) -> f64 {
        mean(&self.ood.iter().map(|t| t.1).collect::<Vec<_>>())
    }

    /// The harmonic mean of the two averages.
    pub fn h_score(&self) -> f64 {
        let (id, ood) = (self.id_avg(), self.ood_avg());
        if id + ood > 0.0 { 2.0 * id * ood / (id + ood) } else { 0.0 }
    }

    /// What `evaluate.py` prints: everything, rounded to three decimals.
    pub fn summary(&self) -> Value {
        let tasks = |tasks: &[(String, f64)]| -> Map<String, Value> {
            tasks.iter().map(|(name, accuracy)| (name.clone(), json!(round3(*accuracy)))).collect()
        };
        json!({
            "id": tasks(&self.id),
            "ood": tasks(&self.ood),
            "id_avg": round3(self.id_avg()),
            "ood_avg": round3(self.ood_avg()),
            "h_score": round3(self.h_score()),
        })
    }
}

/// `value` to three decimals, of two equally near the even one, as Python's `round` does.
pub fn round3(value: f64) -> f64 {
    format!("{value:.3}").parse().expect("a number that was just printed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::embedded::{CONFIG, EXPECTED, EXPERTS, HEADS, TASKS, TESTSETS, models};

    fn zoo() -> Zoo {
        Zoo::parse(CONFIG, TASKS, HEADS, TESTSETS).unwrap()
    }

    /// The tensors of a safetensors file of `F32`.
    fn parameters(model: &[u8]) -> Parameters {
        let (length, rest) = model.split_first_chunk().unwrap();
        let (header, body) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let mut header: Map<String, Value> = serde_json::from_slice(header).unwrap();
        header.remove("__metadata__");
        let floats = |tensor: Value| {
            let [begin, end] = [0, 1].map(|i| tensor["data_offsets"][i].as_u64().unwrap() as usize);
            body[begin..end].as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
        };
        header.into_iter().map(|(name, tensor)| (name, floats(tensor))).collect()
    }

    fn expected(merge: &str) -> Value {
        serde_json::from_slice::<Value>(EXPECTED).unwrap()["results"][merge].take()
    }

    #[test]
    fn the_base_scores_what_the_zoo_expects() {
        assert_eq!(zoo().evaluate(&parameters(&models().unwrap()[0])).summary(), expected("pretrained"));
    }

    #[test]
    fn the_experts_score_what_the_zoo_expects() {
        let models = models().unwrap();
        let experts = EXPERTS.iter().zip(&models[1..]).map(|(e, m)| (e.task.to_owned(), parameters(m))).collect();
        assert_eq!(zoo().individual(&experts).summary(), expected("individual"));
    }

    #[test]
    fn of_equal_logits_the_first_counts() {
        let logits = [1.0, 2.0, 2.0].map(|logit| [logit; LANES]);
        assert_eq!(first_largest(&logits, LANES - 1), 1);
    }

    #[test]
    fn a_test_set_of_other_images_is_refused() {
        let larger = String::from_utf8_lossy(CONFIG).replace("\"image_size\": 16", "\"image_size\": 32");
        let error = Zoo::parse(larger.as_bytes(), TASKS, HEADS, TESTSETS).unwrap_err();
        assert!(error.contains("[n, 32, 32]"), "{error}");
    }

    #[test]
    fn halves_round_to_even_as_in_python() {
        assert_eq!([48.3125, 48.1875, 73.895_833].map(round3), [48.312, 48.188, 73.896]);
    }
}
