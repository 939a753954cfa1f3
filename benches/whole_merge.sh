#!/usr/bin/env bash
# The table of docs/performance.md: interleaved rounds of taskvec, the floor, mergekit and the research script.
# whole_merge.sh BED [ROUNDS]: BED holds floor.py, peers.py and summary.py in BED/bench, the family in BED/m, the peers in
# BED/venv (docs/performance.md says how to make them). Results: BED/results.jsonl, BED/floor.jsonl and the printed table.
set -euo pipefail
bed=$(realpath "$1")
rounds=${2:-3}
here=$(cd "$(dirname "$0")/.." && pwd)
taskvec="$here/target/release/taskvec"
[ -x "$taskvec" ] || (cd "$here" && cargo build --release)

cat > "$bed/m.yml" <<YAML
merge_method: task_arithmetic
base_model: $bed/m/base
models:
- model: $bed/m/e0
- model: $bed/m/e1
- model: $bed/m/e2
parameters: {weight: 1.0, lambda: 0.3}
dtype: bfloat16
lwptv: {eta: 0.7}
YAML
rm -f "$bed/results.jsonl" "$bed/floor.jsonl"
peers() {
    python3 "$bed/bench/peers.py" --venv "$bed/venv" --data "$bed/m" --k 3 --out "$bed/out" \
        --results "$bed/results.jsonl" -n 1 "$@"
}
flags="--memory 256MiB --no-delta --progress none --quiet"

for _ in $(seq "$rounds"); do
    cat "$bed"/m/*/*.safetensors > /dev/null
    peers --only '^taskvec' --extra "taskvec=$taskvec merge $bed/m.yml {out} $flags --no-input-hashes" \
        --extra "taskvec with input hashes=$taskvec merge $bed/m.yml {out} $flags"
    python3 "$bed/bench/floor.py" --data "$bed/m" --k 3 --build "$bed/build" --scratch "$bed/scratch" --kept 0.497 \
        --only twopass-2t-fsync1 -n 1 --results "$bed/floor.jsonl"
    peers --only 'mergekit/task_arithmetic/lazy,async,j2$'
    peers --only 'paper/ta/native'
done
python3 "$bed/bench/summary.py" "$bed/results.jsonl" --floor "$bed/floor.jsonl" --floor-label warm-twopass-2t-fsync1
