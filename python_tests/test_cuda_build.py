"""Every .cu file for every release architecture, as nvcc and ptxas see it; no GPU needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tools.kernel_record import binary, record

ROOT = Path(__file__).parents[1]
KERNELS = sorted(p for p in (ROOT / "csrc").rglob("*.cu") if "emulation" not in p.parts)
ARCHS = re.search(r"FK_RELEASE_ARCHS ([\d ]+)", (ROOT / "cmake" / "cuda.cmake").read_text())[
    1
].split()  # type: ignore[index]
# The most a 256-thread block may use and still fit twice on the smallest register file.
MAX_REGISTERS = 128
# Files with a tile that fills the registers of a multiprocessor by one such block.
FULL = {"knn_cuda.cu"}
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc was not found")
@pytest.mark.parametrize("path", KERNELS, ids=lambda p: p.name)
def test_compiles_without_spills(path: Path, tmp_path: Path) -> None:
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHS]
    targets.append(f"-gencode=arch=compute_{ARCHS[-1]},code=compute_{ARCHS[-1]}")
    run = subprocess.run(
        [str(NVCC), "-std=c++20", "-O3", f"-I{ROOT / 'csrc'}", "--threads=2",
         "-Werror=all-warnings", "-Xptxas=-v,-warn-spills,-warn-lmem-usage,-Werror", *targets,
         "-c", str(path), "-o", str(tmp_path / "kernel.o")],
        capture_output=True, text=True,
    )  # fmt: skip
    report = run.stdout + run.stderr
    assert run.returncode == 0, report[-3000:]
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    entries = re.findall(r"Compiling entry function '(\w+)' for 'sm_(\d+)", report)
    assert {arch for _, arch in entries} == set(ARCHS)
    assert len(spills) == len(entries)
    assert set(spills) == {("0", "0")}
    registers = [int(r) for r in re.findall(r"Used (\d+) registers", report)]
    assert max(registers) <= MAX_REGISTERS * (1 + (path.name in FULL))
    # The same object against the record of all architectures; test_kernel_record.py looks at the
    # machine code of the one that is installed.
    if binary.cuobjdump() is not None:
        now = binary.read(tmp_path / "kernel.o", sass=False)
        assert {arch for kernel in now.values() for arch in kernel.registers} == {*map(int, ARCHS)}
        assert record.worse(record.load_kernels(), now, with_sass=False) == []
