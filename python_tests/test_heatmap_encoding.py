"""Training targets: each encoder against a loop over pixels, and through its decoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from facekernels.ops import (
    decode_heatmaps,
    decode_simcc,
    encode_gaussian,
    encode_megvii,
    encode_simcc,
    encode_udp,
    encode_udp_combined,
    encode_unbiased,
)

NAN, INF = math.nan, math.inf
MAPS: dict[str, Callable[..., Any]] = {
    "gaussian": encode_gaussian,
    "unbiased": encode_unbiased,
    "udp": encode_udp,
    "udp_combined": encode_udp_combined,
    "megvii": encode_megvii,
}
ALL = MAPS | {"simcc": encode_simcc}
W, H = 13, 17
# Inside, at both borders, on half pixels, just in reach of the map, just out of it, far away, lost.
POINTS = [
    (5.3, 7.6), (6.0, 8.0), (6.5, 8.5), (0.0, 0.0), (-0.3, 16.4), (12.4, -0.49), (12.6, 16.6),
    (1.2, 9.0), (11.1, 15.2), (-6.4, 8.0), (-6.6, 8.0), (18.4, 8.0), (18.6, 8.0), (5.0, -7.2),
    (5.0, 22.9), (5.0, 23.1), (-0.7, 4.0), (1e30, 3.0), (3.0, -1e30), (NAN, 3.0), (3.0, INF),
    (-INF, NAN),
]  # fmt: skip


def points(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(POINTS, dtype=dtype).view(2, -1, 2)


def reflected(i: int, n: int) -> int:
    """Border reflect-101: d c b | a b c d | c b a."""
    while not 0 <= i < n:
        i = -i if i < 0 else 2 * (n - 1) - i
        if n == 1:
            return 0
    return i


def slow_map(name: str, x: float, y: float, option: float) -> tuple[list[Tensor], float]:
    """The maps of one keypoint and its weight, cell by cell from the definition."""
    count = 3 if name == "udp_combined" else 1
    out = [torch.zeros(H, W, dtype=torch.float64) for _ in range(count)]
    if not (math.isfinite(x) and math.isfinite(y)):
        return out, 0.0
    if name in ("gaussian", "udp"):
        cx, cy, r = math.floor(x + 0.5), math.floor(y + 0.5), math.floor(3 * option)
        mx, my = (cx, cy) if name == "gaussian" else (x, y)
        drawn = False
        for j in range(H):
            for i in range(W):
                if abs(i - cx) <= r and abs(j - cy) <= r:
                    drawn = True
                    out[0][j, i] = math.exp(-((i - mx) ** 2 + (j - my) ** 2) / (2 * option**2))
        return out, float(drawn)
    if name == "unbiased":
        margin = 3 * option
        if not (-margin - 1 <= x < W + margin and -margin - 1 <= y < H + margin):
            return out, 0.0
        for j in range(H):
            for i in range(W):
                out[0][j, i] = math.exp(-((i - x) ** 2 + (j - y) ** 2) / (2 * option**2))
        return out, 1.0
    if name == "udp_combined":
        radius, drawn = option * max(W, H), False
        for j in range(H):
            for i in range(W):
                if math.hypot(i - x, j - y) <= radius:
                    drawn = True
                    out[0][j, i] = 1
                    out[1][j, i], out[2][j, i] = (x - i) / radius, (y - j) / radius
        return out, float(drawn)
    px, py, kernel = math.floor(x), math.floor(y), int(option)
    if not (0 <= px < W and 0 <= py < H):
        return out, 0.0
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    taps = [math.exp(-((t - kernel // 2) ** 2) / (2 * sigma**2)) for t in range(kernel)]
    for j in range(H):
        for i in range(W):
            across = sum(t for o, t in enumerate(taps) if reflected(i + o - kernel // 2, W) == px)
            down = sum(t for o, t in enumerate(taps) if reflected(j + o - kernel // 2, H) == py)
            out[0][j, i] = across * down
    out[0] *= 255 / out[0].max()
    return out, 1.0


OPTIONS = {
    "gaussian": [("sigma", 2.0), ("sigma", 1.5), ("sigma", 0.2)],
    "unbiased": [("sigma", 2.0), ("sigma", 0.7)],
    "udp": [("sigma", 2.0), ("sigma", 1.5), ("sigma", 0.2)],
    "udp_combined": [("radius_factor", 0.0546875), ("radius_factor", 0.3)],
    "megvii": [("kernel", 11), ("kernel", 17), ("kernel", 1)],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("name", "option", "value"), [(n, o, v) for n, pairs in OPTIONS.items() for o, v in pairs]
)
def test_maps_are_the_loop(name: str, option: str, value: float, dtype: torch.dtype) -> None:
    xy = points(dtype)
    before = xy.clone()
    maps, weights = MAPS[name](xy, (W, H), **{option: value})
    assert torch.equal(xy.nan_to_num(), before.nan_to_num())
    assert maps.dtype is weights.dtype is dtype
    slow = [slow_map(name, float(x), float(y), value) for x, y in xy.view(-1, 2)]
    expected = torch.stack([m for one, _ in slow for m in one]).view_as(maps)
    tolerance = (1e-12 if dtype is torch.float64 else 2e-6) * (255 if name == "megvii" else 1)
    torch.testing.assert_close(maps.double(), expected, atol=tolerance, rtol=0)
    assert weights.flatten().tolist() == [w for _, w in slow]
    empty = expected.view(*weights.shape, -1).abs().amax(-1) == 0
    assert not weights[empty].any() or name == "unbiased"  # a tail may underflow


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("sigma", [6.0, (4.9, 3.0)])
def test_simcc_is_the_loop(sigma: Any, normalize: bool) -> None:
    xy, split = points(), 2.5
    got = encode_simcc(xy, (W, H), sigma=sigma, split=split, normalize=normalize)
    sx, sy = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    nx, ny = round(W * split), round(H * split)
    assert got.x.shape == (2, 11, nx)
    assert got.y.shape == (2, 11, ny)
    for n, (x, y) in enumerate(POINTS):
        lines = [torch.zeros(nx, dtype=torch.float64), torch.zeros(ny, dtype=torch.float64)]
        drawn = math.isfinite(x) and math.isfinite(y)
        if drawn:
            centers = round(x * split), round(y * split)
            drawn = all(
                -3 * s - 1 <= c < m + 3 * s
                for c, m, s in zip(centers, (nx, ny), (sx, sy), strict=True)
            )
        if drawn:
            for line, c, s in zip(lines, centers, (sx, sy), strict=True):
                for i in range(len(line)):
                    line[i] = math.exp(-((i - c) ** 2) / (2 * s * s))
                    line[i] /= s * math.sqrt(2 * math.pi) if normalize else 1
        b, k = divmod(n, 11)
        torch.testing.assert_close(got.x[b, k], lines[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(got.y[b, k], lines[1], atol=1e-12, rtol=0)
        assert got.weights[b, k] == float(drawn)


@pytest.mark.parametrize("kernel", [3, 5, 7, 11, 17])
def test_megvii_is_opencv(kernel: int) -> None:
    cv2 = pytest.importorskip("cv2")
    for x, y in [(6, 8), (0, 0), (1, 15), (12, 2)]:
        one = torch.zeros(H, W).numpy()
        one[y, x] = 1
        expected = torch.from_numpy(cv2.GaussianBlur(one, (kernel, kernel), 0))
        expected *= 255 / expected.max()
        got = encode_megvii(torch.tensor([[[x + 0.9, y + 0.1]]]), (W, H), kernel=kernel)
        torch.testing.assert_close(got.heatmaps[0, 0], expected, atol=1e-3, rtol=0)


def inner(batch: int, joints: int, seed: int = 3) -> Tensor:
    """Keypoints of 48 x 64 maps, at least five pixels from the border."""
    at = torch.rand(batch, joints, 2, generator=torch.Generator().manual_seed(seed))
    return 5 + at * torch.tensor([37.0, 53.0])


@pytest.mark.parametrize(
    ("encode", "method", "tolerance"),
    [
        (encode_gaussian, "argmax", 0.5001),
        (encode_unbiased, "argmax", 0.5001),
        (encode_unbiased, "shift", 0.2501),
        (encode_unbiased, "dark", 1e-3),
        (encode_unbiased, "udp", 1e-3),
        (encode_udp, "udp", 0.02),  # the patch's edge reaches into the blur
        (encode_udp_combined, "udp_combined", 1e-4),
    ],
)
def test_round_trip(encode: Callable[..., Any], method: str, tolerance: float) -> None:
    xy = inner(4, 17)
    found = decode_heatmaps(encode(xy, (48, 64)).heatmaps, method)
    assert found.valid.all()
    torch.testing.assert_close(found.xy, xy, atol=tolerance, rtol=0)


def test_gaussian_decodes_to_the_nearest_pixel() -> None:
    xy = inner(4, 17)
    found = decode_heatmaps(encode_gaussian(xy, (48, 64)).heatmaps, "argmax")
    assert torch.equal(found.xy, torch.floor(xy + 0.5))
    assert (found.score == 1).all()


def test_megvii_round_trip() -> None:
    """Truncated, then half a pixel more; away from the border no quarter is added."""
    xy = 12 + (inner(4, 17) - 5) * 0.6
    found = decode_heatmaps(encode_megvii(xy, (48, 64)).heatmaps, "megvii", compat="megvii")
    torch.testing.assert_close(found.xy, torch.floor(xy) + 0.5, atol=0, rtol=0)
    torch.testing.assert_close(found.score, torch.full_like(found.score, 1.5))


def test_simcc_round_trip() -> None:
    xy = inner(4, 17) * 4
    got = encode_simcc(xy, (192, 256))
    found = decode_simcc(got.x, got.y)
    torch.testing.assert_close(found.xy, torch.round(xy * 2) / 2, atol=0, rtol=0)
    assert (got.x.sum(-1) <= 1.0001).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
def test_visible(name: str, kind: torch.dtype) -> None:
    xy = inner(2, 3)
    flags = torch.tensor([[1, 0, 1], [0, 1, 1]]).to(kind)
    every, some = ALL[name](xy, (48, 64)), ALL[name](xy, (48, 64), flags)
    assert torch.equal(some.weights if name == "simcc" else some[1], flags.float())
    for full, part in zip(every[:-1], some[:-1], strict=True):
        kept = flags.float().repeat_interleave(full.shape[1] // 3, 1)
        assert torch.equal(part, full * kept.view(*kept.shape, *(1 for _ in full.shape[2:])))


def test_visible_values_are_the_weights() -> None:
    flags = torch.tensor([[0.49, 0.5, 0.8, 2.0, NAN]])
    maps, weights = encode_gaussian(inner(1, 5), (48, 64), flags)
    torch.testing.assert_close(weights, torch.tensor([[0.0, 0.5, 0.8, 2.0, 0.0]]))
    assert maps.amax((2, 3)).tolist() == [[0, 1, 1, 1, 0]]


@pytest.mark.parametrize("name", ["unbiased", "udp", "udp_combined"])
def test_gradients(name: str) -> None:
    xy = (inner(1, 3).double() / 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: MAPS[name](p, (12, 16)).heatmaps, xy)


@pytest.mark.parametrize("name", ["unbiased", "udp", "udp_combined"])
def test_gradients_of_lost_keypoints_are_zero(name: str) -> None:
    xy = points(torch.float32).requires_grad_()
    maps, weights = MAPS[name](xy, (W, H))
    maps.square().sum().backward()
    assert xy.grad is not None
    assert xy.grad.isfinite().all()
    assert not xy.grad[weights == 0].any()
    assert xy.grad[weights > 0].any()


@pytest.mark.parametrize("name", ["gaussian", "megvii", "simcc"])
def test_rounded_targets_have_no_gradient(name: str) -> None:
    assert not ALL[name](inner(1, 2).requires_grad_(), (48, 64))[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_half_keypoints_give_float_targets(name: str, dtype: torch.dtype) -> None:
    xy = inner(2, 3).to(dtype)
    for got, expected in zip(ALL[name](xy, (48, 64)), ALL[name](xy.float(), (48, 64)), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ALL)
def test_empty_and_strided(name: str) -> None:
    factor = 3 if name == "udp_combined" else 1
    assert ALL[name](torch.zeros(0, 4, 2), (5, 6))[0].shape[:2] == (0, 4 * factor)
    assert ALL[name](torch.zeros(2, 0, 2), (5, 6))[0].shape[:2] == (2, 0)
    assert ALL[name](torch.zeros(1, 1, 2), (1, 1))[-1].tolist() == [[1]]
    wide = inner(3, 4).transpose(0, 1)
    assert torch.equal(ALL[name](wide, (48, 64))[0], ALL[name](wide.contiguous(), (48, 64))[0])


@pytest.mark.parametrize("name", ALL)
def test_compiles(name: str) -> None:
    torch._dynamo.reset()
    xy, flags = inner(2, 3), torch.tensor([[1, 0, 1], [0, 1, 1]])
    compiled = torch.compile(ALL[name], fullgraph=True, backend="eager")
    got, expected = compiled(xy, (48, 64), flags), ALL[name](xy, (48, 64), flags)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


XY = torch.zeros(2, 3, 2)


@pytest.mark.parametrize("name", ALL)
def test_errors(name: str) -> None:
    encode = ALL[name]
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: encode(XY[0], (4, 5)), ValueError, r"xy must be \[B, K, 2\], got shape \(3, 2\)"),
        (lambda: encode(XY[..., :1], (4, 5)), ValueError, r"xy must be .* \(2, 3, 1\)"),
        (lambda: encode(XY.long(), (4, 5)), TypeError, "xy must be float32.* got int64"),
        (lambda: encode([[1, 2]], (4, 5)), TypeError, "xy must be a torch.Tensor, got list"),
        (lambda: encode(XY, 4), ValueError, r"size must be a pair \(W, H\), got 4"),
        (lambda: encode(XY, (4, 0)), ValueError, "size must be at least 1 x 1, got 4 x 0"),
        (lambda: encode(XY, (4.0, 5)), TypeError, "size must be two ints"),
        (lambda: encode(XY, (4, 5), XY), ValueError, r"visible must be \[B, K\] = \(2, 3\), got"),
        (lambda: encode(XY, (4, 5), XY[..., 0].cfloat()), TypeError, "visible must be real"),
    ]
    option = {"udp_combined": "radius_factor", "megvii": "kernel"}.get(name, "sigma")
    if name == "megvii":
        for value in (0, 4, 67):
            cases.append(
                (
                    lambda v=value: encode(XY, (4, 5), kernel=v),
                    ValueError,
                    f"kernel must be odd, from 1 to 65, got {value}",
                )
            )
        cases.append((lambda: encode(XY, (4, 5), kernel=3.0), TypeError, "kernel must be an int"))
    else:
        for value in (0.0, -1.0, INF, NAN):
            cases.append(
                (
                    lambda v=value: encode(XY, (4, 5), **{option: v}),
                    ValueError,
                    f"{option} must be positive and finite, got {value}",
                )
            )
    if name == "simcc":
        cases += [
            (lambda: encode(XY, (4, 5), split=0), ValueError, "split must be positive"),
            (
                lambda: encode(XY, (4, 5), split=0.01),
                ValueError,
                "at least 1 bin per axis, got 0 x",
            ),
            (
                lambda: encode(XY, (4, 5), sigma=(1, 2, 3)),
                ValueError,
                "sigma must be a number or a",
            ),
        ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
