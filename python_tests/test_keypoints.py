"""The flip test and the way back to the image."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from facekernels.ops import (
    decode_heatmaps,
    encode_udp,
    flip_average,
    soft_argmax,
    transform_keypoints,
)

PAIRS = [(0, 1), (4, 2)]


def maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slow_flip_average(h: Tensor, f: Tensor, pairs: list[tuple[int, int]], shift: bool) -> Tensor:
    source = dict(pairs) | {right: left for left, right in pairs}
    out = torch.empty_like(h)
    batch, joints, height, width = h.shape
    for b in range(batch):
        for k in range(joints):
            for y in range(height):
                for x in range(width):
                    column = max(x - 1, 0) if shift else x
                    other = f[b, source.get(k, k), y, width - 1 - column]
                    out[b, k, y, x] = (h[b, k, y, x] + other) / 2
    return out


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("pairs", [[], PAIRS])
def test_flip_average_is_the_loop(pairs: list[tuple[int, int]], shift: bool) -> None:
    h, f = maps(2, 5, 3, 4), maps(2, 5, 3, 4, seed=1)
    before = h.clone(), f.clone()
    assert torch.equal(
        flip_average(h, f, pairs, shift=shift), slow_flip_average(h, f, pairs, shift)
    )
    assert torch.equal(h, before[0])
    assert torch.equal(f, before[1])


def test_flip_average_of_a_mirror_image_changes_nothing() -> None:
    h = maps(2, 5, 6, 7)
    mirrored = h[:, [1, 0, 4, 3, 2]].flip(-1)
    assert torch.equal(flip_average(h, mirrored, PAIRS), h)


def test_flip_average_in_half_rounds_once() -> None:
    h, f = maps(1, 2, 3, 4).half(), maps(1, 2, 3, 4, seed=1).half()
    exact = (h.double() + f.double().flip(-1)) / 2
    got = flip_average(h, f, [])
    assert got.dtype is torch.float16
    assert torch.equal(got, exact.half())


def test_flip_average_gradients() -> None:
    h = maps(1, 3, 2, 3, dtype=torch.float64).requires_grad_()
    f = maps(1, 3, 2, 3, seed=1, dtype=torch.float64).requires_grad_()
    for shift in (False, True):
        assert torch.autograd.gradcheck(
            lambda a, b, s=shift: flip_average(a, b, [(0, 2)], shift=s), (h, f)
        )


def test_flip_average_of_few_maps() -> None:
    assert flip_average(maps(0, 3, 2, 2), maps(0, 3, 2, 2), [(0, 1)]).shape == (0, 3, 2, 2)
    assert flip_average(maps(2, 0, 2, 2), maps(2, 0, 2, 2), []).shape == (2, 0, 2, 2)
    one = maps(1, 1, 2, 1)
    assert torch.equal(flip_average(one, one, [], shift=True), one)


def test_flip_average_compiles() -> None:
    h, f = maps(2, 5, 3, 4), maps(2, 5, 3, 4, seed=1)
    compiled = torch.compile(flip_average, fullgraph=True, backend="eager")
    assert torch.equal(compiled(h, f, PAIRS, shift=True), flip_average(h, f, PAIRS, shift=True))


def decoded(method: str, h: Tensor) -> Tensor:
    return soft_argmax(h, 50.0) if method == "soft" else decode_heatmaps(h, method).xy


@pytest.mark.parametrize("method", ["argmax", "dark", "soft"])
def test_decoding_is_equivariant_to_a_flip(method: str) -> None:
    gen = torch.Generator().manual_seed(5)
    at = torch.tensor([4.0, 5.0]) + torch.rand(2, 5, 2, generator=gen) * torch.tensor([39.0, 53.0])
    h = encode_udp(at, (48, 64)).heatmaps + 0.01 * maps(2, 5, 64, 48)
    xy = decoded(method, h)
    mirrored = torch.stack((47 - xy[..., 0], xy[..., 1]), -1)
    torch.testing.assert_close(decoded(method, h.flip(-1)), mirrored, atol=1e-4, rtol=0)


def slow_transform(
    xy: Tensor,
    center: Tensor,
    scale: Tensor,
    size: tuple[int, int],
    align: str,
    angles: list[float],
) -> Tensor:
    out = torch.empty_like(xy)
    for b in range(xy.shape[0]):
        cos, sin = math.cos(math.radians(angles[b])), math.sin(math.radians(angles[b]))
        for k in range(xy.shape[1]):
            v = []
            for axis in (0, 1):
                p, s, n = float(xy[b, k, axis]), float(scale[b, axis]), size[axis]
                v.append(
                    (p - n / 2) * s / n
                    if align == "size"
                    else (p - (n - 1) / 2) * (s - 1) / (n - 1)
                )
            out[b, k, 0] = cos * v[0] - sin * v[1] + float(center[b, 0])
            out[b, k, 1] = sin * v[0] + cos * v[1] + float(center[b, 1])
    return out


@pytest.mark.parametrize("align", ["size", "corners"])
def test_transform_is_the_loop(align: str) -> None:
    xy, center, scale = maps(3, 4, 2) * 40, maps(3, 2) * 300, 50 + maps(3, 2, seed=1) * 200
    angles = [0.0, 30.0, -90.0]
    for rotation, expected in (
        (torch.tensor(angles), angles), (25, [25.0] * 3), (0.0, [0.0] * 3),
    ):  # fmt: skip
        got = transform_keypoints(xy, center, scale, (48, 64), align=align, rotation=rotation)
        slow = slow_transform(
            xy.double(), center.double(), scale.double(), (48, 64), align, expected
        )
        torch.testing.assert_close(got.double(), slow, atol=1e-4, rtol=1e-6)


def test_transform_at_known_points() -> None:
    """The corners of the map, and a quarter turn from the x axis to the y axis."""
    xy = torch.tensor([[[0.0, 0.0], [47.0, 63.0]]])
    scale = torch.tensor([[192.0, 256.0]])
    size = transform_keypoints(xy, scale / 2, scale, (48, 64))
    assert size.tolist() == [[[0, 0], [188, 252]]]
    corners = transform_keypoints(xy, (scale - 1) / 2, scale, (48, 64), align="corners")
    expected = torch.tensor([[[0.0, 0.0], [191.0, 255.0]]])
    torch.testing.assert_close(corners, expected, atol=2e-5, rtol=0)
    right = torch.tensor([[[25.0, 32.0]]])
    turned = transform_keypoints(right, torch.zeros(1, 2), scale, (48, 64), rotation=90)
    torch.testing.assert_close(turned, torch.tensor([[[0.0, 4.0]]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("point", "kernel"), [((96.0, 128.0), 11), ((180.0, 240.0), 5), ((10.0, 12.0), 5)]
)
def test_udp_round_trip(point: tuple[float, float], kernel: int) -> None:
    """Input pixels to a target and back; the ratio of the sizes does not do it. Three pixels from
    the border of the map the zeros outside would enter a blur of 11 taps.
    """
    inputs, heatmap = torch.tensor([192.0, 256.0]), torch.tensor([48.0, 64.0])
    xy = torch.tensor([[point]]) * ((heatmap - 1) / (inputs - 1))
    found = decode_heatmaps(encode_udp(xy, (48, 64)).heatmaps, "udp", kernel=kernel)
    scale = inputs[None]
    back = transform_keypoints(found.xy, (scale - 1) / 2, scale, (48, 64), align="corners")
    torch.testing.assert_close(back, torch.tensor([[point]]), atol=0.1, rtol=0)
    wrong = transform_keypoints(found.xy, scale / 2, scale, (48, 64))
    assert (wrong - back).abs().max() > 0.1


def test_transform_gradients() -> None:
    leaves = [
        t.double().requires_grad_() for t in (maps(2, 3, 2), maps(2, 2), 20 + maps(2, 2), maps(2))
    ]
    for align in ("size", "corners"):
        assert torch.autograd.gradcheck(
            lambda xy, c, s, r, a=align: transform_keypoints(xy, c, s, (6, 8), align=a, rotation=r),
            leaves,
        )


def test_transform_dtypes_and_empty() -> None:
    c, s = torch.zeros(2, 2), torch.ones(2, 2)
    assert transform_keypoints(maps(2, 3, 2).half(), c, s, (4, 4)).dtype is torch.float32
    assert transform_keypoints(maps(2, 3, 2).double(), c, s, (4, 4)).dtype is torch.float64
    assert transform_keypoints(maps(2, 0, 2), c, s, (4, 4)).shape == (2, 0, 2)
    assert transform_keypoints(maps(0, 3, 2), c[:0], s[:0], (4, 4)).shape == (0, 3, 2)


H, XY, C = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 2), torch.ones(2, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: flip_average(H[0], H[0], []),
            ValueError,
            r"\[B, K, H, W\], got shape \(3, 4, 5\)",
        ),
        (lambda: flip_average(H.int(), H, []), TypeError, "heatmaps must be float32"),
        (
            lambda: flip_average(H, H.double(), []),
            TypeError,
            "flipped must be float32 like heatmaps",
        ),
        (lambda: flip_average(H, H[:1], []), ValueError, r"flipped must be .* got shape \(1, 3, 4"),
        (lambda: flip_average(H, H, [(0, 3)]), ValueError, r"channels 0 to 2, got \(0, 3\)"),
        (lambda: flip_average(H, H, [(-1, 0)]), ValueError, r"channels 0 to 2, got \(-1, 0\)"),
        (lambda: flip_average(H, H, [(0, 1), (1, 2)]), ValueError, "a channel once, got 1 twice"),
        (lambda: flip_average(H, H, [(0, 1, 2)]), ValueError, r"pairs must be pairs"),
        (lambda: flip_average(H, H, [(0, 1.0)]), TypeError, "pairs must hold ints"),
        (lambda: transform_keypoints(XY[0], C, C, (4, 4)), ValueError, r"xy must be \[B, K, 2\]"),
        (lambda: transform_keypoints(H[0], C, C, (4, 4)), ValueError, r"xy must be \[B, K, 2\]"),
        (lambda: transform_keypoints(XY.int(), C, C, (4, 4)), TypeError, "xy must be float32"),
        (lambda: transform_keypoints(XY, C[:1], C, (4, 4)), ValueError, r"center must be \[B, 2\]"),
        (lambda: transform_keypoints(XY, C, C[0], (4, 4)), ValueError, r"scale must be \[B, 2\]"),
        (lambda: transform_keypoints(XY, C, C, (4,)), ValueError, r"pair \(W, H\), got \(4,\)"),
        (lambda: transform_keypoints(XY, C, C, (4, 0)), ValueError, "at least 1 x 1, got 4 x 0"),
        (
            lambda: transform_keypoints(XY, C, C, (4, 4.0)),
            TypeError,
            "heatmap_size must be two ints",
        ),
        (
            lambda: transform_keypoints(XY, C, C, (1, 4), align="corners"),
            ValueError,
            "2 x 2 for al",
        ),
        (lambda: transform_keypoints(XY, C, C, (4, 4), align="x"), ValueError, "align must be one"),
        (
            lambda: transform_keypoints(XY, C, C, (4, 4), rotation=C[0, :1]),
            ValueError,
            r"rotation must be \[B\] = \(2\)",
        ),
        (
            lambda: transform_keypoints(XY, C, C, (4, 4), rotation=math.nan),
            ValueError,
            "rotation must be finite, got nan",
        ),
    ],
)
def test_errors(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
