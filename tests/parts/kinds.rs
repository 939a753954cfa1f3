//! Models with adapters, and tokens that the recipe settles.

use crate::common::folder::Folder;
use crate::common::parts::{Parts, assert_same_output, forget};
use crate::common::{Model, Random, options};
use crate::{RECIPES, bf16, one_process};
use std::fs;
use taskvec::job::Next;

/// A matrix and an embedding that can be cut; adapters `l0` and `l1`; `a` has the tokens of `base` in another order.
fn family_of_adapters_and_tokens(bench: &Folder) {
    const TOKENS: u64 = 1100;
    let mut random = Random(9);
    let tokens = |turn: u64| {
        let words: Vec<String> = (0..TOKENS).map(|i| format!("\"t{}\": {i}", (i * 7 + turn) % TOKENS)).collect();
        format!(r#"{{"model": {{"vocab": {{{}}}}}}}"#, words.join(", "))
    };
    for (turn, name) in [(0, "base"), (350, "a")] {
        let mut model = Model::default();
        for tensor in ["model.embed_tokens.weight", "model.layers.0.up.weight"] {
            let bytes = bf16(&mut random, 1e-3, None, 1_100_000);
            model = model.tensor(tensor, "BF16", &[TOKENS, 1000], bytes);
        }
        bench.put(name, &model.f32("model.norm.weight", &[1.0, turn as f32]));
        fs::write(bench.path(name).join("tokenizer.json"), tokens(turn)).unwrap();
    }
    for name in ["l0", "l1"] {
        let mut f32s = |count: usize| (0..count).flat_map(|_| (random.below(9) as f32 - 4.0).to_le_bytes()).collect();
        let ends = [("A", [4, 1000]), ("B", [TOKENS, 4])].map(|(end, shape)| (end, shape, f32s(4 * 1100)));
        let mut weights = Model::default();
        for (end, shape, bytes) in ends {
            let bytes: Vec<u8> = bytes;
            let tensor = format!("base_model.model.model.layers.0.up.lora_{end}.weight");
            weights = weights.tensor(&tensor, "F32", &shape, bytes[..4 * (shape[0] * shape[1]) as usize].to_vec());
        }
        weights.write(&bench.path(name).join("adapter_model.safetensors"));
        let config = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 0.01, "target_modules": ["up"]}"#;
        fs::write(bench.path(name).join("adapter_config.json"), config).unwrap();
    }
}

#[test]
fn adapters_and_settled_tokens_give_the_bytes_of_one_process() {
    let bench = Folder::new();
    family_of_adapters_and_tokens(&bench);
    let (run, expected) = (bench.path("run"), bench.path("expected"));
    let models = "models:\n- model: ./base+./l0\n- model: ./a\n- model: ./base+./l1\n";
    for (method, parameters) in [RECIPES[0], RECIPES[1]] {
        let text = format!(
            "merge_method: {method}\nbase_model: ./base\nlwptv: {{eta: 0.4}}\nparameters: {{{parameters}}}\n\
             tokenizer_source: union\n{models}"
        );
        one_process(&text, bench.0.path(), &expected, options());
        for parts in [2, 5] {
            let planned = Parts::plan(&text, bench.0.path(), &run, parts, options()).unwrap();
            planned.run_until(Next::Nothing, &mut Random(parts as u64));
            assert_same_output(&run.join("model"), &expected, &format!("{method}, {parts} parts"));
            forget(&run);
        }
        forget(&expected);
    }
}
