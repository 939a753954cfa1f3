#!/usr/bin/env python3
"""One merge on a Ray cluster, or on this machine's cores: the stages of taskvec as Ray tasks, with retries.

    python taskvec_ray.py RECIPE.yml RUN [--partitions 64] [--address auto]

Needs `pip install ray`, and taskvec and the files of models and RUN at the same paths on every node. Tasks are given
paths, never bytes. The output is RUN/model, byte for byte what `taskvec merge --no-delta RECIPE.yml` makes. Started again
after a failure, it goes on with what is missing.
"""
import argparse
import json
import os
import subprocess
import sys
import time

import ray

# I/O errors, and stages that find what others write not there yet: another try can help. Other exit codes are final.
AGAIN = (74, 75)


class Again(Exception):
    """The stage may be tried again."""


class Failed(Exception):
    """The stage failed for good."""

    def __init__(self, code, text):
        super().__init__(code, text)
        self.code, self.text = code, text


def call(command):
    """Runs taskvec. Returns what it prints; fails with what it says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout
    text = f"{' '.join(command)}\n{done.stderr.strip()}"
    if done.returncode < 0 or done.returncode in AGAIN:
        time.sleep(1)
        raise Again(f"exit code {done.returncode}: {text}")
    raise Failed(done.returncode, text)


def once(command):
    """Runs taskvec here, without another try."""
    try:
        return call(command)
    except Again as error:
        raise Failed(75, str(error)) from None


@ray.remote
def stage(command):
    """Runs taskvec on some node."""
    return call(command)


def run_all(name, commands, arguments):
    """Runs commands side by side, each again if its worker dies or it may be tried again, and tells how far they are."""
    options = {"num_cpus": arguments.cpus, "max_retries": arguments.attempts - 1, "retry_exceptions": [Again]}
    waiting = [stage.options(name=name, **options).remote(command) for command in commands]
    total, told = len(waiting), 0.0
    while waiting:
        ready, waiting = ray.wait(waiting)
        try:
            ray.get(ready)
        except Exception as error:
            for task in waiting:
                ray.cancel(task, force=True)
            cause = getattr(error, "cause", error)
            if isinstance(cause, Failed):
                raise cause from None
            raise Failed(75, f"{name}: given up after {arguments.attempts} attempts: {cause}") from None
        if not waiting or time.monotonic() - told > 1:
            told = time.monotonic()
            print(f"{name}: {total - len(waiting)} of {total}", file=sys.stderr, flush=True)


def merge(arguments):
    """Plans the merge and runs stage after stage, as `taskvec status` says."""
    taskvec, run = arguments.taskvec, os.path.abspath(arguments.run)
    plan = os.path.join(run, "plan.json")
    if not os.path.exists(plan):
        recipe, parts = os.path.abspath(arguments.recipe), str(arguments.partitions)
        shards = ["--out-shard-size", arguments.out_shard_size] if arguments.out_shard_size else []
        once([taskvec, "plan", recipe, "--out", run, "--partitions", parts, *shards])
    each = ["--plan", plan, "--io", arguments.io, "--progress", "none"]
    each += ["--num-threads", str(max(1, int(arguments.cpus)))]
    each += ["--memory", arguments.memory] if arguments.memory else []
    before = None
    while True:
        status = json.loads(once([taskvec, "status", "--plan", plan, "--json"]))
        following, number = status["next"], str(status["round"])
        if following == "nothing":
            return os.path.join(run, "model")
        if status == before:
            raise Failed(75, f"{following} changed nothing: do all nodes see {run}?")
        before = status
        if following in ("survey", "merge"):
            command = [taskvec, "part", following, *each]
            command += ["--round", number] if following == "survey" else []
            name = f"survey, round {number}" if following == "survey" else "merge"
            run_all(name, [[*command, "--part", str(part)] for part in status["missing"]], arguments)
        else:
            run_all(following, [[taskvec, following, *each]], arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("recipe", help="the recipe; not looked at where RUN holds a plan")
    parser.add_argument("run", help="folder on a file system that all nodes share")
    parser.add_argument("--partitions", type=int, default=16, help="parts [16]")
    parser.add_argument("--cpus", type=float, default=1, help="cores of a part [1]")
    parser.add_argument("--memory", help="peak memory of a part, such as 2GiB")
    parser.add_argument("--io", default="mmap", choices=["mmap", "pread"], help="pread for network file systems [mmap]")
    parser.add_argument("--out-shard-size", help="tensor bytes of an output file, at most")
    parser.add_argument("--attempts", type=int, default=5, help="attempts at a part [5]")
    parser.add_argument("--taskvec", default="taskvec", help="the program [taskvec]")
    parser.add_argument("--address", help="a Ray cluster [this machine's cores]")
    parser.add_argument("--local-cpus", type=int, help="cores of this machine to use, without --address")
    arguments = parser.parse_args()
    local = {} if arguments.address else {"num_cpus": arguments.local_cpus, "include_dashboard": False}
    ray.init(address=arguments.address or "local", log_to_driver=False, logging_level="ERROR", **local)
    try:
        print(merge(arguments))
    except Failed as error:
        print(f"error: {error.text}", file=sys.stderr)
        return error.code
    finally:
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
