#!/usr/bin/env bash
# Builds the CPU kernels and the emulated CUDA kernels with a sanitizer and runs the op tests on them.
# usage: tools/sanitize.sh address|thread
set -euo pipefail
kind=${1:?usage: tools/sanitize.sh address|thread}
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
build=build/sanitize-$kind
export PATH="$PWD/.venv/bin:$PATH"

mkdir -p build
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSKBUILD_PROJECT_VERSION=0 \
  -DPython_EXECUTABLE="$python" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
  -DFACEKERNELS_CUDA=OFF -DFACEKERNELS_SANITIZE="$kind" > "$build.log" || { cat "$build.log"; exit 1; }
cmake --build "$build"

# A copy of the package with the instrumented modules.
package=$build/package
rm -rf "$package" && mkdir -p "$package"
cp -r facekernels "$package/"
rm -f "$package"/facekernels/*.so
cp "$build"/_C*.so "$build"/csrc/emulation/_emulated*.so "$package/facekernels/"

library() { ${CXX:-g++} -print-file-name="$1"; }
case $kind in
  address)
    export LD_PRELOAD="$(library libasan.so) $(library libstdc++.so)" ASAN_OPTIONS=detect_leaks=0
    tests='test_value or test_gradient or test_emulated' ;;
  thread)
    # One OpenMP thread: libgomp is not instrumented, its barriers would look like races. What is
    # searched for races is every CUDA thread of the emulated kernels.
    export LD_PRELOAD="$(library libtsan.so)" TSAN_OPTIONS=exitcode=66
    export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
    tests='test_emulated' ;;
esac
PYTHONMALLOC=malloc "$python" tools/sanitized_tests.py "$package" "($tests) and float32"
