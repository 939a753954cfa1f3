#!/usr/bin/env python3
"""Kills a merge again and again and goes on with it: are the bytes the same, and how much work is done twice?

    benches/kills.py TASKVEC RECIPE OUT --kills 100 [--seed 1] [--at 0.1 0.5 0.9] [-- more flags of merge]

Each round starts a merge, kills it (SIGKILL) at a random moment of an undisturbed run's time (--at: at these shares of it),
goes on with --resume, and compares every file of OUT with the undisturbed run's. A third of the runs that go on are killed
as well. What a killed run had left to do is not known exactly: it is the undisturbed run's bytes less those that the
second run had no need to read or write. What is told is what the kernel counted for both processes (/proc/PID/io)."""

import argparse, hashlib, json, os, random, shutil, signal, subprocess, sys, time

def arguments():
    own, more = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, more = own[:at], own[at + 1:]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("taskvec"); parser.add_argument("recipe"); parser.add_argument("out")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at", type=float, nargs="*")
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
    return {name: digest(os.path.join(out, name)) for name in sorted(os.listdir(out))}

def traffic(pid):
    """Bytes that a process asked the kernel to read and write; mapped pages are not among them."""
    try:
        lines = dict(line.split(": ") for line in open(f"/proc/{pid}/io").read().splitlines())
        return int(lines["rchar"]) + int(lines["wchar"])
    except (OSError, ValueError):
        return 0

def run(command, kill_after=None):
    """Runs a merge; kills it after so many seconds. Returns its exit code and what it read and wrote by then."""
    child, seen, start = subprocess.Popen(command), 0, time.monotonic()
    while child.poll() is None:
        seen = max(seen, traffic(child.pid))
        if kill_after is not None and time.monotonic() - start >= kill_after:
            child.send_signal(signal.SIGSTOP)
            seen = max(seen, traffic(child.pid))
            child.kill()
            child.wait()
            break
        time.sleep(0.002)
    return child.returncode, seen

def main():
    args, more = arguments()
    draw = random.Random(args.seed)
    command = [args.taskvec, "merge", args.recipe, args.out, "--resume", "--quiet", "--io", "pread", *more]
    shutil.rmtree(args.out, ignore_errors=True)
    start = time.monotonic()
    code, whole = run(command)
    seconds = time.monotonic() - start
    assert code == 0, code
    golden = content(args.out)
    print(f"undisturbed: {seconds:.1f} s, {whole / 1e9:.3f} GB read and written", flush=True)
    kills = rounds = 0
    while kills < args.kills:
        shutil.rmtree(args.out)
        share = args.at[rounds % len(args.at)] if args.at else draw.random()
        rounds += 1
        code, first = run(command, share * seconds)
        kills += code == -9
        more_kills = 0
        while code == -9 and not args.at and draw.random() < 1 / 3:
            code, _ = run(command, draw.random() * seconds)
            kills += code == -9
            more_kills += 1
        code, second = run(command) if code == -9 else (code, 0)
        assert code == 0, code
        assert content(args.out) == golden, "other bytes"
        left = [name for name in os.listdir(os.path.dirname(args.out) or ".") if ".part" in name]
        assert not left, left
        if more_kills == 0 and second:
            extra = first + second - whole
            print(f"killed at {share:.2f}: {first / 1e9:.3f} GB, then {second / 1e9:.3f} GB; done twice {extra / 1e9:.3f} GB, "
                  f"{100 * extra / (whole - first):.1f} % of what was left", flush=True)
    print(f"{kills} kills in {rounds} rounds: the same bytes every time", flush=True)

main()
