"""erase_regions, erase_top_n, sample_rects: published semantics, exact counts, fills, messages."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import facekernels as fk
from facekernels import ops, reference
from facekernels.reference.erase import noise_limits, philox_uniform, upsample

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
BACKENDS = [b for b in fk.backends() if b != "reference"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quantised(*shape: int, seed: int = 0, steps: int = 9) -> Tensor:
    """Few distinct values: ties decide."""
    return torch.randint(0, steps, shape, generator=generator(seed)).float()


def assert_same(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def sorted_scan(attention: Tensor, rects: Tensor) -> tuple[Tensor, list[int]]:
    """RFM as published: walk the sorted pixels of one map, skip those that are masked."""
    height, width = attention.shape
    free, anchors = torch.ones(height, width, dtype=torch.bool), []
    order = sorted(range(height * width), key=lambda i: (-attention.flatten()[i].item(), i))
    for i in order:
        y, x = divmod(i, width)
        if len(anchors) < len(rects) and free[y, x]:
            h, w, sh, sw = rects[len(anchors)].tolist()
            free[max(y - sh, 0) : max(min(y + h - sh, height), 0),
                 max(x - sw, 0) : max(min(x + w - sw, width), 0)] = False  # fmt: skip
            anchors.append(i)
    return ~free, anchors


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("steps", [5, 10**6])
def test_rounds_equal_the_sorted_scan(backend: str, steps: int) -> None:
    """Also where sh = h leaves the anchor uncovered, because an anchor serves once."""
    for seed in range(6):
        attention = quantised(5, 1, 14, 17, seed=seed, steps=steps)
        rects = ops.sample_rects(5, 4, 14, 17, max_height=4, max_width=4, generator=generator(seed))
        with fk.backend(backend):
            result = ops.erase_regions(torch.ones(5, 2, 14, 17), attention, rects)
        for b in range(5):
            mask, anchors = sorted_scan(attention[b, 0], rects[b])
            assert torch.equal(result.mask[b, 0], mask)
            assert result.anchors[b].tolist() == anchors
            assert torch.equal(result.images[b, 0] == 0, mask)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_uncovered_anchor_is_not_chosen_again(backend: str) -> None:
    attention = torch.zeros(1, 1, 5, 5)
    attention[0, 0, 2, 2] = 1
    rects = torch.tensor([[[1, 1, 1, 1], [1, 1, 0, 0]]])  # up and left of the anchor, then itself
    with fk.backend(backend):
        _, mask, anchors = ops.erase_regions(torch.ones(1, 1, 5, 5), attention, rects)
    assert anchors.tolist() == [[12, 0]]
    assert mask.flatten().nonzero().flatten().tolist() == [0, 6]


@pytest.mark.parametrize("backend", BACKENDS)
def test_published_acceptance(backend: str) -> None:
    images = torch.randn(2, 3, 20, 20, generator=generator())
    attention = torch.zeros(2, 1, 20, 20)
    attention[:, :, 10, 9] = 1
    with fk.backend(backend):
        none = ops.erase_regions(images, attention, torch.zeros(2, 0, 4, dtype=torch.int64))
        assert torch.equal(none.images, images)
        assert not none.mask.any()
        assert none.anchors.shape == (2, 0)
        inside = torch.tensor([6, 5, 3, 2]).expand(2, 1, 4)
        assert ops.erase_regions(images, attention, inside).mask.sum((1, 2, 3)).tolist() == [30, 30]
        corner = attention.flip(2, 3).roll((-9, -10), (2, 3))  # the anchor is (0, 0)
        assert ops.erase_regions(images, corner, inside).mask.sum((1, 2, 3)).tolist() == [9, 9]
        whole = torch.tensor([40, 40, 20, 20]).expand(2, 1, 4)
        everything = ops.erase_regions(images, attention, whole, "noise", seed=1)
        assert everything.mask.all()
        assert -1 <= everything.images.min() < -0.98
        assert 0.98 < everything.images.max() < 1
        twice = ops.erase_regions(images, 4 * attention, inside, "noise", seed=1)
        assert torch.equal(twice.mask, ops.erase_regions(images, attention, inside).mask)
        kept = ~twice.mask.expand_as(images)
        assert torch.equal(twice.images[kept].view(torch.int32), images[kept].view(torch.int32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_stops_when_nothing_is_left(backend: str) -> None:
    with fk.backend(backend):
        _, mask, anchors = ops.erase_regions(
            torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), -torch.inf),
            torch.tensor([[[1, 1, 5, 5]] * 2 + [[1, 2, 0, 0]] * 2], dtype=torch.int32),
        )  # fmt: skip
    assert anchors.tolist() == [[0, 1, 2, -1]]
    assert mask.flatten().tolist() == [False, False, True, True]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_infinity_and_signed_zero(backend: str, dtype: torch.dtype) -> None:
    nan, inf = torch.nan, torch.inf
    attention = torch.tensor([nan, 0.0, -inf, inf, -0.0, -1.0], dtype=dtype).view(1, 1, 2, 3)
    order = [
        3,
        1,
        4,
        5,
        0,
        2,
    ]  # NaN as -inf, so before the -inf behind it; -0 after the 0 before it
    cells = torch.tensor([[[1, 1, 0, 0]] * 6])
    with fk.backend(backend):
        result = ops.erase_regions(torch.ones(1, 1, 2, 3), attention, cells)
        assert result.anchors.tolist() == [order]
        for n in range(7):
            mask = ops.erase_top_n(torch.ones(1, 1, 2, 3), attention, n).mask
            assert mask.flatten().nonzero().flatten().tolist() == sorted(order[:n])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_fill_equals_the_reference(backend: str, dtype: torch.dtype) -> None:
    images = torch.randn(2, 3, 9, 12, generator=generator(1)).to(dtype)
    attention = quantised(2, 1, 9, 12).to(torch.float16)
    rects = ops.sample_rects(2, 2, 9, 12, generator=generator(2))
    noise = torch.randn(3, 1, 12, generator=generator(3))
    for fill, kwargs in (
        ("zero", {}), ("mean", {}), (0.3, {}), (noise, {}), ("noise", {"seed": -5}),
        ("noise", {"seed": torch.tensor([7]), "low": 0.1, "high": 3.3}),
    ):  # fmt: skip
        for x in (images, images.contiguous(memory_format=torch.channels_last), images.flip(3)):
            with fk.backend(backend):
                got = ops.erase_regions(x, attention, rects, fill, **kwargs)
                top = ops.erase_top_n(x, attention, 31, fill=fill, **kwargs)
            assert_same(got, reference.erase_regions(x, attention, rects, fill, **kwargs))
            assert_same(top, reference.erase_top_n(x, attention, 31, fill=fill, **kwargs))
            if x.is_contiguous(memory_format=torch.channels_last):
                assert got.images.stride() == x.stride()


MAPS = {
    "random": lambda n: torch.randn(n, generator=generator(4)),
    "quantised": lambda n: quantised(n, seed=4),
    "zero": torch.zeros,
    "relu": lambda n: torch.randn(n, generator=generator(5)).clamp(min=0),
    "rising": lambda n: torch.arange(n).float(),
    "falling": lambda n: -torch.arange(n).float(),
    "one_hot": lambda n: F.one_hot(torch.tensor(n - 2), n).float(),
    "periodic": lambda n: (torch.arange(n) % 97 == 0).float() * torch.arange(n),
    "nan": lambda n: torch.where(torch.arange(n) % 3 == 0, torch.nan, torch.arange(n).float()),
    "tiny": lambda n: torch.randn(n, generator=generator(6)) * 1e-42,  # denormal
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MAPS)
def test_top_n_is_exact(backend: str, name: str) -> None:
    """Maps that mislead a sample or collide in a histogram, at every kind of N."""
    height, width = 53, 61
    size = height * width
    values = MAPS[name](size)
    order = torch.where(values.isnan(), -torch.inf, values).argsort(descending=True, stable=True)
    for n in (0, 1, 2, 33, size // 100, size // 10, size // 2, size - 1, size):
        want = torch.zeros(size, dtype=torch.bool)
        want[order[:n]] = True
        for dtype in (torch.float32, torch.float64):
            attention = values.to(dtype).view(1, 1, height, width)
            with fk.backend(backend):
                mask = ops.erase_top_n(torch.ones(1, 1, height, width), attention, n).mask
            assert torch.equal(mask.flatten(), want), (n, dtype)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3), st.integers(0, 3), st.integers(1, 40), st.integers(1, 40),
    st.floats(0, 1), st.integers(1, 2000), st.integers(0, 99),
)  # fmt: skip
def test_any_shape(b: int, c: int, h: int, w: int, fraction: float, steps: int, seed: int) -> None:
    images = torch.randn(b, c, h, w, generator=generator(seed))
    attention = quantised(b, 1, h, w, seed=seed, steps=steps)
    rects = ops.sample_rects(b, 3, h, w, generator=generator(seed))
    assert_same(ops.erase_regions(images, attention, rects),
                reference.erase_regions(images, attention, rects))  # fmt: skip
    got = ops.erase_top_n(images, attention, fraction=fraction)
    assert_same(got, reference.erase_top_n(images, attention, fraction=fraction))
    assert (got.mask.sum((1, 2, 3)) == round(fraction * h * w)).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 30), st.integers(1, 40), st.integers(1, 40),
    st.floats(0, 1), st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_resized_map_has_fixed_bits(
    h: int, w: int, height: int, width: int, fraction: float, dtype: torch.dtype
) -> None:
    attention = torch.randn(1, 1, h, w, generator=generator(h * w), dtype=dtype)
    images = torch.ones(1, 1, height, width)
    want = reference.erase_top_n(images, attention, fraction=fraction)
    assert_same(ops.erase_top_n(images, attention, fraction=fraction), want)
    if "emulated" in fk.backends() and height * width < 400:
        with fk.backend("emulated"):
            assert_same(ops.erase_top_n(images, attention, fraction=fraction), want)


def test_resizing_is_bilinear() -> None:
    attention = torch.randn(2, 1, 7, 5, generator=generator(), dtype=torch.float64)
    for size in ((14, 10), (112, 96), (3, 4), (7, 5), (1, 1)):
        want = F.interpolate(attention, size, mode="bilinear", align_corners=False)
        assert torch.allclose(upsample(attention, *size), want, rtol=0, atol=1e-14)


def test_noise_is_philox() -> None:
    """The known answer of Random123 for a zero counter and key, and for a seed of all ones."""
    words = torch.tensor([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8])
    device = torch.device("cpu")
    assert torch.equal(philox_uniform((4,), 0, device), (words >> 8).double() / 2**24)
    everything = torch.tensor([[[9, 9, 0, 0]]])
    noise = ops.erase_regions(
        torch.zeros(1, 1, 64, 66), torch.zeros(1, 1, 64, 66), everything.clamp(min=1) * 8, "noise",
        seed=0, low=0, high=1,
    )  # fmt: skip
    assert noise.images.flatten()[:4].tolist() == ((words >> 8) / 2**24).tolist()
    u = philox_uniform((1 << 16,), 11, device)
    assert abs(u.mean() - 0.5) < 5 / math.sqrt(12 * (1 << 16))
    assert abs(u.var() - 1 / 12) < 2e-3
    assert not torch.equal(u, philox_uniform((1 << 16,), 11 + 2**32, device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_noise_stays_below_high(dtype: torch.dtype) -> None:
    """16 bits would round the largest draws up to the bound."""
    for low, high in ((-1.0, 1.0), (0.1, 0.7), (0.0, 1e-3), (-3.0, 0.0), (1.0, 1.5)):
        lowest, highest = noise_limits(low, high, dtype)
        assert low <= lowest <= highest < high
        assert torch.tensor(highest, dtype=dtype).double() == highest
        x = torch.zeros(1, 1, 200, 300, dtype=dtype)
        noise = ops.erase_top_n(x, x, fraction=1.0, fill="noise", seed=3, low=low, high=high).images
        assert low <= noise.min().item()
        assert noise.max().item() < high
        middle, tolerance = (low + high) / 2, 0.02 * (high - low)
        assert noise.double().mean().item() == pytest.approx(middle, abs=tolerance)


def test_rows_do_not_depend_on_the_batch() -> None:
    images = torch.randn(4, 3, 30, 31, generator=generator())
    attention = torch.randn(4, 1, 30, 31, generator=generator(1))
    rects = ops.sample_rects(4, 3, 30, 31, generator=generator(2))
    together = ops.erase_regions(images, attention, rects)
    for b in range(4):
        one = slice(b, b + 1)
        alone = ops.erase_regions(images[one], attention[one], rects[one])
        assert_same(alone, tuple(t[one] for t in together))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradients(backend: str) -> None:
    images = torch.randn(2, 2, 4, 5, generator=generator(), dtype=torch.float64, requires_grad=True)
    attention = torch.rand(2, 1, 4, 5, generator=generator(1), dtype=torch.float64)
    attention.requires_grad_()
    fill = torch.randn(2, 1, 5, generator=generator(2), dtype=torch.float64, requires_grad=True)
    with fk.backend(backend):
        out, mask = ops.erase_top_n(images, attention, 7, fill=fill)
        assert not mask.requires_grad
        cotangent = torch.randn(out.shape, generator=generator(3), dtype=torch.float64)
        d_images, d_fill = torch.autograd.grad(out, (images, fill), cotangent, create_graph=True)
        assert torch.equal(d_images, torch.where(mask, 0, cotangent))
        expected = torch.where(mask, cotangent, 0).sum_to_size(fill.shape)
        assert torch.allclose(d_fill, expected, rtol=0, atol=1e-12)
        for options in ({"fill": "mean"}, {"fill": "noise", "seed": 1}, {"fill": 2}):

            def function(x: Tensor, options: Any = options) -> Tensor:
                return ops.erase_top_n(x, attention, 7, **options).images ** 2

            assert torch.autograd.gradcheck(function, (images,))
            assert torch.autograd.gradgradcheck(function, (images,))
        with pytest.raises(RuntimeError):
            torch.autograd.grad(out.sum(), attention)


def test_sampled_rectangles() -> None:
    rects = ops.sample_rects(400, 25, 112, generator=generator())
    assert rects.shape == (400, 25, 4)
    assert rects.dtype is torch.int64
    size, before = rects[..., :2], rects[..., 2:]
    assert size.amin((0, 1)).tolist() == [1, 1]
    assert size.amax((0, 1)).tolist() == [60, 60]  # round(120 / 224 * 112)
    assert (before >= 1).all()
    assert (before <= size).all()
    assert (before == size).any()
    # Uniform: means and the share of each height within five standard errors.
    assert (size.double().mean((0, 1)) - 30.5).abs().max() < 5 * 17.3 / 100
    share = (1 + torch.arange(1, 61).reciprocal().mean()) / 2  # of a mean over 1 .. h in h
    assert ((before / size).mean((0, 1)) - share).abs().max() < 0.02
    count = rects[..., 0].flatten().bincount()[1:]
    assert (count - 10000 / 60).abs().max() < 5 * math.sqrt(10000 / 60)
    assert torch.equal(rects, ops.sample_rects(400, 25, 112, generator=generator()))
    wide = ops.sample_rects(50, 50, 224, 28, max_width=3, generator=generator())
    assert wide.amax((0, 1))[:2].tolist() == [120, 3]
    assert ops.sample_rects(0, 3, 5).shape == (0, 3, 4)
    assert ops.sample_rects(2, 1, 1).tolist() == [[[1, 1, 1, 1]]] * 2


X, M, R = torch.zeros(2, 3, 6, 5), torch.zeros(2, 1, 6, 5), torch.ones(2, 1, 4, dtype=torch.int64)
BAD = R.clone()
BAD[1, 0] = torch.tensor([3, 0, 1, 1])


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((X[0], M, R), {}, ValueError, "images must be [B, C, H, W], got shape (3, 6, 5)"),
        ((X.int(), M, R), {}, TypeError,
         "images must be float32, float64, float16 or bfloat16, got int32"),
        ((X[..., :0], M, R), {}, ValueError, "images must be at least 1 x 1, got 6 x 0"),
        ((X, M[:1], R), {}, ValueError,
         "attention must be [B, 1, h, w] = (2, 1, h, w), got shape (1, 1, 6, 5)"),
        ((X, M[..., :4], R), {}, ValueError,
         "attention must be [B, 1, H, W] = (2, 1, 6, 5), got shape (2, 1, 6, 4)"),
        ((X, M, R.float()), {}, TypeError, "rects must be int64 or int32, got float32"),
        ((X, M, R[:1]), {}, ValueError, "rects must be [B, N, 4] = (2, N, 4), got shape (1, 1, 4)"),
        ((X, M, BAD), {}, ValueError,
         "rects must have heights and widths of at least 1, got 3 x 0"),
        ((X, M, -R), {}, ValueError,
         "rects must have heights and widths of at least 1, got -1 x -1"),
        ((X, M, R, "blur"), {}, ValueError,
         "fill must be one of 'zero', 'mean', 'noise', a number or a tensor, got 'blur'"),
        ((X, M, R, None), {}, TypeError,
         "fill must be a string, a number or a tensor, got NoneType"),
        ((X, M, R, torch.zeros(2, 6, 5)), {}, ValueError,
         "fill must be broadcastable to the shape of images (2, 3, 6, 5), got shape (2, 6, 5)"),
        ((X, M, R, "noise"), {}, ValueError, 'fill="noise" needs a seed'),
        ((X, M, R), {"seed": 1}, ValueError, 'seed is for fill="noise"'),
        ((X, M, R, "noise"), {"seed": 1.5}, TypeError,
         "seed must be an integer or a tensor, got float"),
        ((X, M, R, "noise"), {"seed": 2**63}, ValueError,
         "seed must be a 64-bit integer, got 9223372036854775808"),
        ((X, M, R, "noise"), {"seed": torch.zeros(2, dtype=torch.int64)}, ValueError,
         "seed must have one element, got shape (2)"),
        ((X, M, R, "noise"), {"seed": 1, "low": 2, "high": 2}, ValueError,
         "low < high must be finite numbers of float32, got 2 and 2"),
        ((X.bfloat16(), M, R, "noise"), {"seed": 1, "low": 1.001, "high": 1.002}, ValueError,
         "there is no bfloat16 number in [low, high) = [1.001, 1.002)"),
    ],
)  # fmt: skip
def test_bad_region_arguments(
    backend: str, args: tuple[Any, ...], kwargs: dict[str, Any], error: type[Exception],
    message: str,
) -> None:  # fmt: skip
    with fk.backend(backend), pytest.raises(error) as caught:
        ops.erase_regions(*args, **kwargs)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((X, M), {}, TypeError, "give either n or fraction"),
        ((X, M, 3), {"fraction": 0.1}, TypeError, "give either n or fraction"),
        ((X, M, 31), {}, ValueError, "n must be between 0 and H * W = 30, got 31"),
        ((X, M, -1), {}, ValueError, "n must be between 0 and H * W = 30, got -1"),
        ((X, M, 2.0), {}, TypeError, "n must be an integer, got float"),
        ((X, M), {"fraction": 1.01}, ValueError, "fraction must be in [0, 1], got 1.01"),
        ((X, M), {"fraction": math.nan}, ValueError, "fraction must be in [0, 1], got nan"),
        ((X, M[..., :0], 3), {}, ValueError, "attention must be at least 1 x 1, got 6 x 0"),
        ((X, [0.0], 3), {}, TypeError, "attention must be a torch.Tensor, got list"),
    ],
)
def test_bad_top_n_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        ops.erase_top_n(*args, **kwargs)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((-1, 3, 5), {}, ValueError, "batch must be at least 0, got -1"),
        ((1, 3, 0), {}, ValueError, "height must be at least 1, got 0"),
        ((1, 3, 5), {"max_width": 0}, ValueError, "max_width must be at least 1, got 0"),
        ((1, 3.0, 5), {}, TypeError, "count must be an integer, got float"),
    ],
)
def test_bad_sizes(
    args: tuple[Any, ...], kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        ops.sample_rects(*args, **kwargs)
    assert str(caught.value) == message


@pytest.mark.parametrize("variant", ["baseline", "avx2", "avx512"])
def test_every_cpu_variant(variant: str) -> None:
    """Equal bits, also of the resized map, where a fused multiply-add would show."""
    code = (
        "import torch; from facekernels import ops, reference as r\n"
        "g = torch.Generator().manual_seed(0)\n"
        "for dtype in (torch.float32, torch.float64):\n"
        "    x = torch.randn(2, 3, 53, 47, generator=g).to(dtype)\n"
        "    m = torch.randn(2, 1, 53, 47, generator=g).to(dtype)\n"
        "    rects = ops.sample_rects(2, 5, 53, 47, generator=g)\n"
        "    for a, b in zip(ops.erase_regions(x, m, rects), r.erase_regions(x, m, rects)):\n"
        "        assert torch.equal(a, b)\n"
        "    for n in (0, 1, 24, 249, 2400, 2491):\n"
        "        for t in (m, m[..., :13, :9], m.round()):\n"
        "            assert torch.equal(ops.erase_top_n(x, t, n)[1], r.erase_top_n(x, t, n)[1])\n"
        "    x = torch.zeros(1, 1, 97, 89, dtype=dtype)\n"
        "    t = torch.randn(1, 1, 7, 6, generator=g).to(dtype)\n"
        "    for n in range(0, 97 * 89, 7):\n"
        "        assert torch.equal(ops.erase_top_n(x, t, n)[1], r.erase_top_n(x, t, n)[1])\n"
    )
    environment = os.environ | {"FACEKERNELS_CPU_VARIANT": variant}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
