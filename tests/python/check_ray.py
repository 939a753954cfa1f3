#!/usr/bin/env python3
"""A merge on a local Ray cluster, two workers of which are killed on the way: the same files as one process makes.
check_ray.py TASKVEC [RECIPE PARTITIONS]

Without a recipe: three models of the zoo in four parts, and what an error looks like."""
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = os.path.join(ROOT, "python", "taskvec_ray.py")
ZOO = os.path.join(ROOT, "fixtures", "zoo")
RECIPE = """merge_method: ties
base_model: {zoo}/base
lwptv: {{eta: 0.5}}
parameters: {{scope: model, density: 0.2, merge: disjoint_sum, lambda: 0.4}}
models:
{models}"""


def is_below(pid, ancestor):
    """Whether a process was started by another, or by one that it started."""
    while pid > 1 and pid != ancestor:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            pid = int(f.read().rsplit(")", 1)[1].split()[1])
    return pid == ancestor


def workers(driver):
    """Processes of the driver's Ray that run a part."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                command = f.read()
            if command.startswith((b"ray::survey", b"ray::merge")) and is_below(pid, driver.pid):
                found.append(pid)
        except OSError:
            continue
    return found


def kill_two(driver, deadline=120):
    """Kills two different workers while they work."""
    killed, end = [], time.monotonic() + deadline
    while len(killed) < 2 and driver.poll() is None and time.monotonic() < end:
        for pid in [pid for pid in workers(driver) if pid not in killed][:1]:
            try:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            except ProcessLookupError:
                pass
        time.sleep(0.05)
    return killed


def files(folder):
    """Hashes of all files of an output, and its report but for what a run costs."""
    found = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as f:
            found[name] = hashlib.file_digest(f, "sha256").hexdigest()
    with open(os.path.join(folder, "taskvec.json"), encoding="utf-8") as f:
        report = json.load(f)
    del report["run"], found["taskvec.json"]
    return found, report


def slow(taskvec, folder):
    """The program, with a pause before each part: time to be killed in."""
    path = os.path.join(folder, "slow")
    with open(path, "w") as f:
        f.write(f'#!/bin/sh\n[ "$1" = part ] && sleep 0.2\nexec {taskvec} "$@"\n')
    os.chmod(path, 0o755)
    return path


def run_and_kill(taskvec, recipe, partitions, folder):
    """Merges in one process and on Ray, where two workers are killed; fails unless both outputs are the same."""
    out, run = os.path.join(folder, "out"), os.path.join(folder, "run")
    start = time.monotonic()
    subprocess.run([taskvec, "merge", "--quiet", "--no-delta", recipe, out], check=True)
    alone, start = time.monotonic() - start, time.monotonic()
    command = [sys.executable, SCRIPT, recipe, run, "--partitions", partitions, "--local-cpus", "2"]
    with subprocess.Popen([*command, "--taskvec", slow(taskvec, folder)]) as driver:
        killed = kill_two(driver)
    assert driver.returncode == 0, driver.returncode
    assert len(killed) == 2, f"killed {killed}"
    hashes, _ = same = files(out)
    assert same == files(os.path.join(run, "model"))
    for name in sorted(n for n in hashes if n.endswith(".safetensors")):
        print(f"{name} {hashes[name]}")
    seconds = time.monotonic() - start
    print(f"ray: {partitions} parts, workers {killed} killed, the same files as one process "
          f"({alone:.0f} s alone, {seconds:.0f} s on Ray)")
    return command


def main():
    taskvec = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) == 4:
            run_and_kill(taskvec, os.path.abspath(sys.argv[2]), sys.argv[3], folder)
            return
        models = sorted(os.listdir(os.path.join(ZOO, "experts")))[:3]
        recipe = os.path.join(folder, "recipe.yml")
        with open(recipe, "w") as f:
            lines = "".join(f"- model: {ZOO}/experts/{m}\n" for m in models)
            f.write(RECIPE.format(zoo=ZOO, models=lines))
        command = run_and_kill(taskvec, recipe, "4", folder)

        # What is wrong for good is told at once, in the program's own words.
        with open(recipe, "a") as f:
            f.write("- model: ./nowhere\n")
        failed = subprocess.run([*command[:3], os.path.join(folder, "other"), *command[4:], "--taskvec", taskvec],
                                capture_output=True, text=True, check=False)
        assert failed.returncode == 66 and "nowhere" in failed.stderr, failed
        print("ray: an error's text and exit code arrive")


if __name__ == "__main__":
    main()
