//! Sweeps: one recipe with many etas, each result as if it were merged alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::Model;
use common::folder::Folder;
use serde_json::Value;
use std::fs;

struct Bench(Folder);

impl Bench {
    fn new() -> Self {
        let bench = Self(Folder::new());
        for (m, name) in ["base", "e1", "e2", "e3"].into_iter().enumerate() {
            bench.0.put(name, &model(m as u64));
        }
        let recipe = "merge_method: task_arithmetic\nbase_model: ./base\nmodels:\n- model: ./e1\n- model: ./e2\n- model: ./e3\n\
                      parameters: {weight: 0.5, lambda: 0.8}\n";
        fs::write(bench.0.path("r.yml"), recipe).unwrap();
        // Says which model it measured, and how many of its tensors differ from the base: more at smaller eta.
        let measure = "echo \"$1\" >> measured\nk=$(grep -c '\"action\": \"merged\"' \"$1/taskvec.json\")\n\
                       echo loading\nprintf '{\\n  \"id\": {\"a\": 1},\\n  \"id_avg\": %s,\\n  \"h\": %s\\n}\\n' $k $((k * (17 - k)))\n";
        fs::write(bench.0.path("measure.sh"), measure).unwrap();
        bench
    }

    /// What a sweep that succeeds prints.
    fn sweep(&self, args: &[&str]) -> Value {
        let (code, out, errors) = self.0.taskvec(&[&["sweep", "r.yml", "s", "--json"], args].concat());
        assert_eq!(code, 0, "{errors}");
        serde_json::from_str(&out).unwrap()
    }

    fn weights(&self, out: &str) -> Vec<u8> {
        fs::read(self.0.path(out).join("model.safetensors")).unwrap()
    }

    fn measured(&self) -> usize {
        fs::read_to_string(self.0.path("measured")).unwrap_or_default().lines().count()
    }
}

fn model(m: u64) -> Model {
    (0..20u64).fold(Model::default(), |model, t| {
        let step = |i: u64| if m == 0 { 0.0 } else { ((i * 31 + m * 7) % 64) as f32 * (t + 1) as f32 / 1e4 };
        let values: Vec<f32> = (0..3000).map(|i| i as f32 / 100.0 + step(i)).collect();
        model.f32(&format!("layers.{t}.weight"), &values)
    })
}

const MEASURE: [&str; 2] = ["--eval", "sh measure.sh {model}"];

#[test]
fn every_delta_makes_the_model_that_a_merge_with_its_eta_and_lambda_makes() {
    let bench = Bench::new();
    let found = bench.sweep(&["--eta", "0.2..0.6:0.2", "--lambda", "0.3,1"]);
    let points = found["points"].as_array().unwrap();
    assert_eq!(points.len(), 6);
    for point in points {
        let (eta, lambda) = (&point["eta"], &point["lambda"]);
        let recipe = fs::read_to_string(bench.0.path("r.yml")).unwrap();
        let recipe = recipe.replace("lambda: 0.8", &format!("lambda: {lambda}")) + &format!("lwptv: {{eta: {eta}}}\n");
        fs::write(bench.0.path("one.yml"), recipe).unwrap();
        assert_eq!(bench.0.taskvec(&["merge", "one.yml", "one", "--overwrite"]).0, 0);
        let delta = format!("s/{}", point["result"].as_str().unwrap());
        let (code, _, errors) = bench.0.taskvec(&["apply", "base", &delta, "-o", "again", "--overwrite"]);
        assert_eq!(code, 0, "{errors}");
        assert!(bench.weights("again") == bench.weights("one"), "{eta} {lambda}");
    }
    // Pass 1 is the first point's; later points of a lambda read the base and what was merged before.
    let read: Vec<u64> = points.iter().map(|p| p["bytes_read"].as_u64().unwrap()).collect();
    let model = 20 * 3000 * 4;
    assert!(read[0] > 6 * model && read[1..].iter().all(|r| *r < 4 * model), "{read:?}");
    assert!(read[1] < 2 * model && read[2] < 2 * model, "{read:?}");
    assert!(!bench.0.path("s/.models").exists() && bench.0.path("s/sweep.html").exists());
}

#[test]
fn full_keeps_models() {
    let bench = Bench::new();
    bench.sweep(&["--eta", "0.5", "--full"]);
    assert_eq!(bench.0.taskvec(&["merge", "r.yml", "one", "--eta", "0.5"]).0, 0);
    assert!(bench.weights("s/eta-0.5") == bench.weights("one"));
    assert!(!bench.0.path("s/eta-0.5/merged.tvd").exists());
    assert_eq!(bench.0.taskvec(&["verify", "s/eta-0.5"]).0, 0);
}

#[test]
fn a_sweep_measures_each_model_picks_the_best_and_goes_on_where_it_was() {
    let bench = Bench::new();
    let found = bench.sweep(&[&["--eta", "0..0.9:0.3"], &MEASURE[..]].concat());
    let of = |found: &Value, key: &str| -> Vec<Value> {
        found["points"].as_array().unwrap().iter().map(|p| p["metrics"][key].clone()).collect()
    };
    assert_eq!(of(&found, "id_avg"), [20.0, 13.0, 7.0, 1.0]);
    // k (17 - k) of k layers kept is 70 for eta 0.6, and 72 for 0.5.
    assert_eq!((&found["best"]["metric"], &found["best"]["point"]["eta"]), (&"h".into(), &0.6.into()));
    assert_eq!(bench.measured(), 4);
    let page = fs::read_to_string(bench.0.path("s/sweep.html")).unwrap();
    assert!(page.contains("Best by h: 70") && page.contains("<svg") && !page.contains("<script"));

    // Finer: only what is new is merged and measured.
    let found = bench.sweep(&[&["--eta", "0..0.9:0.3,0.5"], &MEASURE[..]].concat());
    assert_eq!(of(&found, "id_avg"), [20.0, 13.0, 9.0, 7.0, 1.0]);
    assert_eq!((bench.measured(), &found["best"]["point"]["eta"]), (5, &0.5.into()));
    let smallest = bench.sweep(&[&["--eta", "0..0.9:0.3", "--metric", "id_avg", "--smallest"], &MEASURE[..]].concat());
    assert_eq!((bench.measured(), &smallest["best"]["point"]["eta"]), (5, &0.9.into()));

    // Another input: everything again.
    let mut other = model(2);
    other.tensors[3].bytes[0] ^= 1;
    other.write(&bench.0.path("e2/model.safetensors"));
    bench.sweep(&[&["--eta", "0.3,0.6"], &MEASURE[..]].concat());
    assert_eq!(bench.measured(), 7);
}

#[test]
fn a_measure_that_fails_ends_the_sweep_and_keeps_what_is_done() {
    let bench = Bench::new();
    let fails_late = "[ $(wc -l < measured || echo 0) -lt 2 ] && sh measure.sh {model}";
    fs::write(bench.0.path("measured"), "").unwrap();
    let (code, _, errors) = bench.0.taskvec(&["sweep", "r.yml", "s", "--eta", "0.1,0.4,0.7", "--eval", fails_late]);
    assert_eq!(code, 2);
    assert!(errors.contains("--eval: the command failed") && errors.contains("eta-0.7"), "{errors}");
    let record: Value = serde_json::from_slice(&fs::read(bench.0.path("s/sweep.json")).unwrap()).unwrap();
    assert_eq!(record["points"].as_array().unwrap().len(), 2);
    let (code, _, errors) = bench.0.taskvec(&["sweep", "r.yml", "s", "--eta", "0.1", "--eval", "echo {model}"]);
    assert_eq!(code, 2);
    assert!(errors.contains("expected a number or a JSON object"), "{errors}");
}

#[test]
fn what_cannot_be_swept_is_refused_before_anything_is_made() {
    let bench = Bench::new();
    let refused = |args: &[&str]| {
        let (code, _, errors) = bench.0.taskvec(&[&["sweep", "r.yml"], args].concat());
        (code, errors)
    };
    assert_eq!(refused(&["s", "--eta", "0.5,1.5"]).0, 2);
    assert_eq!(refused(&["s", "--eta", "0.9..0.1:0.1"]).0, 2);
    assert_eq!(refused(&["s", "--eta", "0.5", "--eval", "measure.sh"]).0, 2);
    assert!(!bench.0.path("s").exists());
    let (code, errors) = refused(&["base", "--eta", "0.5"]);
    assert!(code == 73 && errors.contains("no sweep"), "{errors}");
    assert_eq!(fs::read_dir(bench.0.path("base")).unwrap().count(), 1);
}
