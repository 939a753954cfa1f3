//! Peak memory, mapped pages included, is what the plan prints, whatever the size of models and tensors.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use assert_cmd::Command;
use std::fs::File;
use std::io::Write;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// A checkpoint of `sizes` tensors of BF16 zeros: a sparse file.
fn sparse_model(path: &Path, sizes: &[u64]) {
    let tensors = sizes.iter().enumerate().map(|(i, bytes)| (format!("layers.{i}.weight"), vec![bytes / 2]));
    sparse_tensors(path, tensors);
}

/// The same with these names and shapes.
fn sparse_tensors(path: &Path, tensors: impl Iterator<Item = (String, Vec<u64>)>) {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for (name, shape) in tensors {
        let end = at + 2 * shape.iter().product::<u64>();
        let entry = serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]});
        header.insert(name, entry);
        at = end;
    }
    let json = serde_json::to_vec(&header).unwrap();
    let mut file = File::create(path).unwrap();
    file.write_all(&(json.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&json).unwrap();
    file.set_len(8 + json.len() as u64 + at).unwrap();
}

fn peak_of_merge(method: &[&str], sizes: &[u64], memory: &str, io: &str) -> (u64, u64) {
    let root = tempfile::tempdir().unwrap();
    let mut args: Vec<String> =
        ["merge", "--base", "base.safetensors", "--method"].iter().chain(method).map(ToString::to_string).collect();
    sparse_model(&root.path().join("base.safetensors"), sizes);
    for k in 0..4 {
        sparse_model(&root.path().join(format!("e{k}.safetensors")), sizes);
        args.extend(["--model".into(), format!("e{k}.safetensors=0.3")]);
    }
    args.extend(["--eta", "0", "--memory", memory, "--io", io, "-j", "2"].map(String::from));
    peak_of(root.path(), &args)
}

/// Peak memory of this merge, and the one that its plan states.
fn peak_of(folder: &Path, args: &[String]) -> (u64, u64) {
    let run = |extra: &[&str]| {
        let output =
            Command::cargo_bin("taskvec").unwrap().current_dir(folder).args(args).args(extra).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let plan = run(&["--dry-run", "out"]);
    let shown = plan.lines().rev().find_map(|l| l.strip_prefix("memory    peak ")).unwrap();
    let planned = taskvec::tensor::parse_size(&shown[..shown.find(" (").unwrap()]).unwrap();
    run(&["out"]);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("out/taskvec.json")).unwrap()).unwrap();
    (report["run"]["peak_rss_bytes"].as_u64().unwrap(), planned)
}

fn assert_holds(sizes: &[u64], memory: &str, budget: u64, io: &str) {
    assert_method_holds(&["task_arithmetic"], sizes, memory, budget, io);
}

fn assert_method_holds(method: &[&str], sizes: &[u64], memory: &str, budget: u64, io: &str) {
    let (peak, planned) = peak_of_merge(method, sizes, memory, io);
    // The plan prints three figures.
    assert!(planned <= budget + budget / 100, "the plan says {planned} for a budget of {budget}");
    assert!(peak <= planned + planned / 100, "peak {peak}, planned {planned} ({memory}, {io})");
}

#[test]
fn the_peak_stays_below_the_plan_for_one_large_tensor() {
    assert_holds(&[200 * MIB], "96MiB", 96 * MIB, "mmap");
}

#[test]
fn the_peak_stays_below_the_plan_where_values_are_ranked_tensor_by_tensor() {
    let sizes: Vec<u64> = (0..60).map(|i| 2 * (i * 79_193 % 1_000_000 + 1)).chain([60 * MIB]).collect();
    assert_method_holds(&["ties", "--set", "density=0.5"], &sizes, "128MiB", 128 * MIB, "mmap");
}

#[test]
fn the_peak_stays_below_the_plan_where_a_tensor_is_one_row() {
    assert_method_holds(&["della", "--set", "density=0.5"], &[MIB / 2, MIB], "320MiB", 320 * MIB, "mmap");
}

#[test]
fn the_peak_stays_below_the_plan_for_many_tensors_of_odd_sizes() {
    let sizes: Vec<u64> = (0..400).map(|i| 2 * (i * 7919 % 250_000 + 1)).collect();
    assert_holds(&sizes, "96MiB", 96 * MIB, "mmap");
}

#[test]
fn the_peak_stays_below_the_plan_with_positioned_reads() {
    assert_holds(&[60 * MIB, 2, 60 * MIB], "128MiB", 128 * MIB, "pread");
}

/// Peaks of a merge of tensors of this shape with two adapters of this rank.
fn peak_with_adapters(tensors: usize, (rows, columns): (u64, u64), rank: u64, memory: &str) -> (u64, u64) {
    let root = tempfile::tempdir().unwrap();
    let whole = |i: usize| (format!("layers.{i}.weight"), vec![rows, columns]);
    sparse_tensors(&root.path().join("base.safetensors"), (0..tensors).map(whole));
    let mut args: Vec<String> =
        ["merge", "--base", "base.safetensors", "--method", "task_arithmetic"].map(String::from).into();
    for k in 0..2 {
        let folder = root.path().join(format!("l{k}"));
        std::fs::create_dir(&folder).unwrap();
        let config = serde_json::json!({"peft_type": "LORA", "r": rank, "lora_alpha": 1});
        std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
        let name = |i: usize, letter: &str| format!("base_model.model.layers.{i}.lora_{letter}.weight");
        let pair = |i: usize| [(name(i, "A"), vec![rank, columns]), (name(i, "B"), vec![rows, rank])];
        sparse_tensors(&folder.join("adapter_model.safetensors"), (0..tensors).flat_map(pair));
        args.extend(["--model".into(), format!("base.safetensors+l{k}=0.3")]);
    }
    args.extend(["--memory", memory, "-j", "2", "--no-delta"].map(String::from));
    peak_of(root.path(), &args)
}

#[test]
fn the_peak_stays_below_the_plan_with_wide_adapters_of_a_high_rank() {
    // 164 MB of matrices: most of the peak.
    let (peak, planned) = peak_with_adapters(2, (250, 20_000), 512, "280MiB");
    assert!(planned <= 297_000_000, "the plan says {planned}");
    assert!(peak <= planned + planned / 100, "peak {peak}, planned {planned}");
}

#[test]
fn the_peak_stays_below_the_plan_with_adapters_on_tensors_of_many_short_rows() {
    // A row of two elements takes 64 values of the adapter's.
    let (peak, planned) = peak_with_adapters(4, (200_000, 2), 64, "128MiB");
    assert!(planned <= 136_000_000, "the plan says {planned}");
    assert!(peak <= planned + planned / 100, "peak {peak}, planned {planned}");
}

#[test]
fn the_peak_stays_below_the_plan_where_a_stage_is_made_as_it_is_read() {
    let root = tempfile::tempdir().unwrap();
    for name in ["base", "a", "b"] {
        sparse_model(&root.path().join(format!("{name}.safetensors")), &[12 * MIB, 2]);
    }
    let merge = |method: &str, models: &[&str]| {
        let models: Vec<String> =
            models.iter().map(|m| format!("- {{model: {m}, parameters: {{weight: 0.3}}}}\n")).collect();
        format!("merge_method: {method}\nbase_model: base.safetensors\nlwptv: {{eta: 0}}\nmodels:\n{}", models.concat())
    };
    // A tile of the result takes forty of its models.
    let first = merge("task_arithmetic", &["a.safetensors"; 40]);
    let last = merge("linear", &["one", "b.safetensors"]);
    std::fs::write(root.path().join("recipe.yml"), format!("name: one\n{first}---\n{last}")).unwrap();
    for io in ["mmap", "pread"] {
        let flags = ["--overwrite", "--no-delta", "--fuse", "true", "--memory", "128MiB", "-j", "2", "--io", io];
        let args: Vec<String> = ["merge", "recipe.yml"].iter().chain(&flags).map(ToString::to_string).collect();
        let (peak, planned) = peak_of(root.path(), &args);
        assert!(planned <= 135_000_000, "the plan says {planned}");
        assert!(peak <= planned + planned / 100, "peak {peak}, planned {planned}");
    }
}
