#!/usr/bin/env python3
"""Kills a merge again and again and goes on with it: are the bytes the same, and how much work is done twice?

    benches/kills.py TASKVEC RECIPE OUT --kills 10000 [--within 0.3] [--seed 1] [-- more flags of merge]
    benches/kills.py TASKVEC RECIPE OUT --at 0.1 0.5 0.9 [--rounds 3] [-- more flags of merge]

--kills: runs one after another with --resume, each killed (SIGKILL) at a random moment of its first --within seconds (an
undisturbed run's time, if not given), until one ends before that. After each kill OUT must be absent, or whole; at most one
folder of parts lies beside it; no run finds it locked. When a run has ended, every file of OUT is compared with the
undisturbed run's. At the end the inputs' inodes, lengths and times are what they were.

--at: kills a run when it has done these shares of an undisturbed run's work, lets the next one end, and compares too. Work is
bytes read and written. What a killed run had left to do is not known exactly: it is the undisturbed run's bytes less those that the second run had no need to read or
write. What is told is what the kernel counted for both processes (/proc/PID/io)."""

import argparse, concurrent.futures, hashlib, json, os, random, shutil, signal, subprocess, sys, time

# Of runs that are to be killed, one in so many is left to end.
SPARED = 100

def arguments():
    own, more = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, more = own[:at], own[at + 1:]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("taskvec"); parser.add_argument("recipe"); parser.add_argument("out")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--kills", type=int)
    what.add_argument("--at", type=float, nargs="+")
    parser.add_argument("--within", type=float)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(own), more

def digest(path):
    """Of a report, everything but `run` and the seal over it."""
    if path.endswith("taskvec.json"):
        report = json.load(open(path))
        report.pop("run")
        return hashlib.sha256(json.dumps(report).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

def content(out):
    names = sorted(os.listdir(out))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(lambda name: digest(os.path.join(out, name)), names)))

def inputs(out):
    """What tells the inputs' files from changed ones."""
    models = json.load(open(os.path.join(out, "taskvec.json")))["inputs"]
    paths = {os.path.join(model["path"], file["name"]) for model in models for file in model["files"]}
    return {path: (s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path in paths for s in [os.stat(path)]}

def traffic(pid):
    """Bytes that a process asked the kernel to read and write; mapped pages are not among them."""
    try:
        lines = dict(line.split(": ") for line in open(f"/proc/{pid}/io").read().splitlines())
        return int(lines["rchar"]) + int(lines["wchar"])
    except (OSError, ValueError):
        return 0

def run(command, kill_at=float("inf")):
    """Runs a merge; kills it when it has read and written so many bytes. Returns its exit code and how many it was."""
    child, seen = subprocess.Popen(command), 0
    while child.poll() is None:
        seen = max(seen, traffic(child.pid))
        if seen >= kill_at:
            child.send_signal(signal.SIGSTOP)
            seen = max(seen, traffic(child.pid))
            child.kill()
            child.wait()
            break
        time.sleep(0.002)
    return child.returncode, seen

def beside(out):
    """Parts and other things that runs have left beside OUT."""
    folder, name = os.path.split(os.path.abspath(out))
    return [other for other in os.listdir(folder) if name in other and other not in (name, f".{name}.lock")]

def check(out, golden):
    assert content(out) == golden, "other bytes"
    assert not beside(out), beside(out)

def count_kills(args, command, seconds, golden):
    draw, within = random.Random(args.seed), args.within or seconds
    kills = rounds = after = 0
    start = told = time.monotonic()
    while kills < args.kills:
        shutil.rmtree(args.out)
        rounds, code = rounds + 1, -9
        while code != 0:
            spared = draw.randrange(SPARED) == 0
            child = subprocess.Popen(command)
            time.sleep(0 if spared else draw.random() * within)
            if not spared:
                child.kill()
            code = child.wait()
            assert code in (0, -9), code
            kills += code == -9
            if code == -9 and os.path.exists(args.out):
                # Killed between its last name and its end.
                assert content(args.out) == golden, "other bytes"
                after += 1
            assert len(beside(args.out)) <= 1, beside(args.out)
        check(args.out, golden)
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"{kills} kills in {rounds} merges, {told - start:.0f} s", flush=True)
    print(f"{kills} kills in {rounds} merges, {after} of them when OUT was there already, {time.monotonic() - start:.0f} s: "
          "the same bytes every time", flush=True)

def measure(args, command, whole, golden):
    for share in args.at * args.rounds:
        shutil.rmtree(args.out)
        code, first = run(command, share * whole)
        if code == 0:
            print(f"{share:.2f}: the run had ended", flush=True)
            continue
        code, second = run(command)
        assert code == 0, code
        check(args.out, golden)
        left, twice = whole - first, first + second - whole
        print(f"killed at {share:.2f}: {first / 1e9:.3f} GB done, {left / 1e9:.3f} GB left, then {second / 1e9:.3f} GB: "
              f"{twice / 1e9:.3f} GB twice, {100 * twice / left:.1f} % of what was left", flush=True)

def main():
    args, more = arguments()
    command = [args.taskvec, "merge", args.recipe, args.out, "--resume", "--quiet", "--io", "pread", *more]
    shutil.rmtree(args.out, ignore_errors=True)
    start = time.monotonic()
    code, whole = run(command)
    seconds = time.monotonic() - start
    assert code == 0, code
    golden, before = content(args.out), inputs(args.out)
    print(f"undisturbed: {seconds:.1f} s, {whole / 1e9:.3f} GB read and written", flush=True)
    if args.kills:
        count_kills(args, command, seconds, golden)
    else:
        measure(args, command, whole, golden)
    assert inputs(args.out) == before, "an input was changed"

main()
