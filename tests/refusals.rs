//! What must not be merged is refused: with the documented exit code, a message that names the fault and its place, and
//! nothing left behind. Every test runs the real binary; [`Bench::refused`] compares the whole folder before and after.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use assert_cmd::Command;
use common::Model;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

const TASK_ARITHMETIC: &str = "merge_method: task_arithmetic\n\
    base_model: ./base\n\
    models:\n\
    - {model: ./a, parameters: {weight: 0.5}}\n\
    - {model: ./c, parameters: {weight: 0.5}}\n";

/// A run that takes this long hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Three models that fit together and a recipe in `in`, an empty folder `made` for the output. Tests break a part.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(bench.path("made")).unwrap();
        ["base", "a", "c"].iter().zip([0.0, 1.0, 2.0]).for_each(|(name, shift)| bench.put(name, &whole(shift)));
        bench.recipe(TASK_ARITHMETIC);
        bench
    }

    fn with_lwptv() -> Self {
        let bench = Self::new();
        bench.recipe(&format!("{TASK_ARITHMETIC}lwptv: {{eta: 0.5}}\n"));
        bench
    }

    /// With this file of fixtures/broken as expert `a`.
    fn broken(name: &str) -> Self {
        let bench = Self::new();
        fs::copy(format!("fixtures/broken/{name}.safetensors"), bench.path("in/a/model.safetensors")).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn recipe(&self, text: &str) {
        fs::write(self.path("in/recipe.yml"), text).unwrap();
    }

    fn put(&self, folder: &str, model: &Model) {
        model.write(&self.path("in").join(folder).join("model.safetensors"));
    }

    /// Replaces expert `a` by shards, and an index that says what `weight_map` says.
    fn put_shards(&self, shards: &[(&str, Model)], weight_map: &[(&str, &str)]) {
        fs::remove_file(self.path("in/a/model.safetensors")).unwrap();
        shards.iter().for_each(|(name, model)| model.write(&self.path("in/a").join(name)));
        let map: serde_json::Map<_, _> = weight_map.iter().map(|(t, s)| ((*t).to_owned(), (*s).into())).collect();
        let index = serde_json::json!({"metadata": {"total_size": 48}, "weight_map": map});
        fs::write(self.path("in/a/model.safetensors.index.json"), index.to_string()).unwrap();
    }

    fn merge(&self, flags: &[&str]) -> Output {
        let (recipe, out) = (self.path("in/recipe.yml"), self.path("made/out"));
        self.run(&[&["merge", recipe.to_str().unwrap(), out.to_str().unwrap()], flags].concat())
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::cargo_bin("taskvec").unwrap();
        command.args(args).env("HF_HUB_CACHE", self.path("no-cache")).timeout(PATIENCE);
        command.output().unwrap()
    }

    #[track_caller]
    fn merged(&self, flags: &[&str]) -> Model {
        let run = self.merge(flags);
        assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
        Model::read(&self.path("made/out/model.safetensors"))
    }

    /// The merge ends with `code`, says all of `words`, and leaves every file and folder as it was. Gives its message.
    #[track_caller]
    fn refused(&self, flags: &[&str], code: i32, words: &[&str]) -> String {
        self.unchanged_by(|| self.merge(flags), code, words)
    }

    /// As [`Bench::refused`], of other arguments.
    #[track_caller]
    fn refused_args(&self, args: &[&str], code: i32, words: &[&str]) -> String {
        self.unchanged_by(|| self.run(args), code, words)
    }

    #[track_caller]
    fn unchanged_by(&self, run: impl FnOnce() -> Output, code: i32, words: &[&str]) -> String {
        let before = tree(self.0.path());
        let run = run();
        let message = text(&run.stderr);
        assert_eq!(run.status.code(), Some(code), "{message}");
        assert!(message.contains("error: "), "{message}");
        words.iter().for_each(|w| assert!(message.contains(w), "`{w}` is not in the message:\n{message}"));
        assert_eq!(text(&run.stdout), "", "data goes to stdout, messages do not");
        let after = tree(self.0.path());
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{message}");
        before.iter().for_each(|(path, was)| assert!(after[path] == *was, "{} changed", path.display()));
        message
    }
}

fn whole(shift: f32) -> Model {
    let square =
        |first: f32| [0, 1, 2, 3].map(|i| first + shift * i as f32).iter().flat_map(|v| v.to_le_bytes()).collect();
    Model::default()
        .f32("embed.weight", &[1.0, 2.0 + shift, 3.0, 4.0])
        .tensor("layers.0.weight", "F32", &[2, 2], square(0.5))
        .tensor("layers.1.weight", "F32", &[2, 2], square(-2.0))
}

/// A model of the first, of the second, of the third tensor of [`whole`].
fn thirds() -> [Model; 3] {
    let tensors: [common::Tensor; 3] = whole(1.0).tensors.try_into().unwrap();
    tensors.map(|t| Model { tensors: vec![t] })
}

fn pair(a: &Model, b: &Model) -> Model {
    Model { tensors: [a.tensors.clone(), b.tensors.clone()].concat() }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Everything below `folder`: content of files, targets of links, kinds of all else.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        let content = match kind {
            k if k.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            k if k.is_file() => fs::read(&path).unwrap(),
            k if k.is_dir() => {
                found.append(&mut tree(&path));
                b"folder".to_vec()
            }
            _ => b"special".to_vec(),
        };
        found.insert(path, content);
    }
    found
}

fn make_fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

#[test]
fn models_that_fit_together_are_merged_so_that_refusals_below_have_one_cause() {
    let merged = Bench::broken("whole").merged(&["--quiet"]);
    assert_eq!(merged.tensors.len(), 3);
    Bench::with_lwptv().merged(&["--quiet"]);
}

// Models that do not fit together.

#[test]
fn a_model_that_differs_in_one_shape_is_refused_with_65() {
    let bench = Bench::new();
    let mut model = whole(1.0);
    model.tensors[1].shape = vec![4];
    bench.put("a", &model);
    bench.refused(&[], 65, &["layers.0.weight", "./a", "[2, 2]", "[4]", "expected", "got"]);
}

#[test]
fn a_tensor_missing_in_an_expert_is_refused_with_65() {
    let bench = Bench::new();
    let [embed, first, _] = thirds();
    bench.put("c", &pair(&embed, &first));
    bench.refused(&[], 65, &["layers.1.weight", "./c", "F32 [2, 2]", "missing"]);
}

#[test]
fn a_tensor_that_the_base_does_not_have_is_refused_with_65() {
    let bench = Bench::new();
    bench.put("a", &whole(1.0).f32("score.weight", &[1.0]));
    bench.refused(&[], 65, &["score.weight", "./a", "not in ./base", "F32 [1]"]);
}

#[test]
fn a_float_tensor_against_an_integer_tensor_is_refused_with_65() {
    let bench = Bench::new();
    let mut model = whole(1.0);
    model.tensors[2].dtype = "I32".into();
    bench.put("c", &model);
    bench.refused(&[], 65, &["layers.1.weight", "./c", "F32", "I32", "float for float"]);
}

#[test]
fn integer_tensors_of_different_width_are_refused_with_65() {
    let bench = Bench::new();
    bench.put("base", &whole(0.0).tensor("ids", "I64", &[1], vec![7, 0, 0, 0, 0, 0, 0, 0]));
    bench.put("a", &whole(1.0).tensor("ids", "I32", &[1], vec![7, 0, 0, 0]));
    bench.put("c", &whole(2.0).tensor("ids", "I64", &[1], vec![7, 0, 0, 0, 0, 0, 0, 0]));
    bench.refused(&[], 65, &["ids", "./a", "I64", "I32"]);
}

#[test]
fn many_differences_are_one_table_of_the_first_ten_and_a_count() {
    let bench = Bench::new();
    let many = |size: usize| (0..12).fold(Model::default(), |m, i| m.f32(&format!("t{i:02}"), &vec![0.0; size]));
    bench.put("base", &many(1));
    bench.put("a", &many(2));
    bench.put("c", &many(1).f32("more", &[0.0]));
    let message = bench.refused(&[], 65, &["t00", "t09", "and 3 more"]);
    let rows: Vec<&str> = message.lines().filter(|l| l.contains("./a")).collect();
    assert_eq!(rows.len(), 10, "{message}");
    assert!(rows.iter().all(|row| row.contains("[1]") && row.contains("[2]")), "{message}");
    assert_eq!(message.matches("error: ").count(), 1, "{message}");
}

// Values that cannot be merged.

#[test]
fn nan_in_an_expert_is_refused_with_65_by_the_scoring_pass() {
    let bench = Bench::with_lwptv();
    let mut values = vec![1.0; 5000];
    ["base", "c"].iter().for_each(|name| bench.put(name, &whole(1.0).f32("long", &values)));
    values[4999] = f32::NAN;
    bench.put("a", &whole(1.0).f32("long", &values));
    bench.refused(&[], 65, &["in/./a/model.safetensors", "`long`", "element 4999 is NaN", "--allow-non-finite"]);
}

#[test]
fn nan_in_the_base_is_refused_with_65() {
    let bench = Bench::new();
    let mut base = whole(0.0);
    base.tensors[0].bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    bench.put("base", &base);
    bench.refused(&[], 65, &["base/model.safetensors", "`embed.weight`", "element 2 is NaN"]);
}

#[test]
fn infinity_in_an_expert_is_refused_with_65_also_without_lwptv() {
    for (value, shown) in [(f32::INFINITY, "element 1 is inf"), (f32::NEG_INFINITY, "element 1 is -inf")] {
        let bench = Bench::new();
        let mut model = whole(1.0);
        model.tensors[2].bytes[4..8].copy_from_slice(&value.to_le_bytes());
        bench.put("c", &model);
        bench.refused(&["--io", "pread"], 65, &["c/model.safetensors", "`layers.1.weight`", shown]);
    }
}

#[test]
fn allow_non_finite_lets_infinities_pass_into_the_output() {
    let bench = Bench::new();
    let mut model = whole(1.0);
    model.tensors[2].bytes[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes());
    bench.put("c", &model);
    let merged = bench.merged(&["--allow-non-finite"]);
    assert_eq!(merged.tensors[2].bytes[4..8], f32::INFINITY.to_le_bytes());
    assert_eq!(merged.tensors[2].bytes[..4], (-2.0f32).to_le_bytes());
}

#[test]
fn a_merged_value_beyond_f16_is_refused_with_65_unless_allowed() {
    let bench = Bench::new();
    bench.recipe(&format!("{TASK_ARITHMETIC}out_dtype: float16\n"));
    bench.put("base", &whole(0.0).f32("big", &[0.0, 0.0]));
    ["a", "c"].iter().for_each(|name| bench.put(name, &whole(1.0).f32("big", &[1.0, -70000.0])));
    bench.refused(&[], 65, &["`big`", "element 1 is -70000", "F16", "out_dtype", "--allow-non-finite"]);
    let merged = bench.merged(&["--allow-non-finite"]);
    assert_eq!((merged.tensors[3].dtype.as_str(), &merged.tensors[3].bytes[2..]), ("F16", &[0x00, 0xfc][..]));
}

#[test]
fn an_integer_tensor_that_differs_is_refused_with_65() {
    let bench = Bench::with_lwptv();
    let ids = |last: u8| whole(1.0).tensor("ids", "I16", &[3], vec![1, 0, 2, 0, last, 0]);
    bench.put("base", &ids(3));
    bench.put("a", &ids(3));
    bench.put("c", &ids(4));
    let words = ["c/model.safetensors", "base/model.safetensors", "`ids`", "I16", "element 2"];
    bench.refused(&[], 65, &words);
}

// Files that break their format.

#[test]
fn a_truncated_file_is_refused_with_65_and_told_its_whole_length() {
    let words = ["a/model.safetensors", "truncated", "expected 48 bytes of tensors", "got 28"];
    Bench::broken("truncated_in_the_data").refused(&[], 65, &words);
}

#[test]
fn a_file_cut_inside_its_header_is_refused_with_65() {
    let bench = Bench::broken("truncated_in_the_header");
    bench.refused(&[], 65, &["a/model.safetensors", "not a whole safetensors file", "file of 48 bytes"]);
}

#[test]
fn a_truncated_shard_is_refused_with_65_by_its_own_name() {
    let bench = Bench::new();
    let [embed, first, second] = thirds();
    let map =
        [("embed.weight", "1.safetensors"), ("layers.0.weight", "1.safetensors"), ("layers.1.weight", "2.safetensors")];
    bench.put_shards(&[("1.safetensors", pair(&embed, &first)), ("2.safetensors", second)], &map);
    let shard = bench.path("in/a/2.safetensors");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 5]).unwrap();
    bench.refused(&[], 65, &["a/2.safetensors", "truncated", "expected 16 bytes", "got 11"]);
}

#[test]
fn a_file_longer_than_its_header_says_is_refused_with_65() {
    let words = ["a/model.safetensors", "longer than its header says", "expected 48", "got 49"];
    Bench::broken("longer_than_its_header_says").refused(&[], 65, &words);
}

#[test]
fn a_header_length_of_0_is_refused_with_65() {
    Bench::broken("header_length_0").refused(&[], 65, &["a/model.safetensors", "claims 0 bytes"]);
}

#[test]
fn a_header_length_of_2_pow_63_is_refused_with_65() {
    Bench::broken("header_length_2_pow_63").refused(
        &[],
        65,
        &["a/model.safetensors", "claims 9223372036854775808 bytes"],
    );
}

#[test]
fn a_header_length_beyond_the_file_is_refused_with_65() {
    let bench = Bench::broken("header_length_one_beyond_the_file");
    bench.refused(&[], 65, &["a/model.safetensors", "claims 277 bytes", "2 to 276"]);
}

#[test]
fn a_file_too_short_for_a_header_is_refused_with_65() {
    Bench::broken("empty").refused(&[], 65, &["a/model.safetensors", "0 bytes long"]);
    Bench::broken("seven_bytes").refused(&[], 65, &["a/model.safetensors", "7 bytes long"]);
}

#[test]
fn a_duplicate_name_in_a_header_is_refused_with_65() {
    Bench::broken("name_twice").refused(&[], 65, &["a/model.safetensors", "`layers.0.weight`", "listed twice"]);
}

#[test]
fn an_unknown_dtype_is_refused_with_65() {
    Bench::broken("dtype_unknown").refused(&[], 65, &["a/model.safetensors", "`layers.0.weight`", "dtype `F3`"]);
}

#[test]
fn a_block_scaled_dtype_is_refused_with_65_and_advice() {
    let words = ["a/model.safetensors", "`layers.0.weight`", "dtype `F4`", "block-scaled", "dequantise"];
    Bench::broken("dtype_f4_block_scaled").refused(&[], 65, &words);
}

#[test]
fn a_hole_between_tensors_is_refused_with_65() {
    let words = ["a/model.safetensors", "`layers.1.weight`", "begins at 36, expected 32"];
    Bench::broken("hole_between_tensors").refused(&[], 65, &words);
}

#[test]
fn tensors_that_overlap_are_refused_with_65() {
    let words = ["a/model.safetensors", "`layers.1.weight`", "begins at 28, expected 32"];
    Bench::broken("tensors_overlap").refused(&[], 65, &words);
}

#[test]
fn a_shape_that_does_not_match_its_bytes_is_refused_with_65() {
    let words = ["a/model.safetensors", "`layers.1.weight`", "[2, 3]", "takes 24 bytes"];
    Bench::broken("shape_beyond_its_data").refused(&[], 65, &words);
    let words = ["a/model.safetensors", "`layers.0.weight`", "[4611686018427387904, 4]", "overflows"];
    Bench::broken("shape_overflows").refused(&[], 65, &words);
}

// Shards and their index.

#[test]
fn a_shard_name_that_climbs_out_of_the_folder_is_refused_with_65() {
    let bench = Bench::new();
    let out = "../base/model.safetensors";
    bench.put_shards(&[], &[("embed.weight", out), ("layers.0.weight", out), ("layers.1.weight", out)]);
    bench.refused(&[], 65, &["a/model.safetensors.index.json", "`embed.weight`", out, "plain file name"]);
}

#[test]
fn a_shard_that_is_listed_but_missing_is_refused_with_66() {
    let bench = Bench::new();
    let [embed, first, _] = thirds();
    let map =
        [("embed.weight", "1.safetensors"), ("layers.0.weight", "1.safetensors"), ("layers.1.weight", "2.safetensors")];
    bench.put_shards(&[("1.safetensors", pair(&embed, &first))], &map);
    bench.refused(&[], 66, &["a/2.safetensors", "no such file"]);
}

#[test]
fn a_tensor_in_two_shards_is_refused_with_65() {
    let bench = Bench::new();
    let [embed, first, second] = thirds();
    let map =
        [("embed.weight", "1.safetensors"), ("layers.0.weight", "1.safetensors"), ("layers.1.weight", "2.safetensors")];
    bench.put_shards(&[("1.safetensors", pair(&embed, &first)), ("2.safetensors", pair(&first, &second))], &map);
    bench.refused(&[], 65, &["a/2.safetensors", "`layers.0.weight`", "1.safetensors", "one shard only"]);
}

#[test]
fn an_index_that_places_a_tensor_in_the_wrong_shard_is_refused_with_65() {
    let bench = Bench::new();
    let [embed, first, second] = thirds();
    let map =
        [("embed.weight", "1.safetensors"), ("layers.0.weight", "2.safetensors"), ("layers.1.weight", "2.safetensors")];
    bench.put_shards(&[("1.safetensors", pair(&embed, &first)), ("2.safetensors", second)], &map);
    let words =
        ["a/model.safetensors.index.json", "`layers.0.weight`", "places it in 2.safetensors", "is in 1.safetensors"];
    bench.refused(&[], 65, &words);
}

#[test]
fn an_index_that_lists_a_tensor_no_shard_holds_is_refused_with_65() {
    let bench = Bench::new();
    let [embed, first, _] = thirds();
    let map =
        [("embed.weight", "1.safetensors"), ("layers.0.weight", "1.safetensors"), ("layers.1.weight", "1.safetensors")];
    bench.put_shards(&[("1.safetensors", pair(&embed, &first))], &map);
    let words = ["a/model.safetensors.index.json", "`layers.1.weight`", "1.safetensors, which does not hold it"];
    bench.refused(&[], 65, &words);
}

#[test]
fn a_tensor_that_the_index_does_not_list_is_refused_with_65() {
    let bench = Bench::new();
    let map = [("embed.weight", "1.safetensors"), ("layers.0.weight", "1.safetensors")];
    bench.put_shards(&[("1.safetensors", whole(1.0))], &map);
    bench.refused(
        &[],
        65,
        &["a/model.safetensors.index.json", "`layers.1.weight`", "in 1.safetensors but not in the index"],
    );
}

#[test]
fn several_files_without_an_index_are_refused_with_65() {
    let bench = Bench::new();
    bench.put_shards(&[("1.safetensors", whole(1.0)), ("2.safetensors", whole(1.0))], &[]);
    fs::remove_file(bench.path("in/a/model.safetensors.index.json")).unwrap();
    bench.refused(&[], 65, &["in/./a: ", "2 .safetensors files and no model.safetensors.index.json"]);
}

// Models that are not there, or not what they should be.

#[test]
fn a_missing_model_is_refused_with_66() {
    let bench = Bench::new();
    bench.recipe(&TASK_ARITHMETIC.replace("./c", "./nowhere"));
    bench.refused(&[], 66, &["in/./nowhere", "no such file or folder"]);
}

#[test]
fn a_name_that_is_neither_a_path_nor_in_the_cache_is_refused_with_66() {
    let bench = Bench::new();
    bench.recipe(&TASK_ARITHMETIC.replace("./c", "org/nowhere"));
    bench.refused(&[], 66, &["org/nowhere: ", "no-cache", "download it first", "does not use the network"]);
}

#[test]
fn a_folder_of_pickles_is_refused_with_66_and_not_opened() {
    let bench = Bench::new();
    fs::rename(bench.path("in/a/model.safetensors"), bench.path("in/a/pytorch_model.bin")).unwrap();
    bench.refused(&[], 66, &["in/./a: ", "no .safetensors file", "pickles (.bin, .pt) must be converted first"]);
}

#[test]
fn a_pickle_named_in_the_recipe_is_refused_with_66() {
    let bench = Bench::new();
    fs::rename(bench.path("in/a/model.safetensors"), bench.path("in/a/model.pt")).unwrap();
    bench.recipe(&TASK_ARITHMETIC.replace("./a", "./a/model.pt"));
    bench.refused(&[], 66, &["a/model.pt", "is a pickle", "convert it to safetensors"]);
}

#[test]
fn a_fifo_as_a_model_is_refused_with_66_and_does_not_hang() {
    let bench = Bench::new();
    fs::remove_file(bench.path("in/a/model.safetensors")).unwrap();
    make_fifo(&bench.path("in/a/model.safetensors"));
    bench.refused(&[], 66, &["a/model.safetensors", "is not a regular file"]);
}

#[test]
fn a_fifo_as_an_index_or_a_recipe_is_refused_with_66_and_does_not_hang() {
    let bench = Bench::new();
    make_fifo(&bench.path("in/a/model.safetensors.index.json"));
    bench.refused(&[], 66, &["a/model.safetensors.index.json", "is not a regular file"]);
    fs::remove_file(bench.path("in/recipe.yml")).unwrap();
    make_fifo(&bench.path("in/recipe.yml"));
    bench.refused(&[], 66, &["in/recipe.yml", "is not a regular file"]);
}

#[test]
fn a_link_that_leaves_the_folder_is_refused_with_66_unless_links_are_followed() {
    let bench = Bench::new();
    let plain = bench.merged(&[]);
    fs::remove_dir_all(bench.path("made/out")).unwrap();
    fs::rename(bench.path("in/a/model.safetensors"), bench.path("in/elsewhere.safetensors")).unwrap();
    symlink("../elsewhere.safetensors", bench.path("in/a/model.safetensors")).unwrap();
    bench.refused(&[], 66, &["a/model.safetensors", "in/elsewhere.safetensors", "leaves", "--follow-links"]);
    assert_eq!(bench.merged(&["--follow-links"]), plain);
}

#[test]
fn a_link_to_nothing_is_refused_with_66() {
    let bench = Bench::new();
    fs::remove_file(bench.path("in/a/model.safetensors")).unwrap();
    symlink("gone.safetensors", bench.path("in/a/model.safetensors")).unwrap();
    bench.refused(&[], 66, &["a/model.safetensors", "no such file"]);
}

#[test]
fn an_index_that_is_a_link_out_of_the_folder_is_refused_with_66() {
    let bench = Bench::new();
    bench.put_shards(
        &[("1.safetensors", whole(1.0))],
        &["embed.weight", "layers.0.weight", "layers.1.weight"].map(|t| (t, "1.safetensors")),
    );
    let index = bench.path("in/a/model.safetensors.index.json");
    fs::rename(&index, bench.path("in/elsewhere.json")).unwrap();
    symlink("../elsewhere.json", &index).unwrap();
    bench.refused(&[], 66, &["a/model.safetensors.index.json", "leaves", "--follow-links"]);
    bench.merged(&["--follow-links"]);
}

#[test]
fn a_side_file_that_is_a_link_out_of_the_folder_is_not_copied_into_the_output() {
    let bench = Bench::new();
    fs::write(bench.path("in/secret.txt"), "a key").unwrap();
    symlink("../secret.txt", bench.path("in/base/vocab.txt")).unwrap();
    bench.refused(&[], 66, &["base/vocab.txt", "leaves", "--follow-links"]);
    bench.merged(&["--follow-links"]);
    assert_eq!(fs::read_to_string(bench.path("made/out/vocab.txt")).unwrap(), "a key");
}

// Recipes.

#[track_caller]
fn recipe_is_refused(recipe: &str, words: &[&str]) {
    let bench = Bench::new();
    bench.recipe(recipe);
    bench.refused(&[], 2, &[&["in/recipe.yml: "], words].concat());
}

#[test]
fn an_unknown_key_is_refused_with_2_and_a_suggestion() {
    let recipe = format!("{TASK_ARITHMETIC}lwtpv: {{eta: 0.5}}\n");
    recipe_is_refused(&recipe, &["unknown key `lwtpv`", "did you mean `lwptv`?"]);
}

#[test]
fn an_unknown_key_inside_a_block_is_refused_with_2_and_its_place() {
    let recipe = format!("{TASK_ARITHMETIC}lwptv: {{eta: 0.5, consensu: or}}\n");
    recipe_is_refused(&recipe, &["lwptv.consensu: ", "did you mean `consensus`?"]);
    let recipe = TASK_ARITHMETIC.replace("{model: ./c, parameters", "{model: ./c, parametres");
    recipe_is_refused(&recipe, &["models[1].parametres: ", "did you mean `parameters`?"]);
}

#[test]
fn an_unknown_parameter_is_refused_with_2_and_a_suggestion() {
    let recipe = format!("{TASK_ARITHMETIC}parameters: {{lamda: 0.5}}\n");
    recipe_is_refused(&recipe, &["parameters.lamda: ", "task_arithmetic", "did you mean `lambda`?"]);
}

#[test]
fn an_unknown_method_is_refused_with_2_and_a_suggestion() {
    let recipe = TASK_ARITHMETIC.replace("task_arithmetic", "task_arithmetics");
    recipe_is_refused(&recipe, &["merge_method: ", "`task_arithmetics`", "did you mean `task_arithmetic`?"]);
}

#[test]
fn an_eta_outside_its_range_is_refused_with_2() {
    for (eta, words) in [("1.5", "0 to 1, got 1.5"), ("-0.1", "0 to 1, got -0.1"), ("most", "a number, got text")] {
        recipe_is_refused(&format!("{TASK_ARITHMETIC}lwptv: {{eta: {eta}}}\n"), &["lwptv.eta: ", words]);
        Bench::with_lwptv().refused(&["--eta", eta], 2, &["--eta", eta]);
    }
    recipe_is_refused(&format!("{TASK_ARITHMETIC}lwptv: {{eta: .nan}}\n"), &["line 6", "non-finite float `.nan`"]);
    recipe_is_refused(&format!("{TASK_ARITHMETIC}lwptv: {{layer: block}}\n"), &["lwptv: ", "`eta` is missing"]);
}

#[test]
fn lwptv_with_one_expert_is_refused_with_2_and_the_reason() {
    let one = "merge_method: task_arithmetic\nbase_model: ./base\nmodels: [{model: ./a, parameters: {weight: 1}}]\n";
    recipe_is_refused(&format!("{one}lwptv: {{eta: 0.5}}\n"), &["models: ", "at least two experts", "every layer"]);
    let bench = Bench::new();
    bench.recipe(one);
    bench.refused(&["--eta", "0.5"], 2, &["at least two experts"]);
}

#[test]
fn lwptv_without_base_model_is_refused_with_2() {
    let linear = TASK_ARITHMETIC.replace("task_arithmetic", "linear").replace("base_model: ./base\n", "");
    recipe_is_refused(&format!("{linear}lwptv: {{eta: 0.5}}\n"), &["base_model: ", "missing, but lwptv is on"]);
}

#[test]
fn task_vectors_without_base_model_are_refused_with_2() {
    recipe_is_refused(
        &TASK_ARITHMETIC.replace("base_model: ./base\n", ""),
        &["base_model: ", "missing", "task_arithmetic"],
    );
}

#[test]
fn a_missing_weight_is_refused_with_2_and_the_model_named() {
    let recipe = TASK_ARITHMETIC.replace("{model: ./c, parameters: {weight: 0.5}}", "{model: ./c}");
    let bench = Bench::new();
    bench.recipe(&recipe);
    bench.refused(&[], 2, &["in/recipe.yml: ", "models[1] (./c): ", "`weight` has no value", "embed.weight"]);
}

#[test]
fn a_missing_weight_is_told_by_the_place_in_the_recipe_also_after_a_listed_base() {
    let recipe = TASK_ARITHMETIC
        .replace("models:\n", "models:\n- {model: ./base}\n")
        .replace("{model: ./c, parameters: {weight: 0.5}}", "{model: ./c}");
    let bench = Bench::new();
    bench.recipe(&recipe);
    bench.refused(&[], 2, &["models[2] (./c): ", "`weight` has no value"]);
}

#[test]
fn a_yaml_syntax_error_is_refused_with_2_and_its_line() {
    recipe_is_refused(&format!("{TASK_ARITHMETIC}parameters: {{lambda: [1\n"), &["not valid YAML", "line "]);
}

#[test]
fn a_duplicate_yaml_key_is_refused_with_2() {
    recipe_is_refused(&format!("{TASK_ARITHMETIC}dtype: float32\ndtype: float16\n"), &["not valid YAML", "dtype"]);
}

#[test]
fn a_yaml_alias_bomb_is_refused_with_2_at_once() {
    let start = Instant::now();
    recipe_is_refused(
        &fs::read_to_string("fixtures/broken/alias_bomb.yml").unwrap(),
        &["not valid YAML", "budget breached"],
    );
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn deep_nesting_in_yaml_is_refused_with_2() {
    recipe_is_refused(&"[".repeat(100_000), &["not valid YAML"]);
    recipe_is_refused(&format!("{}0{}", "{a: ".repeat(5000), "}".repeat(5000)), &[]);
}

#[test]
fn a_recipe_that_is_missing_or_a_folder_is_refused_with_66() {
    let bench = Bench::new();
    fs::remove_file(bench.path("in/recipe.yml")).unwrap();
    bench.refused(&[], 66, &["in/recipe.yml: ", "No such file"]);
    fs::create_dir(bench.path("in/recipe.yml")).unwrap();
    bench.refused(&[], 66, &["in/recipe.yml: ", "is not a regular file"]);
}

#[test]
fn a_recipe_that_is_not_text_is_refused_with_2() {
    let bench = Bench::new();
    fs::write(bench.path("in/recipe.yml"), b"merge_method: \xff\n").unwrap();
    bench.refused(&[], 2, &["in/recipe.yml: ", "UTF-8"]);
}

// Flags.

#[test]
fn a_memory_budget_that_is_too_small_is_refused_with_2_and_what_is_needed() {
    Bench::new().refused(&["--memory", "1MiB"], 2, &["--memory 1.05 MB is too small", "needs ", " MB at least"]);
}

#[test]
fn the_memory_that_a_refusal_asks_for_is_enough() {
    let bench = Bench::with_lwptv();
    let recipe = bench.path("in/recipe.yml");
    for threads in ["1", "2", "3", "5", "8"] {
        let plan = |memory: &str| bench.run(&["plan", recipe.to_str().unwrap(), "--memory", memory, "-j", threads]);
        let message = text(&plan("1MiB").stderr);
        let needed = message.split("needs ").nth(1).and_then(|m| m.split(" at least").next()).unwrap();
        let again = plan(needed);
        assert_eq!(again.status.code(), Some(0), "--memory \"{needed}\" -j {threads}: {}", text(&again.stderr));
    }
}

#[test]
fn a_bad_flag_is_refused_with_2() {
    let bench = Bench::new();
    bench.refused(&["--no-such-flag"], 2, &["--no-such-flag"]);
    bench.refused(&["--memory", "lots"], 2, &["--memory lots", "expected a size"]);
    bench.refused(&["--out-shard-size", "5X"], 2, &["--out-shard-size 5X", "expected a size"]);
    bench.refused(&["-j", "0"], 2, &["--num-threads 0"]);
    bench.refused(&["--io", "carrier-pigeon"], 2, &["--io", "mmap, pread"]);
    bench.refused(&["--eta", "0.5", "--no-lwptv"], 2, &["--eta", "--no-lwptv"]);
}

#[test]
fn merge_without_out_is_refused_with_2() {
    let bench = Bench::new();
    let recipe = bench.path("in/recipe.yml");
    bench.refused_args(&["merge", recipe.to_str().unwrap()], 2, &["RECIPE.yml and OUT"]);
    bench.refused_args(&["merge"], 2, &["RECIPE.yml OUT"]);
}

#[test]
fn a_recipe_and_a_method_together_are_refused_with_2() {
    Bench::new().refused(&["--method", "linear", "--model", "x=1"], 2, &["either a recipe file or --method"]);
}

// Outputs that are in the way.

#[test]
fn an_output_folder_that_is_not_empty_is_refused_with_73_and_untouched() {
    let bench = Bench::new();
    fs::create_dir(bench.path("made/out")).unwrap();
    fs::write(bench.path("made/out/config.json"), "old").unwrap();
    bench.refused(&[], 73, &["made/out: ", "not empty", "--overwrite"]);
    let merged = bench.merged(&["--overwrite"]);
    assert_eq!(merged.tensors.len(), 3);
    assert!(!bench.path("made/out/config.json").exists());
    assert_eq!(fs::read_dir(bench.path("made")).unwrap().count(), 1);
}

#[test]
fn a_failed_merge_does_not_touch_the_output_that_it_was_to_replace() {
    let bench = Bench::new();
    bench.merged(&[]);
    let mut model = whole(1.0);
    model.tensors[2].bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    bench.put("c", &model);
    bench.refused(&["--overwrite"], 65, &["`layers.1.weight`"]);
}

#[test]
fn an_output_folder_that_is_empty_is_filled() {
    let bench = Bench::new();
    fs::create_dir(bench.path("made/out")).unwrap();
    assert_eq!(bench.merged(&[]).tensors.len(), 3);
}

#[test]
fn an_output_that_is_a_file_is_refused_with_73() {
    let bench = Bench::new();
    fs::write(bench.path("made/out"), "letters").unwrap();
    bench.refused(&[], 73, &["made/out: ", "not a folder"]);
    bench.refused(&["--overwrite"], 73, &["made/out: ", "not a folder"]);
}

#[test]
fn an_output_that_is_a_link_to_nothing_is_refused_with_73() {
    let bench = Bench::new();
    symlink("gone", bench.path("made/out")).unwrap();
    bench.refused(&[], 73, &["made/out: "]);
}

#[test]
fn overwrite_does_not_replace_a_folder_without_a_model() {
    let bench = Bench::new();
    fs::create_dir(bench.path("made/out")).unwrap();
    fs::write(bench.path("made/out/letters.txt"), "dear").unwrap();
    bench.refused(&["--overwrite"], 73, &["made/out: ", "neither taskvec.json nor config.json nor weights"]);
}

#[test]
fn overwrite_does_not_replace_an_input() {
    let bench = Bench::new();
    let (recipe, base) = (bench.path("in/recipe.yml"), bench.path("in/base"));
    let args = ["merge", recipe.to_str().unwrap(), base.to_str().unwrap(), "--overwrite"];
    bench.refused_args(&args, 73, &["in/base", "input"]);
}

#[test]
fn overwrite_does_not_replace_a_folder_that_holds_an_input() {
    let bench = Bench::new();
    fs::write(bench.path("in/config.json"), "{}").unwrap();
    let (recipe, models) = (bench.path("in/recipe.yml"), bench.path("in"));
    let args = ["merge", recipe.to_str().unwrap(), models.to_str().unwrap(), "--overwrite"];
    bench.refused_args(&args, 73, &["/in", "input"]);
}

#[test]
fn a_second_process_on_the_same_output_is_told_so_with_75() {
    let bench = Bench::new();
    let lock = fs::File::create(bench.path("made/.out.lock")).unwrap();
    lock.lock().unwrap();
    bench.refused(&[], 75, &["made/out: ", "another taskvec", "try again"]);
    drop(lock);
    bench.merged(&[]);
    assert_eq!(fs::read_dir(bench.path("made")).unwrap().count(), 1);
}
