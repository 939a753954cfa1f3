//! What is read, against the kernel's own counter. One test: the counter is the process's.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Model, merge, options};
use taskvec::recipe::Recipe;
use taskvec::source::Io;

const EXPERTS: u64 = 8;
const TENSORS: u64 = 40;
const ELEMENTS: u64 = 10_000;

/// Bytes that this process asked the kernel to read.
fn bytes_asked_of_the_kernel() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|l| l.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn pass_1_reads_the_experts_once_and_pass_2_no_expert_byte_of_a_pruned_layer() {
    let root = tempfile::tempdir().unwrap();
    let mut recipe = String::from(
        "merge_method: task_arithmetic\nbase_model: ./base.safetensors\nlwptv: {eta: 0.9}\nparameters: {weight: 0.3}\nmodels:\n",
    );
    for m in 0..=EXPERTS {
        let mut model = Model::default();
        for t in 0..TENSORS {
            let step = |i: u64| if m == 0 { 0.0 } else { ((i * 31 + m * 7) % 64) as f32 * (t + 1) as f32 / 1e4 };
            let values: Vec<f32> = (0..ELEMENTS).map(|i| i as f32 / 100.0 + step(i)).collect();
            model = model.f32(&format!("layers.{t}.weight"), &values);
        }
        let name = if m == 0 { "base".into() } else { format!("e{m}") };
        model.write(&root.path().join(format!("{name}.safetensors")));
        if m > 0 {
            recipe += &format!("- model: ./{name}.safetensors\n");
        }
    }
    let recipe = Recipe::parse(&recipe).unwrap();
    let before = bytes_asked_of_the_kernel();
    let report = merge(recipe, root.path(), &root.path().join("out"), options(), Io::Pread).unwrap();
    let asked = bytes_asked_of_the_kernel() - before;

    let model = TENSORS * ELEMENTS * 4;
    let kept: u64 = report.layers.iter().filter(|l| l.kept).map(|l| l.elements * 4).sum();
    assert!(kept > 0 && kept < model / 4, "{kept} of {model} kept");
    let read = |name: &str| report.run.passes.iter().find(|p| p.name == name).unwrap().bytes_read;
    assert_eq!(read("saliency"), EXPERTS * model);
    assert_eq!(read("merge"), model + EXPERTS * kept);
    let counted: u64 = report.run.passes.iter().map(|p| p.bytes_read).sum();
    let headers = asked - counted;
    assert!(headers < 200_000, "the kernel saw {asked} bytes, the report has {counted}");
}
