//! What is refused, and leaves every file as it was.

use super::common::tree;
use super::{Bench, every_dtype, tuned};
use std::fs;

fn pair() -> Bench {
    let bench = Bench::new();
    let base = every_dtype(1);
    bench.put("base/model.safetensors", &base);
    bench.put("model/model.safetensors", &tuned(&base, 2));
    bench.ok("diff base model -o x.tvd");
    bench
}

#[test]
fn a_base_with_one_other_bit_is_refused_with_76_before_a_byte_is_written() {
    let bench = pair();
    let mut base = every_dtype(1);
    base.tensors.iter_mut().find(|t| t.name == "I16.matrix").unwrap().bytes[9] ^= 4;
    bench.put("wrong/model.safetensors", &base);
    let words = ["tensor `I16.matrix` is not the one that x.tvd was made for", "Give the base"];
    bench.refused("apply wrong x.tvd -o out", 76, &words);
    bench.refused("verify x.tvd --against wrong", 76, &words);
    bench.refused("apply wrong x.tvd -o out --verify fast", 76, &["I16.matrix"]);
}

#[test]
fn a_base_of_another_shape_or_dtype_or_without_a_tensor_is_refused_with_65() {
    let bench = pair();
    let change = |name: &str, change: &dyn Fn(&mut super::common::Tensor)| {
        let mut base = every_dtype(1);
        change(base.tensors.iter_mut().find(|t| t.name == "F32.matrix").unwrap());
        bench.put(&format!("{name}/model.safetensors"), &base);
    };
    change("shape", &|t| t.shape = vec![33, 7]);
    change("dtype", &|t| t.dtype = "I32".into());
    change("name", &|t| t.name = "F32.other".into());
    for wrong in ["shape", "dtype", "name"] {
        bench.refused(&format!("apply {wrong} x.tvd -o out"), 65, &["F32.matrix", "F32 [7, 33]", "give the base"]);
    }
    bench.refused("apply nowhere x.tvd -o out", 66, &["nowhere"]);
    bench.refused("apply base nowhere.tvd -o out", 66, &["nowhere.tvd"]);
}

#[test]
fn a_side_file_that_the_base_no_longer_has_is_refused_with_66_and_a_changed_one_with_76() {
    let bench = Bench::new();
    bench.put_folder("base", &every_dtype(1), 1);
    bench.put_folder("model", &tuned(&every_dtype(1), 2), 1);
    bench.ok("diff base model -o x.tvd");
    bench.write("base/tokenizer.json", b"other");
    bench.refused("apply base x.tvd -o out", 76, &["tokenizer.json"]);
    fs::remove_file(bench.path("base/tokenizer.json")).unwrap();
    bench.refused("apply base x.tvd -o out", 66, &["tokenizer.json"]);
}

#[test]
fn an_output_that_is_there_is_refused_with_73_and_replaced_on_demand() {
    let bench = pair();
    bench.write("out/config.json", b"{}");
    bench.refused("apply base x.tvd -o out", 73, &["out"]);
    bench.ok("apply base x.tvd -o out --overwrite");
    bench.same("model", "out");
    bench.refused("diff base base -o x.tvd", 73, &["x.tvd"]);
    bench.ok("diff base base -o x.tvd --overwrite");
    bench.ok("apply base x.tvd -o same");
    bench.same("base", "same");
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let bench = pair();
    for args in ["apply base x.tvd -o base --overwrite", "diff base model -o model/model.safetensors --overwrite"] {
        let before = tree(&bench.path(""));
        assert_ne!(bench.run(args).status.code(), Some(0), "{args}");
        assert!(tree(&bench.path("")) == before, "{args}");
    }
}
