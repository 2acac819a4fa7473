"""heatmap_peaks: agreement with max_pool2d and top-k, ties, plateaus, NaN, padding, messages."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import facekernels as fk
from facekernels import ops, reference

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
BACKENDS = [b for b in fk.backends() if b != "reference"]


def quantised(*shape: int, seed: int = 0, steps: int = 40) -> Tensor:
    """Noise with many equal values: every order among ties is put to the test."""
    gen = torch.Generator().manual_seed(seed)
    return torch.randint(-steps // 4, steps, shape, generator=gen).double() / steps


def assert_same(maps: Tensor, **kwargs: object) -> ops.Peaks:
    got, want = ops.heatmap_peaks(maps, **kwargs), reference.heatmap_peaks(maps, **kwargs)
    for name, a, b in zip(got._fields, got, want, strict=True):
        assert torch.equal(a, b), name
        assert a.dtype == b.dtype, name
    return got


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bit_equal_to_the_reference(backend: str, dtype: torch.dtype) -> None:
    with fk.backend(backend):
        for shape in ((2, 3, 17, 48), (1, 2, 5, 7), (2, 1, 1, 1), (1, 1, 1, 37), (1, 1, 37, 1)):
            maps = quantised(*shape).to(dtype)
            for kernel, strict, topk, threshold in (
                (3, False, 10, 0.0), (5, True, 100, -torch.inf), (7, False, 900, 0.1),
                (1, True, 3, 0), (99, False, 4, -1.0), (3, False, 0, 0.0),
            ):  # fmt: skip
                assert_same(maps, kernel=kernel, strict=strict, topk=topk, threshold=threshold)


@pytest.mark.parametrize("kernel", [3, 5])
def test_agrees_with_max_pool(kernel: int) -> None:
    maps = torch.rand(2, 3, 40, 31, generator=torch.Generator().manual_seed(0))
    is_peak = (F.max_pool2d(maps, kernel, 1, kernel // 2) == maps) & (maps > 0.3)
    score = torch.where(is_peak, maps, -torch.inf).flatten(2).topk(20).values
    peaks = ops.heatmap_peaks(maps, kernel=kernel, threshold=0.3, topk=20)
    assert torch.equal(peaks.score, score)
    assert torch.equal(peaks.count, is_peak.sum((2, 3)).clamp(max=20))
    assert torch.equal(maps.flatten(2).gather(2, peaks.index), peaks.score)
    assert torch.equal(peaks.xy[..., 0] + 31 * peaks.xy[..., 1], peaks.index.float())


@pytest.mark.parametrize("backend", BACKENDS)
def test_everything_above_the_threshold(backend: str) -> None:
    """Kernel 1 makes every cell a peak: candidate lists overflow, more than one round is needed."""
    maps = quantised(1, 1, 60, 50, steps=500)
    with fk.backend(backend):
        for topk in (1, 1024, 1025, 2500, 3000, 3100):
            assert_same(maps, kernel=1, threshold=-5.0, topk=topk)
        rising = torch.arange(3000.0).view(1, 1, 60, 50)  # every cell beats all before it
        assert_same(rising, kernel=1, topk=7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("height", "width"), [(64, 100), (90, 100)])
def test_every_cell_a_better_peak(
    backend: str, dtype: torch.dtype, height: int, width: int
) -> None:
    """Windows of one cell over rising values: no list of candidates may overflow."""
    maps = torch.arange(height * width).view(1, 1, height, width).to(dtype)
    with fk.backend(backend):
        for topk in (3, 5000):
            assert_same(maps, kernel=1, topk=topk, threshold=-1.0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(1, 90), (90, 1), (3, 50)])
def test_window_larger_than_the_map(backend: str, shape: tuple[int, int]) -> None:
    maps = quantised(2, 3, *shape).float()
    with fk.backend(backend):
        for kernel in (9, 101, 199):
            assert_same(maps, kernel=kernel, topk=40, threshold=-1.0)


def test_wide_windows_need_little_memory() -> None:
    """A radius per axis: one for both would ask for 65,536 rows of 60,000 cells."""
    peaks = ops.heatmap_peaks(torch.rand(1, 1, 1, 20_000), kernel=39_999, topk=3)
    assert peaks.count.item() == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_plateaus_and_borders(backend: str) -> None:
    maps = torch.zeros(1, 1, 6, 9)
    maps[0, 0, 2, 3:5] = 1.0
    maps[0, 0, 5, 8] = 0.5
    with fk.backend(backend):
        both = ops.heatmap_peaks(maps, topk=4)
        assert both.xy[0, 0].tolist() == [[3, 2], [4, 2], [8, 5], [-1, -1]]
        assert both.score[0, 0].tolist() == [1, 1, 0.5, 0]
        assert both.index[0, 0].tolist() == [21, 22, 53, -1]
        assert both.count.item() == 3
        alone = ops.heatmap_peaks(maps, topk=4, strict=True)
        assert alone.index[0, 0].tolist() == [53, -1, -1, -1]
        flat = torch.full((1, 1, 50, 50), 0.5)
        assert ops.heatmap_peaks(flat, topk=5).index.tolist() == [[[0, 1, 2, 3, 4]]]
        assert ops.heatmap_peaks(flat, strict=True).count.item() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_never_wins_and_suppresses_nothing(backend: str) -> None:
    maps = torch.full((1, 2, 4, 5), -torch.inf)
    maps[0, 0, 1, 1], maps[0, 0, 1, 2], maps[0, 0, 3, 4] = torch.nan, 0.25, torch.inf
    with fk.backend(backend):
        peaks = ops.heatmap_peaks(maps, threshold=-torch.inf, topk=3)
        assert peaks.index.tolist() == [[[19, 7, -1], [-1, -1, -1]]]
        assert peaks.count.tolist() == [[2, 0]]
        assert ops.heatmap_peaks(torch.full((1, 1, 3, 3), torch.nan)).count.item() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_threshold_is_compared_exactly(backend: str) -> None:
    """0.1 is not a float: the float below it is not above 0.1, the one above it is."""
    above = torch.tensor(0.1)  # rounds up
    maps = torch.stack((above, torch.nextafter(above, torch.tensor(0.0)))).view(1, 2, 1, 1)
    with fk.backend(backend):
        assert ops.heatmap_peaks(maps, threshold=0.1).count.tolist() == [[1, 0]]
        assert ops.heatmap_peaks(maps, threshold=above.item()).count.tolist() == [[0, 0]]


def test_strides_and_flip() -> None:
    maps = torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    want = ops.heatmap_peaks(maps, topk=9)
    assert_same(maps.contiguous(memory_format=torch.channels_last), topk=9)
    wide = torch.full((2, 3, 30, 50), torch.nan)
    wide[:, :, 3:27, 4:44:2] = maps
    view = wide[:, :, 3:27, 4:44:2]
    for got, expected in zip(ops.heatmap_peaks(view, topk=9), want, strict=True):
        assert torch.equal(got, expected)
    flipped = ops.heatmap_peaks(maps.flip(3), topk=9)
    assert torch.equal(19 - flipped.xy[..., 0], want.xy[..., 0])
    assert torch.equal(flipped.score, want.score)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2), st.integers(0, 3), st.integers(1, 20), st.integers(1, 40),
    st.sampled_from([1, 3, 5, 9]), st.integers(0, 50), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_any_shape(
    b: int, k: int, h: int, w: int, kernel: int, topk: int, strict: bool, seed: int
) -> None:
    maps = quantised(b, k, h, w, seed=seed, steps=8).float()
    assert_same(maps, kernel=kernel, topk=topk, strict=strict)


def test_no_gradient_and_input_untouched() -> None:
    maps = torch.rand(1, 1, 8, 8, requires_grad=True)
    before = maps.detach().clone()
    assert not ops.heatmap_peaks(maps).score.requires_grad
    assert torch.equal(maps, before)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"kernel": 4}, ValueError, "kernel must be odd and positive, got 4"),
        ({"kernel": -1}, ValueError, "kernel must be odd and positive, got -1"),
        ({"kernel": 3.0}, TypeError, "kernel must be an integer, got float"),
        ({"topk": -1}, ValueError, "topk must be at least 0, got -1"),
        ({"topk": None}, TypeError, "topk must be an integer, got NoneType"),
        ({"threshold": float("nan")}, ValueError, "threshold must be a number, got NaN"),
        ({"threshold": "x"}, TypeError, "threshold must be a number, got str"),
    ],
)
def test_bad_options(kwargs: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        ops.heatmap_peaks(torch.rand(1, 1, 4, 4), **kwargs)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("maps", "error", "message"),
    [
        (torch.rand(3, 4, 4), ValueError, "heatmaps must be [B, K, H, W], got shape (3, 4, 4)"),
        (torch.tensor(1.0), ValueError, "heatmaps must be [B, K, H, W], got shape ()"),
        (torch.rand(1, 1, 0, 4), ValueError, "heatmaps must be at least 1 x 1, got 0 x 4"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.int32), TypeError,
         "heatmaps must be float32, float64, float16 or bfloat16, got int32"),
        ([1.0], TypeError, "heatmaps must be a torch.Tensor, got list"),
    ],
)  # fmt: skip
def test_bad_maps(maps: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        ops.heatmap_peaks(maps)  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.parametrize("variant", ["baseline", "avx2", "avx512"])
def test_every_cpu_variant(variant: str) -> None:
    """A variant the processor lacks falls back to the best one it has."""
    code = (
        "import torch; from facekernels import ops, reference as r\n"
        "g = torch.Generator().manual_seed(0)\n"
        "for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):\n"
        "    m = (torch.randint(-9, 90, (2, 2, 19, 53), generator=g) / 99).to(dtype)\n"
        "    for a, b in zip(ops.heatmap_peaks(m, topk=60), r.heatmap_peaks(m, topk=60)):\n"
        "        assert torch.equal(a, b)\n"
        "    a, b = ops.soft_argmax(m, 9.0), r.soft_argmax(m.double(), 9.0)\n"
        "    assert (a - b).abs().max() < 1e-4, (a - b).abs().max()\n"
        "    a, b = ops.local_center_of_mass(m), r.local_center_of_mass(m.double())\n"
        "    assert (a - b).abs().max() < 1e-5, (a - b).abs().max()\n"
    )
    environment = os.environ | {"FACEKERNELS_CPU_VARIANT": variant}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
