"""Compiles kernel files for the CUDA emulation, as docs/emulation.md tells other projects to."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"
SOURCES = CSRC / "emulation" / "tests"

COMMON_FLAGS = [
    "-std=c++20",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-fno-strict-aliasing",
    "-fPIC",
    "-DFK_EMULATE",
    f"-I{CSRC}",
]
# The flags of each kind of build; the runtime itself is never instrumented.
VARIANTS = {
    "plain": ["-O1"],
    "address": [
        "-O1",
        "-g",
        "-fno-omit-frame-pointer",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "--param=asan-instrumentation-with-call-threshold=0",
    ],
    "thread": ["-O1", "-g", "-fsanitize=thread"],
    "count": [
        "-O1",
        "-fno-tree-sra",
        "-fsanitize=kernel-address",
        "--param=asan-instrumentation-with-call-threshold=0",
        "--param=asan-stack=0",
        "--param=asan-globals=0",
    ],
}


def cuda_include() -> Path | None:
    """Folder of the CUDA headers: CUDA_HOME, the usual place, or beside the nvcc on PATH."""
    roots = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    nvcc = shutil.which("nvcc")
    if nvcc:
        roots.append(str(Path(nvcc).resolve().parents[1]))
    for root in filter(None, roots):
        if (Path(root) / "include" / "cuda_fp16.h").is_file():
            return Path(root) / "include"
    return None


def missing() -> str | None:
    """Why the emulation cannot be compiled here, or None."""
    if shutil.which("g++") is None:
        return "the emulation tests need g++"
    if cuda_include() is None:
        return "the emulation tests need the CUDA headers (set CUDA_HOME); no GPU or driver"
    return None


@functools.cache
def sanitizer_works(variant: str) -> bool:
    """Whether programs of this variant run here.

    The sanitizer's library may be absent, and ThreadSanitizer refuses some address layouts.
    """
    program = "int main() { return 0; }"
    executable = f"/tmp/facekernels_{variant}_{os.getpid()}"
    command = ["g++", *VARIANTS[variant], "-x", "c++", "-", "-o", executable]
    try:
        built = subprocess.run(command, input=program, text=True, capture_output=True, check=False)
        if built.returncode != 0:
            return False
        return subprocess.run([executable], capture_output=True, check=False).returncode == 0
    finally:
        Path(executable).unlink(missing_ok=True)


def _compile(arguments: list[str]) -> None:
    command = ["g++", *COMMON_FLAGS, "-isystem", str(cuda_include()), *arguments]
    result = subprocess.run(command, text=True, capture_output=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")


def compile_runtime(folder: Path) -> list[str]:
    """Object files of the emulation's runtime."""
    objects = []
    for source in sorted((CSRC / "emulation").glob("*.cpp")):
        target = folder / f"{source.stem}.o"
        _compile(["-O2", "-g", "-c", str(source), "-o", str(target)])
        objects.append(str(target))
    return objects


def link(source: Path, target: Path, runtime: list[str], variant: str, *flags: str) -> Path:
    """Compiles one kernel file and links it with the runtime into `target`."""
    instrumentation = [*VARIANTS[variant], *flags]
    kernel = ["-x", "c++", str(source), "-x", "none"]
    _compile([*instrumentation, *kernel, *runtime, "-o", str(target), "-lpthread"])
    return target
