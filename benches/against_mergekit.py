"""Runs the same recipes with mergekit (as a black box) and with taskvec, and prints how far the outputs are apart.

    python3 benches/against_mergekit.py --venv VENV --taskvec target/release/taskvec --data DIR [--only NAME ...]

VENV has mergekit 0.1.5, torch, numpy and safetensors. DIR holds base, e0, e1, e2 in float32, from `fixtures/make_distinct.py
DIR`, or from `make_checkpoints.py --family tiny --k 3 --dtype f32` of the bed, where values tie and models are nearly parallel.
Deterministic methods: the largest difference of any element, relative to the largest magnitude of its tensor. `--documents`
runs the recipes of fixtures/recipes instead, in float32, on the models that `fixtures/make_slices.py DIR` makes. Random ones:
kept share and norm of the task vector, and which of the tools makes the same tensors again. Set PYTHONHASHSEED=0.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BASE_LINE = "base_model: DATA/base\n"


def models(*own, names=("e0", "e1", "e2")):
    lines = [f"- {{model: DATA/{n}, parameters: {{{p}}}}}" for n, p in zip(names, own)]
    return "models:\n" + "\n".join(lines) + "\n"


def recipe(method, own, top="", base=True, names=("e0", "e1", "e2")):
    base_line = BASE_LINE if base is True else f"base_model: DATA/{base}\n" if base else ""
    parameters = f"parameters: {{{top}}}\n" if top else ""
    return f"merge_method: {method}\n{base_line}{models(*own, names=names)}{parameters}dtype: float32\n"


TIES = ["weight: 1, density: 0.4", "weight: 0.6, density: 0.45", "weight: -0.3, density: 0.35"]
EXACT = {
    "linear": recipe("linear", ["weight: 1", "weight: 0.3", "weight: 0.5"], base=False),
    "task_arithmetic": recipe("task_arithmetic", ["weight: 0.8", "weight: -0.4", "weight: 0.3"], "lambda: 0.9"),
    "task_arithmetic normalize": recipe("task_arithmetic", ["weight: 0.8", "weight: 0.4", "weight: 0.3"], "normalize: true"),
    "ties": recipe("ties", TIES),
    "ties lambda, no normalize": recipe("ties", TIES, "normalize: false, lambda: 0.7"),
    "ties rescale": recipe("ties", TIES, "rescale: true"),
    "ties gradients": recipe("ties", ["weight: 1.0, density: [1, 0.6, 0.2]", "weight: [0, 0.25, 0.6, 1], density: 0.45", "density: 0.35, weight: [{filter: mlp, value: 0.5}, {value: 0}]"]),
    "breadcrumbs": recipe("breadcrumbs", ["weight: 0.4, density: 0.9, gamma: 0.05", "weight: 0.4, density: 0.4, gamma: 0.01", "weight: 1, density: 0.7, gamma: 0.02"]),
    "breadcrumbs_ties": recipe("breadcrumbs_ties", ["weight: 1, density: 0.9, gamma: 0.05", "weight: 1, density: 0.4, gamma: 0.02", "weight: 0.5, density: 0.7, gamma: 0.01"]),
    "slerp": recipe("slerp", ["", ""], "t: [{filter: self_attn, value: [0, 0.4, 0.2, 0.8, 1]}, {value: 0.5}]", base="e0"),
    "slerp, base second": recipe("slerp", ["", ""], "t: 0.3", base="e1"),
    "nuslerp": recipe("nuslerp", ["weight: 0.3", "weight: 0.7"], base=False),
    "nuslerp on task vectors": recipe("nuslerp", ["weight: 0.3", "weight: 0.7"]),
    "nuslerp rows": recipe("nuslerp", ["weight: 0.3", "weight: 0.7"], "nuslerp_flatten: false"),
    "nuslerp columns": recipe("nuslerp", ["weight: 0.3", "weight: 0.7"], "nuslerp_flatten: false, nuslerp_row_wise: true"),
    "multislerp": recipe("multislerp", ["weight: 0.3", "weight: 0.7", "weight: 0.4"], base=False),
    "multislerp on task vectors": recipe("multislerp", ["weight: 0.3", "weight: 0.7", "weight: 0.4"]),
    "karcher": recipe("karcher", ["", "", ""], "max_iter: 10, tol: 1.0e-5", base=False),
    "nearswap": recipe("nearswap", ["", ""], "t: 0.001", base="e0"),
    "model_stock, 2": recipe("model_stock", ["", ""]),
    "model_stock, 3": recipe("model_stock", ["", "", ""]),
    "model_stock filter_wise": recipe("model_stock", ["", "", ""], "filter_wise: true"),
    "sce": recipe("sce", ["", "", ""]),
    "sce select_topk": recipe("sce", ["", "", ""], "select_topk: 0.1"),
    "arcee_fusion": recipe("arcee_fusion", ["", ""], base="e0"),
    "passthrough": recipe("passthrough", ["scale: [{filter: o_proj, value: 0.5}, {value: 1}]"], base=False, names=["e0"]),
    "ram": recipe("ram", ["", "", ""]),
    "ramplus_tl": recipe("ramplus_tl", ["", "", ""]),
}
RANDOM = {
    "dare_linear": recipe("dare_linear", ["weight: 1, density: 0.3"], names=["e0"]),
    "dare_linear, no rescale": recipe("dare_linear", ["weight: 1, density: 0.3"], "rescale: false", names=["e0"]),
    "dare_ties": recipe("dare_ties", ["weight: 0.6, density: 0.53", "weight: 0.4, density: 0.53"]),
    "della": recipe("della", ["weight: 0.6, density: 0.5", "weight: 0.4, density: 0.5"], "epsilon: 0.05"),
    "della_linear": recipe("della_linear", ["weight: 1, density: 0.4"], "epsilon: 0.1", names=["e0"]),
}


def tensors(folder):
    from safetensors.numpy import load_file

    found = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        found.update(load_file(file))
    return found


def documents():
    """The recipes of fixtures/recipes: those that draw at random, and the others."""
    found = {}
    for path in sorted((Path(__file__).parent.parent / "fixtures" / "recipes").glob("*.yml")):
        text = re.sub(r"dtype: \w+", "dtype: float32", path.read_text())
        found[path.stem] = text.replace("./", "DATA/")
    return {n: t for n, t in found.items() if not is_random(t)}, {n: t for n, t in found.items() if is_random(t)}


def is_random(text):
    return re.search(r"merge_method: (dare|della)", text) is not None


def run(args, text, work):
    config = work / "recipe.yml"
    config.write_text(text.replace("DATA", args.data))
    outs = {name: work / name for name in ("mergekit", "taskvec")}
    for out in outs.values():
        shutil.rmtree(out, ignore_errors=True)
    command = [args.taskvec, "merge", config, outs["taskvec"], "--quiet", "--no-delta", "--random-seed", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        return f"taskvec failed: {(done.stderr.strip() or '?').splitlines()[-1][:150]}"
    try:
        mergekit(config.read_text(), outs["mergekit"])
    except Exception as problem:  # noqa: BLE001 - whatever it raises is the row's content
        return f"mergekit failed: {type(problem).__name__}: {str(problem)[:150]}"
    return tensors(outs["mergekit"]), tensors(outs["taskvec"])


def mergekit(text, out):
    """In this process: starting mergekit for each recipe takes longer than merging."""
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    options = MergeOptions(copy_tokenizer=False, random_seed=1, quiet=True)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), str(out), options)


def distance(a, b):
    """The worst tensor: its largest difference by its largest magnitude; and the share of elements that differ by > 1e-6."""
    import numpy as np

    worst = (0.0, "", 0.0)
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    for name in a:
        scale = max(float(np.abs(a[name]).max()), 1e-30)
        apart = np.abs(a[name].astype(np.float64) - b[name]) / scale
        worst = max(worst, (float(apart.max()), name, float((apart > 1e-6).mean())))
    return worst


def repeats(args, text, work, made):
    """Which of the tools make the same tensors again from the same seed."""
    import numpy as np

    again = run(args, text, work)
    same = [all(np.array_equal(a[n], b[n]) for n in a) for a, b in zip(made, again)]
    return ", ".join(tool for tool, same in zip(("mergekit", "taskvec"), same) if same) or "none"


def profile(x, base):
    import numpy as np

    taus = [x[n].astype(np.float64) - base[n] for n in base]
    moved = sum(np.count_nonzero(t) for t in taus) / sum(t.size for t in taus)
    return moved, float(np.sqrt(sum((t * t).sum() for t in taus)))


def main():
    parser = argparse.ArgumentParser()
    for flag in ("--venv", "--taskvec", "--data"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--documents", action="store_true")
    args = parser.parse_args()
    args.data = str(Path(args.data).resolve())
    base = tensors(f"{args.data}/base")
    with tempfile.TemporaryDirectory() as work:
        exact, random = documents() if args.documents else (EXACT, RANDOM)
        for name, text in {**exact, **random}.items():
            if args.only and name not in args.only:
                continue
            made = run(args, text, Path(work))
            if isinstance(made, str):
                print(f"{name:<28} {made}", flush=True)
            elif name in exact:
                far, tensor, share = distance(*made)
                print(f"{name:<28} {far:.1e}  {'ok' if far <= 1e-6 else f'in {tensor}, {share:.2%} of its elements'}", flush=True)
            else:
                (a, n), (b, m) = profile(made[0], base), profile(made[1], base)
                again = repeats(args, text, Path(work), made)
                print(f"{name:<28} moved {a:.4f} and {b:.4f}, norm {n:.4f} and {m:.4f}, the same again: {again}", flush=True)


if __name__ == "__main__":
    sys.path[:0] = [str(p) for p in Path(sys.argv[sys.argv.index("--venv") + 1]).glob("lib/python3*/site-packages")] if "--venv" in sys.argv else []
    main()
