#!/bin/sh
# Tunes SGLang's own Triton fused-MoE kernel on the GPU that is here, SGLang not installed, and shows that
# SGLang's lookup finds what came out.
#
#   python scripts/unpack_engine.py sglang-….whl .engines     # once, on a machine with the wheel
#   OUT=out PYTHONPATH=. sh scripts/tune_sglang_kernel.sh [TRIALS] [SECONDS]
#
# Leaves in $OUT: the database, the bundle, and what each command printed.
set -eu
trials=${1:-40}
seconds=${2:-330}
out=${OUT:-out}
mkdir -p "$out"
export AUTOTUNE_SGLANG_SRC="${AUTOTUNE_SGLANG_SRC:-.engines}"
export AUTOTUNE_DB="$out/sglang.db"
tool="${PYTHON:-python3} -m autotune"

$tool run --backend sglang --shape m4 --concurrency 1,40 --trials "$trials" --timeout "$seconds" 2>&1 |
  tee "$out/run.txt"
$tool export --backend sglang --out "$out/bundle" --preview 2>&1 | tee "$out/preview.txt"
$tool export --backend sglang --out "$out/bundle" --deploy sglang 2>&1 | tee "$out/export.txt"
$tool verify "$out/bundle" 2>&1 | tee "$out/verify.txt"
$tool status 2>&1 | tee "$out/status.txt"
