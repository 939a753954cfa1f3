"""Random recipes, with slices, gradients, filters and parameters on every level, in mergekit (as a black box) and taskvec.

    PYTHONHASHSEED=0 VENV/bin/python benches/random_recipes.py TASKVEC COUNT [SEED]

Works on the models of fixtures/slices, in float32. Prints every recipe that only one of the two refuses, or whose outputs
are more than 2e-6 apart (relative to the largest magnitude of the tensor), or differ in the number of layers.
"""

import json
import logging
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
sys.path.insert(0, str(FIXTURES))
from make_slices import mergekit  # noqa: E402

FILTERS = ["self_attn", "mlp", "layers.1", "layers.2", "o_proj", "norm", "lm_head", "embed", "layers", "*"]
PER_MODEL = {"linear": "weight", "task_arithmetic": "weight", "nuslerp": "weight", "passthrough": "scale"}
GLOBAL = {"linear": "normalize", "task_arithmetic": "lambda", "slerp": "t"}
METHODS = ["linear", "linear", "task_arithmetic", "task_arithmetic", "slerp", "passthrough", "model_stock", "nuslerp"]


class Recipe:
    def __init__(self, draw):
        self.draw = draw
        self.method = draw.choice(METHODS)
        self.sliced = draw.random() < 0.8
        self.on_base = self.method in ("task_arithmetic", "model_stock")
        one_or_two = {"slerp": 2, "nuslerp": 2, "passthrough": 1, "model_stock": 3}
        self.count = one_or_two.get(self.method) or draw.randint(1, 3)

    def number(self, low, high):
        return round(self.draw.uniform(low, high), 2)

    def plain(self, low, high):
        if self.draw.random() < 0.5:
            return self.number(low, high)
        return [self.number(low, high) for _ in range(self.draw.randint(1, 5))]

    def setting(self, low, high, total):
        if self.draw.random() < 0.45:
            return self.plain(low, high)
        some = range(self.draw.randint(1, 3))
        filters = [{"filter": self.draw.choice(FILTERS), "value": self.plain(low, high)} for _ in some]
        last = [{"value": self.plain(low, high)}] if total or self.draw.random() < 0.5 else []
        return filters + last

    def parameters(self, level):
        """On the top level everything has a value."""
        total, found = level == "top", {}
        own, shared = PER_MODEL.get(self.method), GLOBAL.get(self.method)
        if own and (total or self.draw.random() < (0.5 if level == "source" else 0.3)):
            found[own] = self.setting(0.1, 1.5, total)
        if shared and level != "source" and (total or self.draw.random() < 0.3):
            flag = shared == "normalize"
            found[shared] = self.draw.choice([True, False]) if flag else self.setting(0, 1, total)
        return {"parameters": found} if found else {}

    def sources(self, length):
        names = ["./a", self.draw.choice(["./b", "./c"])] if self.method == "slerp" else self.draw.sample(["./a", "./b", "./c"], self.count)
        if self.on_base and (self.sliced or self.draw.random() < 0.5):
            names = ["./base", *names]
        sources = []
        for name in names:
            first = self.draw.randint(0, 4 - length)
            own = {"layer_range": [first, first + length]} if self.sliced else {}
            sources.append({"model": name, **own, **self.parameters("source")})
        return sources

    def document(self):
        document = {"merge_method": self.method, "dtype": "float32"}
        base = "./base" if self.on_base else "./a" if self.method == "slerp" else None
        document.update({"base_model": base} if base else {})
        if self.sliced:
            some = range(self.draw.randint(1, 4))
            document["slices"] = [{"sources": self.sources(self.draw.randint(1, 4)), **self.parameters("slice")} for _ in some]
        else:
            document["models"] = self.sources(1)
        return {**document, **self.parameters("top")}


def outputs(binary, text, work):
    """For each tool its tensors and number of layers, or what it said."""
    recipe = work / "recipe.yml"
    recipe.write_text(text)
    command = [binary, "merge", recipe, work / "taskvec", "--quiet", "--no-delta", "--no-input-hashes"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    ours = read(work / "taskvec") if done.returncode == 0 else done.stderr.strip()
    try:
        mergekit(text, work / "mergekit")
        return read(work / "mergekit"), ours
    except Exception as problem:  # noqa: BLE001 - whatever it raises is told
        return f"{type(problem).__name__}: {problem}", ours


def read(folder):
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors.update(load_file(file))
    return tensors, json.loads((folder / "config.json").read_text())["num_hidden_layers"]


def compare(theirs, ours):
    """What is wrong, or None; and how far they are apart."""
    if isinstance(theirs, str) or isinstance(ours, str):
        both = isinstance(theirs, str) and isinstance(ours, str)
        return None if both else f"mergekit: {str(theirs)[:200]}; taskvec: {str(ours)[:200]}", 0.0
    (a, a_layers), (b, b_layers) = theirs, ours
    if a.keys() != b.keys() or a_layers != b_layers:
        return f"{a_layers} and {b_layers} layers, other tensors {a.keys() ^ b.keys()}", 0.0
    scale = {n: max(float(np.abs(a[n]).max()), 1e-30) for n in a}
    far = max(float(np.abs(a[n] - b[n]).max()) / scale[n] for n in a)
    return f"{far:.1e} apart" if far > 2e-6 else None, far


def main():
    logging.disable(logging.WARNING)
    binary, count = sys.argv[1], int(sys.argv[2])
    draw = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    worst, wrong = 0.0, 0
    for _ in range(count):
        text = json.dumps(Recipe(draw).document())
        with tempfile.TemporaryDirectory() as work:
            problem, far = compare(*outputs(binary, text.replace("./", f"{FIXTURES}/slices/"), Path(work)))
        worst = max(worst, far)
        if problem:
            wrong += 1
            print(problem, text, flush=True)
    print(f"{count - wrong} of {count} agree; the worst of them by {worst:.1e}")


if __name__ == "__main__":
    main()
