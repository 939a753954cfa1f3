//! Adapters as experts: `path+lora` is the checkpoint with `f32(W + s * B A)`, which is never written anywhere.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use assert_cmd::Command;
use common::{Model, Random, merge, merge_recipe, options, tree};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use taskvec::codec::Codec;
use taskvec::plan::Options;
use taskvec::recipe::Recipe;
use taskvec::source::Io;

fn cases(kind: &str) -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> =
        fs::read_dir(Path::new("fixtures/lora").join(kind)).unwrap().map(|e| e.unwrap().path()).collect();
    cases.sort();
    cases
}

/// What taskvec makes of a case, and what it should be.
fn made_and_expected(case: &Path) -> (Model, Model) {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    merge_recipe(&case.join("recipe.yml"), &out).unwrap_or_else(|e| panic!("{}: {e}", case.display()));
    (Model::read(&out.join("model.safetensors")), Model::read(&case.join("expected.safetensors")))
}

fn values(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn every_kind_of_adapter_gives_the_bits_that_numpy_gives() {
    let cases = cases("formula");
    assert_eq!(cases.len(), 8);
    for case in cases {
        let (made, expected) = made_and_expected(&case);
        assert_eq!(made.tensors.len(), expected.tensors.len());
        for (m, e) in made.tensors.iter().zip(&expected.tensors) {
            assert_eq!((&m.name, &m.shape), (&e.name, &e.shape), "{}", case.display());
            assert_eq!(values(&m.bytes), values(&e.bytes), "{}: {}", case.display(), m.name);
        }
    }
}

#[test]
fn adapters_that_peft_wrote_give_what_peft_merges() {
    let cases = cases("peft");
    assert_eq!(cases.len(), 3);
    for case in cases {
        let (made, mut expected) = made_and_expected(&case);
        expected.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let mut changed = 0;
        let base = Model::read(&case.join("base/model.safetensors"));
        for m in &made.tensors {
            let e = expected.tensors.iter().find(|e| e.name == m.name).unwrap();
            let (got, want) = (values(&m.bytes), values(&e.bytes));
            let largest = want.iter().fold(0.0, |l: f32, v| l.max(v.abs()));
            let off = got.iter().zip(&want).fold(0.0, |l: f32, (a, b)| l.max((a - b).abs()));
            assert!(off <= 1e-6 * largest, "{}: {} is off by {off} of {largest}", case.display(), m.name);
            changed += usize::from(base.tensors.iter().find(|b| b.name == m.name).unwrap().bytes != m.bytes);
        }
        assert_eq!(made.tensors.len(), expected.tensors.len());
        assert!(changed >= 4, "{}: {changed} tensors differ from the base", case.display());
    }
}

/// A base in `base`, and adapters in `l0`, `l1` and `l2`, of tensors that take several blocks.
struct Bench(tempfile::TempDir);

/// Matrices with their rows and columns, and whether they are embeddings.
const MATRICES: [(&str, u64, u64, bool); 4] = [
    ("layers.0.q", 96, 70, false),
    ("layers.0.up", 400, 700, false),
    ("layers.1.q", 3, 5000, false),
    ("embed", 700, 40, true),
];

const PLAIN: &str = r#"{"peft_type": "LORA", "r": 5, "lora_alpha": 7, "target_modules": ["q"], "lora_dropout": 0.1}"#;

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        let mut random = Random(1);
        let mut base = Model::default();
        for (module, rows, columns, _) in MATRICES {
            base =
                base.tensor(&format!("{module}.weight"), "BF16", &[rows, columns], bf16(&mut random, rows * columns));
        }
        base.tensor("norm.weight", "BF16", &[70], bf16(&mut random, 70))
            .tensor("ids", "I64", &[3], vec![7; 24])
            .write(&bench.path("base/model.safetensors"));
        for k in 0..3 {
            bench.put_adapter(&format!("l{k}"), PLAIN, &adapter(&mut random, 5));
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put_adapter(&self, name: &str, config: &str, weights: &Model) {
        weights.write(&self.path(name).join("adapter_model.safetensors"));
        fs::write(self.path(name).join("adapter_config.json"), config).unwrap();
    }

    fn merge(&self, recipe: &str, out: &str, options: Options, io: Io) -> Vec<u8> {
        let recipe = Recipe::parse(recipe).unwrap();
        merge(recipe, self.0.path(), &self.path(out), options, io).unwrap();
        fs::read(self.path(out).join("model.safetensors")).unwrap()
    }

    /// Writes the checkpoint that `base+l<k>` stands for into `m<k>`.
    fn write_whole(&self) {
        for k in 0..3 {
            let recipe = format!("{{merge_method: passthrough, models: [{{model: ./base+./l{k}}}], dtype: float32}}");
            self.merge(&recipe, &format!("m{k}"), options(), Io::Mmap);
        }
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::cargo_bin("taskvec").unwrap();
        command.current_dir(self.0.path()).env("HF_HUB_CACHE", self.path("no-cache")).args(args).output().unwrap()
    }

    /// A merge of `model` ends with `code`, says all of `words`, and leaves every file as it was.
    #[track_caller]
    fn refused(&self, model: &str, code: i32, words: &[&str]) {
        self.refused_args(&["merge", "--method", "linear", "--model", &format!("{model}=1"), "out"], code, words);
    }

    #[track_caller]
    fn refused_args(&self, args: &[&str], code: i32, words: &[&str]) {
        let before = tree(self.0.path());
        let run = self.run(args);
        let message = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(code), "{message}");
        words.iter().for_each(|w| assert!(message.contains(w), "`{w}` is not in the message:\n{message}"));
        assert!(before == tree(self.0.path()), "something was left behind");
    }
}

fn bf16(random: &mut Random, count: u64) -> Vec<u8> {
    let value = |r: u64| half::bf16::from_f32((r % 4001) as f32 / 1000.0 - 2.0).to_le_bytes();
    (0..count).flat_map(|_| value(random.next())).collect()
}

fn f32s(random: &mut Random, count: u64) -> Vec<u8> {
    (0..count).flat_map(|_| ((random.next() % 2003) as f32 / 5000.0 - 0.2).to_le_bytes()).collect()
}

/// A and B for every matrix, A in F32 and B in BF16.
fn adapter(random: &mut Random, rank: u64) -> Model {
    let mut weights = Model::default();
    for (module, rows, columns, embedding) in MATRICES {
        let (inputs, outputs) = if embedding { (rows, columns) } else { (columns, rows) };
        let end = |letter: &str| if embedding { format!("embedding_{letter}") } else { format!("{letter}.weight") };
        let name = |letter: &str| format!("base_model.model.{module}.lora_{}", end(letter));
        weights = weights.tensor(&name("A"), "F32", &[rank, inputs], f32s(random, rank * inputs)).tensor(
            &name("B"),
            "BF16",
            &[outputs, rank],
            bf16(random, outputs * rank),
        );
    }
    weights
}

/// The method with its parameters, over models that `name` names.
fn recipe(method: &str, name: &dyn Fn(usize) -> String) -> String {
    let models: Vec<String> = (0..3).map(|k| format!("{{model: {}}}", name(k))).collect();
    let models = if method.starts_with("slerp") { &models[..2] } else { &models };
    let base = if method.starts_with("linear") || method.starts_with("slerp") { "" } else { "base_model: ./base\n" };
    format!("merge_method: {method}\n{base}models: [{}]\n", models.join(", "))
}

const METHODS: [&str; 9] = [
    "linear\nparameters: {weight: 0.4}\ndtype: float32",
    "task_arithmetic\nparameters: {weight: 0.4}\ndtype: float32",
    "task_arithmetic\nparameters: {weight: 0.4}\nlwptv: {eta: 0.5}",
    "task_arithmetic\nparameters: {weight: 0.4}\nlwptv: {eta: 0.5, consensus: none, score: magnitude}",
    "task_arithmetic\nparameters: {weight: 0.4}\nlwptv: {eta: 0.5, layer: element}",
    "ties\nparameters: {weight: 1, density: 0.3}\ndtype: float32",
    "ties\nparameters: {weight: 1, density: 0.3, scope: model}\nlwptv: {eta: 0.5}",
    "dare_ties\nparameters: {weight: 1, density: 0.5}\ndtype: bfloat16",
    "slerp\nparameters: {t: 0.3}\ndtype: float32",
];

#[test]
fn an_adapter_merges_as_the_checkpoint_that_it_stands_for() {
    let bench = Bench::new();
    bench.write_whole();
    for (i, method) in METHODS.into_iter().enumerate() {
        let dtype = if method.contains("dtype") { "" } else { "\nout_dtype: float32" };
        let method = &format!("{method}{dtype}");
        let adapted = recipe(method, &|k| format!("./base+./l{k}"));
        let whole = recipe(method, &|k| format!("./m{k}"));
        let merge = |recipe: &str, out: &str| bench.merge(recipe, &format!("{out}{i}"), options(), Io::Mmap);
        assert!(merge(&adapted, "adapted") == merge(&whole, "whole"), "{method}");
    }
}

#[test]
fn threads_tiles_and_reads_do_not_show_in_what_adapters_give() {
    let bench = Bench::new();
    for (i, method) in METHODS.into_iter().enumerate() {
        let recipe = recipe(method, &|k| format!("./base+./l{k}"));
        let merge = |name: &str, threads, tile_elements, io| {
            bench.merge(&recipe, &format!("{name}{i}"), Options { threads, tile_elements, ..options() }, io)
        };
        let one = merge("one", 1, None, Io::Mmap);
        assert!(one == merge("three", 3, Some(2048), Io::Mmap), "{method}");
        assert!(one == merge("pread", 3, Some(6144), Io::Pread), "{method}");
    }
}

#[test]
fn adapters_and_delta_files_merge_together() {
    let bench = Bench::new();
    bench.write_whole();
    // A delta of bf16 on bf16, of several blocks.
    let base = bench.path("base").to_str().unwrap().to_owned();
    let tuned = bench.path("m0").to_str().unwrap().to_owned();
    taskvec::job::diff(&base, None, &tuned, &bench.path("m0.tvd"), &common::diff_run(Codec::Auto)).unwrap();
    for (i, method) in METHODS[1..8].iter().enumerate() {
        let names = |first: &'static str, other: &'static str| {
            recipe(method, &move |k| if k == 0 { first.to_owned() } else { other.replace('?', &k.to_string()) })
        };
        let mixed = bench.merge(&names("./m0.tvd", "./base+./l?"), &format!("mixed{i}"), options(), Io::Mmap);
        let tiny = Options { tile_elements: Some(2048), threads: 3, ..options() };
        let tiny = bench.merge(&names("./m0.tvd", "./base+./l?"), &format!("tiny{i}"), tiny, Io::Pread);
        let whole = bench.merge(&names("./m0", "./m?"), &format!("whole{i}"), options(), Io::Mmap);
        assert!(mixed == whole && tiny == whole, "{method}");
    }
}

#[test]
fn the_report_lists_the_adapters_files_with_their_hashes() {
    let bench = Bench::new();
    let recipe = recipe(METHODS[1], &|k| format!("./base+./l{k}"));
    let report =
        merge(Recipe::parse(&recipe).unwrap(), bench.0.path(), &bench.path("out"), options(), Io::Mmap).unwrap();
    let report = serde_json::to_value(report).unwrap();
    let files = |source: usize| -> Vec<(String, String)> {
        let text = |f: &Value, key: &str| f[key].as_str().unwrap().to_owned();
        let list = report["inputs"][source]["files"].as_array().unwrap();
        list.iter().map(|f| (text(f, "name"), text(f, "blake3"))).collect()
    };
    let hash = |path: &str| blake3::hash(&fs::read(bench.path(path)).unwrap()).to_hex().to_string();
    let expected = |k: usize| {
        let file = |folder: &str, name: &str| (name.to_owned(), hash(&format!("{folder}/{name}")));
        let adapter = format!("l{k}");
        vec![
            file("base", "model.safetensors"),
            file(&adapter, "adapter_config.json"),
            file(&adapter, "adapter_model.safetensors"),
        ]
    };
    let adapter = |source: usize| report["inputs"][source]["adapter"].as_str().map(str::to_owned);
    assert_eq!((adapter(0), adapter(3)), (None, Some(bench.path("./l2").display().to_string())));
    assert_eq!(files(0), expected(0)[..1]);
    (0..3).for_each(|k| assert_eq!(files(k + 1), expected(k)));
    let card = fs::read_to_string(bench.path("out/README.md")).unwrap();
    assert!(card.contains("* base+l2\n") && card.contains("- \"base+l2\"\n"), "{card}");
}

#[test]
fn the_plan_shows_adapters_and_its_id_hangs_on_their_scale() {
    let bench = Bench::new();
    let plan = || {
        let args = ["plan", "--method", "ties", "--base", "base", "--set", "density=0.5", "--model", "base+l0=1"];
        String::from_utf8(bench.run(&args).stdout).unwrap()
    };
    let id = |plan: &str| plan.lines().find(|l| l.starts_with("plan id")).unwrap().to_owned();
    let before = plan();
    assert!(before.contains("base+l0 (") && before.contains("3 files; an adapter on 4 tensors)"), "{before}");
    fs::write(bench.path("l0/adapter_config.json"), PLAIN.replace('7', "9")).unwrap();
    assert_ne!(id(&before), id(&plan()));
}

#[test]
fn a_path_with_a_plus_in_its_name_goes_before_an_adapter() {
    let bench = Bench::new();
    let merge = |model: &str, out: &str| {
        let recipe = format!("{{merge_method: passthrough, models: [{{model: {model}}}]}}");
        bench.merge(&recipe, out, options(), Io::Mmap)
    };
    let base = fs::read(bench.path("base/model.safetensors")).unwrap();
    let adapted = merge("./base+l0", "adapted");
    assert!(adapted == merge("{path: ./base, lora: {path: l0}}", "mapping"));
    assert!(adapted == merge("{model: {path: ./base}, lora: ./l0}", "nested"));
    fs::create_dir(bench.path("base+x")).unwrap();
    fs::copy(bench.path("base/model.safetensors"), bench.path("base+x/model.safetensors")).unwrap();
    assert!(adapted == merge("./base+x+l0", "both"));
    let tensors = |file: &[u8]| {
        fs::write(bench.path("file"), file).unwrap();
        Model::read(&bench.path("file")).tensors
    };
    assert_eq!(tensors(&merge("./base+x", "literal")), tensors(&base));
    fs::rename(bench.path("l1"), bench.path("x")).unwrap();
    bench.refused("base+x", 2, &["is a path, and also `base` with the adapter `x`"]);
}

#[test]
fn an_adapter_is_found_in_the_hugging_face_cache() {
    let bench = Bench::new();
    for name in ["base", "l0"] {
        let repo = bench.path("hub").join(format!("models--org--{name}"));
        fs::create_dir_all(repo.join("refs")).unwrap();
        fs::create_dir_all(repo.join("snapshots")).unwrap();
        fs::write(repo.join("refs/main"), "abc").unwrap();
        fs::rename(bench.path(name), repo.join("snapshots/abc")).unwrap();
    }
    let mut command = Command::cargo_bin("taskvec").unwrap();
    command.current_dir(bench.0.path()).env("HF_HUB_CACHE", bench.path("hub"));
    command.args(["merge", "--method", "passthrough", "--model", "org/base@main+org/l0", "out"]);
    command.assert().success();
    let card = fs::read_to_string(bench.path("out/README.md")).unwrap();
    assert!(card.contains("- \"org/base@main+org/l0\"\n"), "{card}");
}

#[test]
fn where_an_adapter_cannot_stand_it_is_refused_with_what_to_do() {
    let bench = Bench::new();
    let merge = |base: &'static str, model: &'static str| {
        ["merge", "--method", "task_arithmetic", "--base", base, "--model", model, "out"]
    };
    bench.refused_args(&merge("base+l0", "base=1"), 2, &["base_model", "passthrough --model base+l0"]);
    bench.refused_args(&["diff", "base", "base+l0", "-o", "x.tvd"], 66, &["--method passthrough"]);
    bench.refused_args(&["inspect", "base+l0"], 66, &["under `models` only"]);
    bench.refused_args(&merge("base", "base.tvd+l0=1"), 2, &["an adapter on a delta file"]);
    bench.refused_args(&merge("base", "+l0=1"), 2, &["expected MODEL+ADAPTER"]);
    bench.refused("base+", 2, &["expected MODEL+ADAPTER"]);
    bench.refused("base+nothing", 66, &["nothing", "is not in the cache"]);
    bench.refused("base+./l0+l1", 66, &["no such file"]);
    bench.refused("base+base", 66, &["base: is not an adapter", "adapter_config.json"]);
    fs::remove_file(bench.path("l0/adapter_model.safetensors")).unwrap();
    bench.refused("base+l0", 66, &["l0: no adapter_model.safetensors"]);
    fs::write(bench.path("l0/adapter_model.bin"), "pickle").unwrap();
    bench.refused("base+l0", 66, &["is a pickle", "save the adapter as adapter_model.safetensors"]);
}

#[test]
fn a_configuration_that_means_something_else_is_refused_with_65() {
    let bench = Bench::new();
    let with = |key: &str, value: Value| {
        let mut config: Value = serde_json::from_str(PLAIN).unwrap();
        config[key] = value;
        fs::write(bench.path("l0/adapter_config.json"), config.to_string()).unwrap();
    };
    for (key, value) in [
        ("use_dora", json!(true)),
        ("lora_bias", json!(true)),
        ("layer_replication", json!([[0, 1]])),
        ("peft_type", json!("IA3")),
        ("init_lora_weights", json!("pissa_niter_4")),
    ] {
        with(key, value);
        bench.refused("base+l0", 65, &["l0/adapter_config.json", key, "PEFT"]);
    }
    with("modules_to_save", json!(["head"]));
    bench.refused("base+l0", 65, &["none of the `modules_to_save`"]);
    fs::write(bench.path("l0/adapter_config.json"), "{").unwrap();
    bench.refused("base+l0", 65, &["is not the configuration of a LoRA adapter"]);
    fs::write(bench.path("l0/adapter_config.json"), " ".repeat((1 << 20) + 1)).unwrap();
    bench.refused("base+l0", 65, &["expected at most 1048576"]);
}

#[test]
fn every_tensor_of_an_adapter_must_fit_its_model() {
    let bench = Bench::new();
    let q = "base_model.model.layers.0.q";
    let (a, b) = (format!("{q}.lora_A.weight"), format!("{q}.lora_B.weight"));
    let zeros = |count: u64| vec![0; 4 * count as usize];
    let case = |tensors: &[(&str, &[u64])], words: &[&str]| {
        let add =
            |m: Model, (name, shape): &(&str, &[u64])| m.tensor(name, "F32", shape, zeros(shape.iter().product()));
        bench.put_adapter("l0", PLAIN, &tensors.iter().fold(Model::default(), add));
        bench.refused("base+l0", 65, &[&["l0/adapter_model.safetensors"], words].concat());
    };
    let (whole_a, whole_b): (&[u64], &[u64]) = (&[5, 70], &[96, 5]);
    case(&[(&a, whole_a)], &[&a, "has no B beside it"]);
    case(&[(&b, whole_b)], &[&b, "has no A beside it"]);
    case(&[(&a, &[4, 70]), (&b, whole_b)], &[&a, "expected shape [5, 70]", "got [4, 70]"]);
    case(&[(&a, whole_a), (&b, &[95, 5])], &[&b, "expected shape [96, 5]", "[96, 70]", "got [95, 5]"]);
    case(&[(&a, whole_a), (&b, whole_b), (&a.replace("lora_A", "lora_A.default"), whole_a)], &["has it twice"]);
    case(&[("layers.0.q.lora_A.weight", whole_a)], &["begins with `base_model.model.`"]);
    case(
        &[("base_model.model.model.layers.0.q.lora_A.weight", whole_a)],
        &["no tensor `model.layers.0.q.weight`", "the nearest is `layers.0.q.weight`"],
    );
    case(
        &[("base_model.model.norm.lora_A.weight", &[5, 70]), ("base_model.model.norm.lora_B.weight", &[70, 5])],
        &["has shape [70]", "only matrices"],
    );
    case(&[("base_model.model.norm.weight", &[71])], &["F32 [71], but `norm.weight` of the model is BF16 [70]"]);
    case(&[("base_model.model.ids", &[3])], &["F32 [3], but `ids` of the model is I64 [3]"]);
    case(&[(&format!("{q}.lora_magnitude_vector"), &[96])], &["DoRA"]);
    case(&[(&format!("{q}.lora_B.bias"), &[96])], &["merge the adapter with PEFT"]);
    case(&[], &["holds no tensors"]);
}

#[test]
fn a_number_of_an_adapter_that_is_not_finite_is_refused_under_the_adapters_name() {
    let bench = Bench::new();
    let path = bench.path("l1/adapter_model.safetensors");
    let mut weights = Model::read(&path);
    let whole = weights.clone();
    weights.tensors[0].bytes[4 * 72..4 * 73].copy_from_slice(&f32::NAN.to_le_bytes());
    weights.write(&path);
    let words =
        ["l1/adapter_model.safetensors", "tensor `layers.0.q.weight`", "element 2 is NaN", "--allow-non-finite"];
    let args = [
        "merge",
        "--method",
        "ties",
        "--set",
        "density=0.5",
        "--base",
        "base",
        "--model",
        "base+l0=1",
        "--model",
        "base+l1=1",
    ];
    bench.refused_args(&[&args[..], &["out"]].concat(), 65, &words);
    bench.refused_args(&[&args[..], &["--eta", "0.5", "out"]].concat(), 65, &words);
    whole.write(&path);
    let mut base = Model::read(&bench.path("base/model.safetensors"));
    base.tensors[0].bytes[..2].copy_from_slice(&half::bf16::INFINITY.to_le_bytes());
    base.write(&bench.path("broken/model.safetensors"));
    let args = [&args[..], &["--model", "broken+l1=1"]].concat();
    bench.refused_args(&[&args[..], &["out"]].concat(), 65, &["broken/model.safetensors", "element 0 is inf"]);
}

#[test]
fn flags_of_mergekit_about_adapters_are_taken_with_a_note() {
    let bench = Bench::new();
    let run = bench.run(&[
        "merge",
        "--method",
        "passthrough",
        "--model",
        "base+l0",
        "--lora-merge-dtype",
        "bfloat16",
        "--lora-merge-cache",
        "x",
        "out",
    ]);
    let said = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(0), "{said}");
    assert!(said.contains("--lora-merge-cache, --lora-merge-dtype have no effect"), "{said}");
    assert!(said.contains("adapters are applied in float32"), "{said}");
}
