#!/usr/bin/env bash
# Everything that needs a GPU, in one command: build for it, CUDA tests, compute-sanitizer,
# benchmarks, profiles. A failing step does not stop the next one; the exit code is the number of
# failed steps. Each step writes $OUT/<step>.log (default OUT: ./gpu_check).
#
#   OUT=dir PYTHON=python3 FACEKERNELS_CUDA_ARCHS=90 tools/gpu_check.sh
#
# PYTHON must have torch >= 2.10 for CUDA, numpy, pytest, hypothesis, pybind11, scikit-build-core,
# ninja; nvcc is found as in any build.
set -u
cd "$(dirname "$0")/.."
mkdir -p "${OUT:=gpu_check}"
OUT=$(cd "$OUT" && pwd)
PYTHON=${PYTHON:-python3}
local_arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)
export FACEKERNELS_CUDA=ON FACEKERNELS_CUDA_ARCHS=${FACEKERNELS_CUDA_ARCHS:-${local_arch:-90}}

failed=0
step() {  # step NAME COMMAND...
  local name=$1 started=$SECONDS result=ok
  shift
  "$@" >"$OUT/$name.log" 2>&1 || { result=FAILED; failed=$((failed + 1)); }
  printf '%-10s %-6s %4d s  %s\n' "$name" "$result" $((SECONDS - started)) "$OUT/$name.log"
}
find_tool() { command -v "$1" || ls "${CUDA_HOME:-/usr/local/cuda}/bin/$1" 2>/dev/null; }

step build "$PYTHON" -m pip install --no-build-isolation --no-deps --editable .
step info "$PYTHON" -m facekernels.collect_env
step device "$PYTHON" -c "import facekernels as fk; assert fk.has_cuda(), 'no usable GPU: see info.log'"
step tests "$PYTHON" -m pytest -m cuda -q

if sanitizer=$(find_tool compute-sanitizer); then
  for tool in memcheck racecheck synccheck; do
    # torch's caching allocator would hide accesses past a tensor's end.
    step "$tool" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" \
      --error-exitcode 1 --target-processes all "$PYTHON" tools/gpu_smoke.py
  done
else
  echo "compute-sanitizer was not found: skipped"
fi

step bench "$PYTHON" -m facekernels bench --device cuda --output "$OUT/bench.json"

if ncu=$(find_tool ncu); then
  # The whole smoke run at first; then every detail of the two slowest kernels of it.
  step profile "$ncu" --csv --metrics gpu__time_duration.sum "$PYTHON" tools/gpu_smoke.py --large
  slowest=$("$PYTHON" tools/gpu_smoke.py --slowest "$OUT/profile.log")
  for kernel in $slowest; do
    step "ncu-$kernel" "$ncu" --set full --launch-count 1 --kernel-name "$kernel" \
      "$PYTHON" tools/gpu_smoke.py --large
  done
else
  echo "ncu was not found: skipped"
fi

echo "$failed step(s) failed"
exit "$failed"
