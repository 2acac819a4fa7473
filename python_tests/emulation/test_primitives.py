"""Warp primitives, atomics, asynchronous copies and shared memory give what the PTX ISA says."""

from __future__ import annotations

import ctypes
from functools import reduce
from operator import and_, or_, xor
from pathlib import Path

import emulation_toolchain as toolchain
import numpy as np
import pytest
from numpy.typing import NDArray

SCHEDULES = ["forward", "reverse", "random:5"]
FULL_MASK = 0xFFFFFFFF


@pytest.fixture(scope="session")
def primitives(emulation_runtime: list[str], emulation_folder: Path) -> ctypes.CDLL:
    target = emulation_folder / "libprimitives.so"
    source = toolchain.SOURCES / "primitives.cu"
    return ctypes.CDLL(str(toolchain.link(source, target, emulation_runtime, "plain", "-shared")))


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    # Read at every launch, so one process can run all of them.
    monkeypatch.setenv("FACEKERNELS_EMU_SCHEDULE", request.param)
    return str(request.param)


def pointer(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def shfl_sync(mode: str, values: list[int], operand: int, width: int) -> list[int]:
    """shfl.sync of one whole warp, after the pseudo-code of the PTX ISA.

    Operand c packs the clamp (bits 0-4) and the segment mask (bits 8-12), as the CUDA intrinsics
    pass them.
    """
    c = (0 if mode == "up" else 31) | (32 - width) << 8
    clamp, segment = c & 31, c >> 8 & 31
    result = []
    for lane in range(32):
        b = operand & 31
        max_lane = lane & segment | clamp & ~segment
        min_lane = lane & segment
        if mode == "up":
            source = lane - b
            in_range = source >= max_lane
        elif mode == "down":
            source = lane + b
            in_range = source <= max_lane
        elif mode == "xor":
            source = lane ^ b
            in_range = source <= max_lane
        else:
            source = min_lane | b & ~segment
            in_range = source <= max_lane
        result.append(values[source if in_range else lane])
    return result


def expected_of_warp(values: list[int], width: int, argument: int) -> list[list[int]]:
    """Rows of primitives.cu's warp_primitives, up to the block-wide ones."""
    ballot = sum((v & 1) << lane for lane, v in enumerate(values))
    same = [sum(1 << j for j, other in enumerate(values) if other == v) for v in values]
    all_same = len(set(values)) == 1
    halves = [values[lane ^ (5 if lane < 16 else 3)] for lane in range(32)]
    rows: list[list[int] | int] = [
        shfl_sync("idx", values, argument, width),
        shfl_sync("up", values, argument, width),
        shfl_sync("down", values, argument, width),
        shfl_sync("xor", values, argument, width),
        ballot,
        int(7 in values),
        int(max(values) < 90),
        same,
        FULL_MASK if all_same else 0,
        int(all_same),
        FULL_MASK,
        1,
        sum(values),
        -max(values),
        max(values),
        reduce(and_, values),
        reduce(or_, values),
        reduce(xor, values),
        halves,
    ]
    return [row if isinstance(row, list) else [row] * 32 for row in rows]


@pytest.mark.parametrize("width", [2, 4, 8, 16, 32])
def test_warp_primitives(primitives: ctypes.CDLL, schedule: str, width: int) -> None:
    blocks, threads = 2, 96
    total = blocks * threads
    values = np.random.default_rng(width).integers(0, 100, total).astype(np.int32)
    values[::5] = 11
    values[40] = 7
    values[64:96] = 12  # a warp whose lanes all match
    odd_per_block = (values & 1).reshape(blocks, threads).sum(1)
    for argument in range(32):
        results = np.full((primitives.warp_primitives_results(), total), -99, np.int32)
        primitives.run_warp_primitives(
            pointer(values), pointer(results), blocks, threads, width, argument
        )
        for first in range(0, total, 32):
            warp = slice(first, first + 32)
            expected = np.array(expected_of_warp(values[warp].tolist(), width, argument))
            np.testing.assert_array_equal(
                results[:-2, warp].view(np.uint32), expected.astype(np.int64) & FULL_MASK
            )
        np.testing.assert_array_equal(results[-2], np.repeat(odd_per_block, threads))
        np.testing.assert_array_equal(results[-1], 2)  # all below 1000, none is -1


@pytest.mark.parametrize("workers", ["1", "4"])
def test_atomics(
    primitives: ctypes.CDLL, schedule: str, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("FACEKERNELS_EMU_WORKERS", workers)
    n = 6 * 128
    counts = np.zeros(10, np.int32)
    counts[5] = -1
    sums = np.zeros(1, np.float32)
    half_sum = np.zeros(1, np.float16)
    primitives.run_atomics(pointer(counts), pointer(sums), pointer(half_sum), n // 128)
    all_bits = (1 << 31) - 1
    assert counts[:7].tolist() == [
        n * (n - 1) // 2,
        -n,
        n - 1,
        1 - n,
        all_bits,
        -1 & ~all_bits,
        reduce(xor, range(n)),
    ]
    assert counts[7] == n % 10  # counts to 9, then starts again
    assert counts[9] == 3
    assert sums[0] == n / 2
    assert half_sum[0] == n / 4  # exact: multiples of 0.25 below 512
    if schedule == "forward" and workers == "1":
        assert counts[8] == n  # each thread finds its own index and leaves the next


@pytest.mark.parametrize("copies", ["lazy", "eager", "random"])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000])
def test_asynchronous_copies(
    primitives: ctypes.CDLL,
    schedule: str,
    monkeypatch: pytest.MonkeyPatch,
    copies: str,
    n: int,
) -> None:
    monkeypatch.setenv("FACEKERNELS_EMU_ASYNC", copies)
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    padded = np.zeros((n + 63) // 64 * 64, np.float32)
    padded[:n] = x
    y = np.full_like(padded, np.nan)
    primitives.run_copy_tiles(pointer(x), pointer(y), n)
    np.testing.assert_array_equal(y, padded.reshape(-1, 64)[:, ::-1].reshape(-1))


def test_matrix_product(primitives: ctypes.CDLL, schedule: str) -> None:
    """Against the tables of the PTX ISA for ldmatrix and mma.m16n8k16."""
    random = np.random.default_rng(3)
    a, b = (random.standard_normal((n, 16)).astype(np.float16) for n in (16, 8))
    sums = random.standard_normal((16, 8)).astype(np.float32)
    expected = sums + a.astype(np.float64) @ b.astype(np.float64).T
    loaded = np.zeros((2, 32, 4, 2), np.float16)
    primitives.run_matrix_product(pointer(a), pointer(b), pointer(sums), pointer(loaded))
    np.testing.assert_allclose(sums, expected, rtol=0, atol=1e-5)
    quarters = [a[:8, :8], a[8:, :8], a[:8, 8:], a[8:, 8:]], [b[:, :8], b[:, 8:]] * 2
    for lane in range(32):
        pair = slice(lane % 4 * 2, lane % 4 * 2 + 2)
        for of, parts in zip(loaded, quarters, strict=True):
            np.testing.assert_array_equal(of[lane], [part[lane // 4, pair] for part in parts])


def test_shared_memory_forms(primitives: ctypes.CDLL, schedule: str) -> None:
    y = np.full((3, 32), -1, np.int32)
    primitives.run_shared_memory_forms(pointer(y))
    thread = np.arange(32)
    neighbour = (thread + 1) % 16
    per_block = neighbour + 100 * neighbour + (31 - thread)
    np.testing.assert_array_equal(y, per_block + 1000 * (np.arange(3)[:, None] + 1))
