#!/usr/bin/env bash
# Builds the emulated CUDA kernels so that every launch counts its memory accesses, in build/count;
# `python -m tools.kernel_record count` runs the benchmark cases on it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
build=build/count
export PATH="$PWD/.venv/bin:$PATH"

mkdir -p build
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSKBUILD_PROJECT_VERSION=0 \
  -DPython_EXECUTABLE="$python" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
  -DFACEKERNELS_CUDA=OFF -DFACEKERNELS_SANITIZE=count > "$build.log" || { cat "$build.log"; exit 1; }
cmake --build "$build" --target _emulated
