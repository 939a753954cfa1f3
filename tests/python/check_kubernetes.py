#!/usr/bin/env python3
"""What `taskvec submit kubernetes` prints, against the schemas of Kubernetes itself, unknown fields refused.
check_kubernetes.py TASKVEC SCHEMAS

SCHEMAS is the wheel of `kubernetes-validate` from PyPI, which carries them; it is read as it is: unpacked it has 17,000 files."""
import json
import os
import subprocess
import sys
import tempfile
import zipfile

import jsonschema
import referencing
import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ZOO = os.path.join(ROOT, "fixtures", "zoo")
# The first that has `backoffLimitPerIndex`, the first where it is stable, and a later one.
VERSIONS = ("1.29.0", "1.33.0", "1.36.0")


def manifest(taskvec):
    """The jobs of a merge with surveys."""
    with tempfile.TemporaryDirectory() as folder:
        models = sorted(os.listdir(os.path.join(ZOO, "experts")))[:2]
        recipe, run = os.path.join(folder, "recipe.yml"), os.path.join(folder, "run")
        with open(recipe, "w", encoding="utf-8") as f:
            f.write(f"merge_method: task_arithmetic\nbase_model: {ZOO}/base\nlwptv: {{eta: 0.5}}\nparameters: {{weight: 0.3}}\nmodels:\n")
            f.writelines(f"- model: {ZOO}/experts/{m}\n" for m in models)
        subprocess.run([taskvec, "plan", recipe, "--out", run, "--partitions", "3"], check=True, stdout=subprocess.PIPE)
        submit = [taskvec, "submit", "kubernetes", "--plan", run, "--image", "registry.example/taskvec:0.1"]
        done = subprocess.run([*submit, "--claim", "models", "--mount", "/data"], check=True, stdout=subprocess.PIPE)
        return list(yaml.safe_load_all(done.stdout))


def validator(archive, version):
    """Of a Job, in a version of Kubernetes."""
    def load(name):
        name = os.path.basename(name)
        text = archive.read(f"kubernetes_validate/kubernetes-json-schema/v{version}-local-strict/{name}")
        return referencing.Resource.from_contents(json.loads(text), default_specification=referencing.jsonschema.DRAFT7)

    registry = referencing.Registry(retrieve=load)
    return jsonschema.Draft7Validator(load("job-batch-v1.json").contents, registry=registry)


def main():
    taskvec, wheel = os.path.abspath(sys.argv[1]), sys.argv[2]
    jobs = manifest(taskvec)
    assert len(jobs) == 4 and all(j["kind"] == "Job" for j in jobs), [j["kind"] for j in jobs]
    with zipfile.ZipFile(wheel) as archive:
        for version in VERSIONS:
            check = validator(archive, version)
            for job in jobs:
                check.validate(job)
            # A check that lets everything pass would not show.
            for planted in ({"podFailurePolicies": {}}, {"completions": "3"}, {"backoffLimitPerIndex": 1.5}):
                bad = {**jobs[0], "spec": {**jobs[0]["spec"], **planted}}
                assert not check.is_valid(bad), f"{version}: {planted} passes"
            deep = json.loads(json.dumps(jobs[0]))
            deep["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["value"] = [2]
            assert not check.is_valid(deep), f"{version}: an unknown field deep inside passes"
    print(f"kubernetes: {len(jobs)} jobs fit the schemas of {', '.join(VERSIONS)}")


if __name__ == "__main__":
    main()
