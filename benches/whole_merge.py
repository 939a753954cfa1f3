#!/usr/bin/env python3
"""The tables of docs/performance.md: interleaved rounds of taskvec, the floor and the peers; medians, ratios to the floor.

    whole_merge.py BED [--rounds 5] [--no-peers] [--cold] [--add] [--rows REGEX] [--families NAME,NAME] [--taskvec PATH]

BED has floor.py and peers.py in BED/bench, the peers in BED/venv, and any of these families (make_checkpoints.py):
BED/m (1.1 B, bf16, K = 3), BED/vitb32 (f32, K = 8), BED/vith14 (f32, K = 4). Results also go to BED/whole_merge.jsonl; --add goes on
with those of the run before, so that rounds can be made one at a time."""
import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys

FLOOR = {False: "warm-twopass-2t-fsync1", True: "cold-twopass-2t-fsync1"}
PLAIN = "--no-delta --no-input-hashes"
# Family, K, share that LwPTV keeps there, peers.
FAMILIES = [
    ("m", 3, 0.497, ["mergekit/task_arithmetic/lazy,async,j2$", "paper/ta/native"]),
    ("vitb32", 8, 0.3685, ["mergekit/task_arithmetic/j2$", "sd-mecha", "paper/ta/f32"]),
    ("vith14", 4, 0.43, ["mergekit/task_arithmetic/j2$", "paper/ta/f32"]),
]
TA = "task_arithmetic", "{weight: 1.0, lambda: 0.3}"
# Name, method and parameters, lwptv, experts (None: all), flags.
ROWS = [
    ("task arithmetic", TA, None, None, PLAIN),
    ("LwPTV", TA, "{eta: 0.7}", None, PLAIN),
    ("LwPTV, input hashes", TA, "{eta: 0.7}", None, "--no-delta"),
    ("LwPTV, input hashes, delta", TA, "{eta: 0.7}", None, ""),
    ("PwPTV", TA, "{eta: 0.7, layer: element}", None, PLAIN),
    ("slerp", ("slerp", "{t: 0.4}"), None, 2, PLAIN),
    ("model_stock", ("model_stock", "{}"), None, None, PLAIN),
    ("ties", ("ties", "{weight: 1.0, density: 0.2}"), None, None, PLAIN),
    ("ties, one thread", ("ties", "{weight: 1.0, density: 0.2}"), None, None, PLAIN + " -j 1"),
]

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("bed", type=lambda b: pathlib.Path(b).resolve())
p.add_argument("--rounds", type=int, default=5)
p.add_argument("--no-peers", action="store_true")
p.add_argument("--cold", action="store_true")
p.add_argument("--add", action="store_true")
p.add_argument("--rows", default="", help="only rows of this kind")
p.add_argument("--families", default=",".join(name for name, *_ in FAMILIES))
p.add_argument("--taskvec", default=str(pathlib.Path(__file__).resolve().parent.parent / "target/release/taskvec"))
a = p.parse_args()
results, floors = a.bed / "whole_merge.jsonl", a.bed / "whole_merge_floor.jsonl"
for file in () if a.add else (results, floors):
    file.unlink(missing_ok=True)


def recipe(family, name, method, lwptv, experts):
    base = family / ("e0" if method[0] == "slerp" else "base")
    models = "".join(f"- model: {family}/e{k}\n" for k in range(experts))
    text = f"merge_method: {method[0]}\nbase_model: {base}\nmodels:\n{models}parameters: {method[1]}\n"
    if lwptv:
        text += f"lwptv: {lwptv}\n"
    path = a.bed / "recipes" / family.name / (name.replace(" ", "_").replace(",", "") + ".yml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def run(*command):
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)


def one_round(name, k, kept, peers):
    family, bench = a.bed / name, a.bed / "bench"
    cold = ["--cold"] if a.cold else []
    if not a.cold:
        for file in sorted(family.glob("*/*.safetensors")):
            run("cat", file)
    run(sys.executable, bench / "floor.py", "--data", family, "--k", k, "--build", a.bed / "build", "--scratch",
        a.bed / "scratch", "--kept", kept, "--only", FLOOR[a.cold].replace("cold-", ""), "-n", 1, "--results", floors, *cold)
    common = ["--venv", a.bed / "venv", "--data", family, "--k", k, "--out", a.bed / "out", "--results", results, "-n", 1, *cold]
    for row, method, lwptv, experts, flags in (r for r in ROWS if re.fullmatch(a.rows or ".*", r[0])):
        yml = recipe(family, row, method, lwptv, experts or k)
        command = f"{a.taskvec} merge {yml} {{out}} --progress none --quiet {flags}"
        run(sys.executable, bench / "peers.py", *common, "--only", "^taskvec", "--extra", f"taskvec: {row}={command}")
    for peer in [] if a.no_peers else peers:
        run(sys.executable, bench / "peers.py", *common, "--only", peer)


def table(name, k):
    lines = [json.loads(line) for line in floors.read_text().splitlines()]
    floor = [s for line in lines if pathlib.Path(line["data"]).name == name for s in line["all"]]
    floor_median = statistics.median(floor)
    print(f"\n{name}, K = {k}, {'cold' if a.cold else 'warm'}, medians of {len(floor)}\n")
    print("| | wall s [min..max] | processor s | peak MB | to the floor |\n|---|---:|---:|---:|---:|")
    print(f"| floor: two passes, fsync | {floor_median:.2f} [{min(floor):.2f}..{max(floor):.2f}] | | | 1 |")
    found = {}
    for line in map(json.loads, results.read_text().splitlines()):
        if line["family"] == name:
            found.setdefault(line["label"], []).extend(r for r in line["rows"] if r["rc"] == 0)
    for label, rows in found.items():
        wall = [r["wall"] for r in rows]
        cpu, peak = (statistics.median(r[key] for r in rows) for key in ("cpu", "rss_mb"))
        median = statistics.median(wall)
        print(f"| {label} | {median:.2f} [{min(wall):.2f}..{max(wall):.2f}] | {cpu:.1f} | {peak:.0f} | {median / floor_median:.2f} |")


present = [family for family in FAMILIES if family[0] in a.families.split(",") and (a.bed / family[0] / "family.json").exists()]
for _ in range(a.rounds):
    for family in present:
        one_round(*family)
for name, k, *_ in present:
    table(name, k)
