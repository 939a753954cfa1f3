#!/usr/bin/env python3
"""What others make of our output: the zoo's own evaluator measures the demo's merged models, and the safetensors package
loads a sharded merge.  check_outputs.py TASKVEC [--all]     (--all: every setting of expected.json)"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
from safetensors import safe_open

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "fixtures", "zoo"))
import evaluate as reference  # noqa: E402


def check_demo(taskvec, folder, every):
    out = os.path.join(folder, "demo")
    command = [taskvec, "demo", out, "--json", "--quiet"] + (["--all"] if every else [])
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    zoo = reference.Zoo(out)
    for row in rows:
        scores = row["scores"]
        if row["name"] == "individual":
            want = row["expected"]
        else:
            name = row["name"].replace(" ", "_")
            model = os.path.join(out, "base") if name == "pretrained" else os.path.join(out, "merged", name)
            want = zoo.evaluate(reference.load_model(model))
        for kind in ("id", "ood"):
            for task in want[kind]:
                assert scores[kind][task] == want[kind][task], (row["name"], task, scores[kind][task], want[kind][task])
        for key in ("id_avg", "ood_avg", "h_score"):
            assert scores[key] == want[key], (row["name"], key, scores[key], want[key])
        assert row["layers_kept"] == row["expected"].get("layers_kept"), row["name"]
    print(f"{len(rows)} settings: accuracies equal those of the zoo's own evaluator")


def check_sharded(taskvec, folder):
    """A sharded merge loads, in the base's order, with the metadata and the index that transformers reads."""
    zoo = os.path.join(ROOT, "fixtures", "zoo")
    out = os.path.join(folder, "sharded")
    base = os.path.join(zoo, "base")
    experts = [os.path.join(zoo, "experts", e) for e in ("pen_digits", "cut_shapes")]
    models = [a for e in experts for a in ("--model", f"{e}=0.5")]
    subprocess.run([taskvec, "merge", "--quiet", "--method", "task_arithmetic", "--base", base, *models,
                    "--out-shard-size", "100KB", out], check=True)
    with open(os.path.join(out, "model.safetensors.index.json")) as f:
        index = json.load(f)
    names = []
    for shard in sorted(set(index["weight_map"].values())):
        with safe_open(os.path.join(out, shard), "np") as f:
            assert f.metadata() == {"format": "pt"}
            for name in f.offset_keys():
                assert index["weight_map"][name] == shard
                names.append(name)
                want = expected(base, experts, name)
                got = f.get_tensor(name)
                assert got.dtype == want.dtype and np.array_equal(got, want), name
    with safe_open(os.path.join(base, "model.safetensors"), "np") as f:
        assert names == list(f.offset_keys())
    assert index["metadata"]["total_size"] == sum(os.path.getsize(os.path.join(out, s)) - header(os.path.join(out, s))
                                                 for s in set(index["weight_map"].values()))
    print(f"{len(names)} tensors in {len(set(index['weight_map'].values()))} shards load in Python, equal to numpy's")


def expected(base, experts, name):
    def load(folder):
        with safe_open(os.path.join(folder, "model.safetensors"), "np") as f:
            return f.get_tensor(name)
    theta, half = load(base), np.float32(0.5)
    taus = [load(e) - theta for e in experts]
    return theta + (half * taus[0] + half * taus[1])


def header(path):
    with open(path, "rb") as f:
        return 8 + int.from_bytes(f.read(8), "little")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        check_demo(sys.argv[1], folder, "--all" in sys.argv)
        check_sharded(sys.argv[1], folder)
