#!/usr/bin/env bash
# Builds the CPU kernels and the emulated CUDA kernels with a sanitizer and runs the op tests on them.
# usage: tools/sanitize.sh address|thread
set -euo pipefail
kind=${1:?usage: tools/sanitize.sh address|thread}
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
build=build/sanitize-$kind
site=$PWD/$build/package

PATH="$PWD/.venv/bin:$PATH" cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DSKBUILD_PROJECT_VERSION=0 -DPython_EXECUTABLE="$python" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
  -DFACEKERNELS_CUDA=OFF -DFACEKERNELS_SANITIZE="$kind" > "$build.log" 2>&1 || { cat "$build.log"; exit 1; }
PATH="$PWD/.venv/bin:$PATH" cmake --build "$build"
mkdir -p "$site"
cp -r facekernels "$site/"
cp "$build"/_C*.so "$build"/csrc/emulation/_emulated*.so "$site/facekernels/"

library() { ${CXX:-g++} -print-file-name="$1"; }
case $kind in
  address)
    preload="$(library libasan.so) $(library libstdc++.so)"
    options=(ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc) ;;
  thread)
    # torch's and OpenMP's own threads are not instrumented: their reports are about memory
    # that no kernel of ours touches, so the kernels run on one thread and the emulator's workers.
    preload="$(library libtsan.so)"
    options=(TSAN_OPTIONS=exitcode=66 PYTHONMALLOC=malloc OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
             MKL_NUM_THREADS=1) ;;
esac
select="test_value or test_gradient"
[ "$kind" = thread ] && select="zzz"
env "${options[@]}" LD_PRELOAD="$preload" FACEKERNELS_SANITIZED="$site" \
  "$python" -c "import sys; sys.meta_path = [f for f in sys.meta_path if 'scikit' not in repr(f).lower()]
sys.path.insert(0, '$site'); import pytest
sys.exit(pytest.main(['-q', '-s', '-p', 'no:cacheprovider', 'python_tests/test_ops.py', '-k',
  '(test_value or test_gradient or test_emulated) and float32 and not large and not long']))"
