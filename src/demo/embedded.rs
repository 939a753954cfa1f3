//! The tiny model zoo inside the program, so that the demo needs no files and no network.

/// One fine-tuned encoder.
#[derive(Debug, Clone, Copy)]
pub struct Expert {
    /// The in-domain task it was fine-tuned on.
    pub task: &'static str,
    /// Its `model.safetensors`.
    pub model: &'static [u8],
    /// Its `config.json`.
    pub config: &'static [u8],
}

macro_rules! zoo {
    ($path:expr) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/zoo/", $path))
    };
}

macro_rules! expert {
    ($task:literal) => {
        Expert {
            task: $task,
            model: zoo!(concat!("experts/", $task, "/model.safetensors")),
            config: zoo!(concat!("experts/", $task, "/config.json")),
        }
    };
}

/// `model.safetensors` of the pre-trained encoder.
pub static BASE: &[u8] = zoo!("base/model.safetensors");
/// `config.json` of the pre-trained encoder.
pub static CONFIG: &[u8] = zoo!("base/config.json");
/// The experts, in the order of the in-domain tasks.
pub static EXPERTS: [Expert; 8] = [
    expert!("pen_digits"),
    expert!("street_digits"),
    expert!("spun_upper"),
    expert!("faint_lower"),
    expert!("blurred_greek"),
    expert!("cut_shapes"),
    expert!("fine_textures"),
    expert!("slanted_armenian"),
];
/// The tasks, and which head each uses.
pub static TASKS: &[u8] = zoo!("tasks.json");
/// The frozen heads.
pub static HEADS: &[u8] = zoo!("heads.npz");
/// The test sets.
pub static TESTSETS: &[u8] = zoo!("testsets.npz");
/// The accuracies that reference merges reach.
pub static EXPECTED: &[u8] = zoo!("expected.json");
/// The reference evaluator, in Python.
pub static EVALUATE: &[u8] = zoo!("evaluate.py");
