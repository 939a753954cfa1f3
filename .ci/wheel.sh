#!/usr/bin/env bash
# Builds the wheel, installs it into a fresh environment, and merges with it.
#   .ci/wheel.sh [PROFILE]     PROFILE: release (default), or dev where only the packaging is to be tested
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:-release}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/build"
"$work/build/bin/pip" install --quiet --disable-pip-version-check 'maturin>=1.9,<2'
"$work/build/bin/maturin" build --locked --profile "$profile" --out "$work/dist"
ls -l "$work/dist"

python3 -m venv "$work/user"
"$work/user/bin/pip" install --quiet --disable-pip-version-check --no-index "$work"/dist/taskvec-*.whl
cd "$work"
taskvec=$work/user/bin/taskvec
expected="taskvec $(sed -n 's/^version = "\(.*\)"/\1/p' "$OLDPWD/Cargo.toml" | head -1)"
[ "$("$taskvec" --version)" = "$expected" ] || { echo "expected $expected, got $("$taskvec" --version)" >&2; exit 1; }
"$taskvec" methods > /dev/null
fixture=$OLDPWD/fixtures/compare
"$taskvec" merge --quiet --method linear --model "$fixture/base.safetensors=0.5" --model "$fixture/base.safetensors=0.5" out --allow-non-finite
"$taskvec" verify out --progress none
"$taskvec" explain out
"$work/user/bin/pip" uninstall --quiet --yes taskvec
[ ! -e "$taskvec" ] || { echo "pip left $taskvec behind" >&2; exit 1; }
echo "wheel: works"
