"""Counted accesses of kernels whose accesses are known."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import emulation_toolchain as toolchain
import numpy as np
import pytest


@pytest.fixture(scope="session")
def patterns(emulation_runtime: list[str], emulation_folder: Path) -> ctypes.CDLL:
    target = emulation_folder / "libpatterns.so"
    source = toolchain.SOURCES / "access_patterns.cu"
    return ctypes.CDLL(str(toolchain.link(source, target, emulation_runtime, "count", "-shared")))


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(patterns: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls a launcher and returns what the log says of the launch."""
    log = tmp_path / "launches"
    monkeypatch.setenv("FACEKERNELS_EMU_LAUNCH_LOG", str(log))

    def call(name: str, *arguments: Any) -> dict[str, Any]:
        getattr(patterns, f"run_{name}")(*arguments)
        (line,) = log.read_text().splitlines()
        launch: dict[str, Any] = json.loads(line)
        assert launch["kernel"] == name
        return launch

    return call


def aligned(count: int) -> np.ndarray:
    """Floats that start at a sector, and fill whole ones."""
    memory = np.zeros(count + 32, np.float32)
    return memory[-memory.ctypes.data % 128 // 4 :][:count]


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def test_sixteen_bytes_a_thread(run: Run) -> None:
    x, y = aligned(512), aligned(512)
    launch = run("copy16", pointer(x), pointer(y))
    assert (launch["grid"], launch["block"]) == ([2, 1, 1], [64, 1, 1])
    expected = {
        "bytes": 2048,
        "instructions": 4,
        "sectors": 64,
        "block_sectors": 64,
        "unique_sectors": 64,
    }
    assert launch["load"] == expected
    assert launch["store"] == expected
    assert launch["thread_loads"] == {"most": 1, "sum": 2}
    assert launch["shared"]["bytes"] == launch["barriers"]["most"] == 0


@pytest.mark.parametrize(("stride", "sectors"), [(1, 4), (2, 8), (8, 32), (16, 32)])
def test_strided_lanes_touch_more_sectors(run: Run, stride: int, sectors: int) -> None:
    x, y = aligned(32 * stride), aligned(32)
    launch = run("strided", pointer(x), pointer(y), stride)
    assert launch["load"]["bytes"] == 128
    assert launch["load"]["instructions"] == 1
    assert launch["load"]["sectors"] == sectors
    assert launch["store"]["sectors"] == 4


def test_a_sector_counts_per_instruction_per_block_and_once(run: Run) -> None:
    x, y = aligned(32), aligned(5 * 32)
    load = run("reread", pointer(x), pointer(y), 5)["load"]
    assert load["instructions"] == 5 * 2
    assert (load["sectors"], load["block_sectors"], load["unique_sectors"]) == (40, 20, 4)


@pytest.mark.parametrize(("stride", "passes"), [(0, 1), (1, 1), (2, 2), (31, 1), (32, 32)])
def test_words_of_one_bank_take_turns(run: Run, stride: int, passes: int) -> None:
    y = aligned(32)
    launch = run("banks", pointer(y), stride)
    assert launch["static_shared"] == 4096
    assert launch["shared"]["instructions"] == 33
    assert launch["shared"]["passes"] == 32 + passes
    assert launch["barriers"] == {"most": 1, "sum": 1}
    assert y[-1] == 31 * stride
