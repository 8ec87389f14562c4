#!/bin/sh
# Tunes SGLang's own Triton fused-MoE kernel on the GPU that is here, SGLang not installed, and shows that
# SGLang's lookup finds what came out.
#
#   python scripts/unpack_engine.py sglang-….whl .engines     # once, on a machine with the wheel
#   OUT=out PYTHONPATH=. sh scripts/tune_sglang_kernel.sh [TRIALS] [SECONDS] [DTYPE]
#
# DTYPE: int8_w8a8 (the default), int4_w4a16, fp8_w8a8, int8_w8a16 or bf16. $SHAPE and $CONCURRENCY are `autotune
# run`'s --shape and --concurrency. Leaves in $OUT: the database, the bundle, and what each command printed.
set -eu
trials=${1:-40}
seconds=${2:-330}
dtype=${3:-int8_w8a8}
case "$dtype" in
int8_w8a8) backend=sglang ;;
int4_w4a16) backend=sglang_w4a16 ;;
fp8_w8a8) backend=sglang_fp8 ;;
int8_w8a16) backend=sglang_w8a16 ;;
bf16) backend=sglang_bf16 ;;
*)
  echo "$dtype is no dtype of SGLang's kernel: give int8_w8a8, int4_w4a16, fp8_w8a8, int8_w8a16 or bf16" >&2
  exit 2
  ;;
esac
out=${OUT:-out}
mkdir -p "$out"
export AUTOTUNE_SGLANG_SRC="${AUTOTUNE_SGLANG_SRC:-.engines}"
export AUTOTUNE_DB="$out/$backend.db"
tool="${PYTHON:-python3} -m autotune"

$tool run --backend "$backend" --shape "${SHAPE:-m4}" --concurrency "${CONCURRENCY:-1,40}" \
  --trials "$trials" --timeout "$seconds" 2>&1 | tee "$out/run.txt"
$tool export --backend "$backend" --out "$out/bundle" --preview 2>&1 | tee "$out/preview.txt"
$tool export --backend "$backend" --out "$out/bundle" --deploy sglang 2>&1 | tee "$out/export.txt"
$tool verify "$out/bundle" 2>&1 | tee "$out/verify.txt"
$tool status 2>&1 | tee "$out/status.txt"
