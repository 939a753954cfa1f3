//! The tiny model zoo inside the program, so that the demo needs no files and no network.

/// Bytes of each `model.safetensors`.
const MODEL_BYTES: usize = 706_688;

/// The experts.
const EXPERT_COUNT: usize = 8;

/// One fine-tuned encoder.
#[derive(Debug, Clone, Copy)]
pub struct Expert {
    /// The in-domain task it was fine-tuned on.
    pub task: &'static str,
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
        Expert { task: $task, config: zoo!(concat!("experts/", $task, "/config.json")) }
    };
}

/// The weights of all encoders, as `fixtures/pack_zoo.py` packs them.
static MODELS: &[u8] = zoo!("models.zst");
/// `config.json` of the pre-trained encoder.
pub static CONFIG: &[u8] = zoo!("base/config.json");
/// The experts, in the order of the in-domain tasks.
pub static EXPERTS: [Expert; EXPERT_COUNT] = [
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

/// `model.safetensors` of the pre-trained encoder, then of each expert.
pub fn models() -> std::io::Result<Vec<Vec<u8>>> {
    let packed = zstd::bulk::decompress(MODELS, (1 + EXPERT_COUNT) * MODEL_BYTES)?;
    let mut models: Vec<Vec<u8>> = Vec::new();
    for planes in packed.chunks_exact(MODEL_BYTES) {
        let mut model = models.first().map_or_else(|| vec![0; MODEL_BYTES], Clone::clone);
        for (plane, bytes) in planes.chunks_exact(MODEL_BYTES / 4).enumerate() {
            model[plane..].iter_mut().step_by(4).zip(bytes).for_each(|(m, b)| *m ^= b);
        }
        models.push(model);
    }
    Ok(models)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_inside_the_program_are_those_of_the_zoo() {
        let zoo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/zoo");
        let folders = EXPERTS.iter().map(|e| format!("experts/{}", e.task));
        let folders: Vec<String> = std::iter::once("base".to_owned()).chain(folders).collect();
        let models = models().unwrap();
        assert_eq!(models.len(), folders.len());
        for (folder, model) in folders.iter().zip(&models) {
            assert!(*model == std::fs::read(zoo.join(folder).join("model.safetensors")).unwrap(), "{folder}");
        }
    }
}
