#!/usr/bin/env python3
"""How the cost of a merge grows: with bytes, with K, with the number of tensors, with threads. scaling.py BED [--rounds 3]

BED has families of make_checkpoints.py (`tiny`, `s`, `m` with K = 8) and of many_tensors.py (`few`, `many`); those that are not
there are left out. Medians of interleaved rounds; every input is read once before. Output goes to BED/out."""
import argparse
import pathlib
import shutil
import statistics
import subprocess
import time

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("bed", type=lambda b: pathlib.Path(b).resolve())
p.add_argument("--rounds", type=int, default=3)
p.add_argument("--taskvec", default=str(pathlib.Path(__file__).resolve().parent.parent / "target/release/taskvec"))
a = p.parse_args()
out = a.bed / "out"

# Family, K, eta (None: plain task arithmetic), flags.
CASES = [("tiny", 3, 0.7, ""), ("s", 3, 0.7, "")]
CASES += [("m", k, None, "") for k in range(1, 9)] + [("m", k, 0.7, "") for k in (2, 4, 8)]
CASES += [("m", 3, 0.7, ""), ("m", 3, 0.7, "-j 1"), ("few", 3, 0.7, ""), ("many", 3, 0.7, "")]
CASES = [case for case in CASES if (a.bed / case[0] / "base").exists()]


def size(folder):
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def merge(family, k, eta, flags):
    folder = a.bed / family
    models = "".join(f"- model: {folder}/e{i}\n" for i in range(k))
    lwptv = f"lwptv: {{eta: {eta}}}\n" if eta is not None else ""
    recipe = a.bed / "scaling.yml"
    recipe.write_text(
        f"merge_method: task_arithmetic\nbase_model: {folder}/base\nmodels:\n{models}parameters: {{weight: 0.3}}\n{lwptv}"
    )
    shutil.rmtree(out, ignore_errors=True)
    for model in [folder / "base", *(folder / f"e{i}" for i in range(k))]:
        for file in model.glob("*.safetensors"):
            subprocess.run(["cat", file], check=True, stdout=subprocess.DEVNULL)
    start = time.monotonic()
    flags = ["--no-delta", "--no-input-hashes", "--quiet", "--progress", "none", *flags.split()]
    subprocess.run([a.taskvec, "merge", recipe, out, *flags], check=True)
    return time.monotonic() - start


seconds = {case: [] for case in CASES}
for _ in range(a.rounds):
    for case in CASES:
        seconds[case].append(merge(*case))
shutil.rmtree(out, ignore_errors=True)

print("| family | K | merge | GB of models and output | wall s | GB/s |\n|---|---:|---|---:|---:|---:|")
for (family, k, eta, flags), times in seconds.items():
    gigabytes = (k + 2) * size(a.bed / family / "base") / 1e9
    median = statistics.median(times)
    kind = " ".join(filter(None, [f"LwPTV, eta {eta}" if eta is not None else "plain", flags]))
    spread = f"{median:.2f} [{min(times):.2f}..{max(times):.2f}]"
    print(f"| {family} | {k} | {kind} | {gigabytes:.2f} | {spread} | {gigabytes / median:.2f} |")
