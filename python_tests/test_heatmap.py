"""Heatmap decoding: the peers' numbers, the contract, and every back end against the oracle."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import facekernels as fk
from facekernels.ops import decode_heatmaps, decode_simcc
from facekernels.reference import decode_heatmaps as reference_decode
from facekernels.reference import decode_simcc as reference_simcc

NAN, INF = math.nan, math.inf
METHODS = ("argmax", "shift", "dark", "udp", "udp_combined", "megvii", "mspn")
COMPAT = [
    ("hrnet", "argmax"), ("hrnet", "shift"), ("mmpose", "argmax"), ("mmpose", "shift"),
    ("mmpose", "dark"), ("mmpose", "udp"), ("mmpose", "udp_combined"), ("mmpose", "megvii"),
    ("darkpose", "dark"), ("udp", "udp"), ("udp", "udp_combined"), ("vitpose", "udp"),
    ("megvii", "megvii"), ("mspn", "mspn"), ("face_alignment", "shift"),
]  # fmt: skip
BACKENDS = ("auto", "emulated")


def bump(x: float, y: float, height: int = 64, width: int = 48, sigma: float = 2.0) -> Tensor:
    columns = torch.arange(width, dtype=torch.float64)
    rows = torch.arange(height, dtype=torch.float64)[:, None]
    return torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma * sigma)).float()


def bumps(
    batch: int, joints: int, height: int, width: int, seed: int, noise: float = 0.02
) -> Tensor:
    gen = torch.Generator().manual_seed(seed)
    at = torch.rand(batch * joints, 2, generator=gen) * torch.tensor([width - 1.0, height - 1.0])
    maps = torch.stack([bump(float(x), float(y), height, width) for x, y in at])
    maps += noise * torch.randn(maps.shape, generator=gen)
    return maps.view(batch, joints, height, width)


def with_value(value: float) -> Tensor:
    maps = bump(20.3, 30.7)
    maps[5, 7] = value
    return maps


MAPS: dict[str, Tensor] = {
    "inside": bump(20.3, 30.7),
    "left": bump(0.4, 30.3),
    "one": bump(1.2, 30.3),
    "two": bump(2.2, 30.3),
    "corner": bump(47, 63),
    "zero": torch.zeros(64, 48),
    "constant": torch.full((64, 48), 0.5),
    "tie": bump(20.5, 10),
    "nan": with_value(NAN),
    "inf": with_value(INF),
}
PEERS: dict[str, dict[str, Any]] = {
    "hrnet": {"method": "shift", "compat": "hrnet"},
    "darkpose": {"method": "dark", "compat": "darkpose"},
    "mmpose_shift": {"method": "shift", "compat": "mmpose"},
    "mmpose_udp": {"method": "udp", "compat": "mmpose"},
    "vitpose": {"method": "udp", "compat": "vitpose", "kernel": 3},
    "megvii": {"method": "megvii", "compat": "mmpose"},
}
# What the public implementations gave for these maps.
CELLS: dict[str, list[tuple[float, float]]] = {
    "inside": [(20.25, 30.75), (20.29984, 30.70016), (20.25, 30.75), (20.30004, 30.69996),
               (20.30004, 30.69996), (20.75, 31.25)],
    "left": [(0, 30), (0, 30), (0, 30), (-0.5, 30.30004), (-0.5, 30.30004), (1, 30)],
    "one": [(1, 30), (1, 30), (1, 30.25), (1.66687, 30.30004), (1.02302, 30.30004), (2.25, 30.75)],
    "two": [(2.25, 30.25), (2.36215, 30.29984), (2.25, 30.25), (2.36416, 30.30004),
            (2.20004, 30.30004), (2.75, 30.75)],
    "corner": [(47, 63), (47, 63), (47, 63), (47.5, 63.5), (47.5, 63.5), (46.25, 62.25)],
    "zero": [(0, 0), (0, 0), (-1, -1), (NAN, NAN), (-1, -1), (0, 0)],
    "constant": [(0, 0), (0, 0), (0, 0), (-0.5, -0.5), (0, 0), (5.75, 5.75)],
    "tie": [(20.25, 10), (20.49975, 10), (20.25, 10), (20.5, 10), (20.5, 10), (20.75, 10.5)],
    "nan": [(0, 0), (0, 0), (7.25, 5.25), (NAN, NAN), (-1, -1), (0, 0)],
    "inf": [(7.25, 5.25), (NAN, NAN), (7.25, 5.25), (NAN, NAN), (7, 5), (0, 0)],
}  # fmt: skip


def close(a: Tensor, b: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(a, b.to(a.dtype), rtol=0, atol=atol, equal_nan=True)


# ---- The peers' numbers (D1, D9, D10)


@pytest.mark.parametrize("name", ["auto", "emulated", "reference"])
@pytest.mark.parametrize("column", range(len(PEERS)), ids=list(PEERS))
@pytest.mark.parametrize("row", list(CELLS))
def test_numbers_of_the_peers(row: str, column: int, name: str) -> None:
    with fk.backend(name):
        got = decode_heatmaps(MAPS[row][None, None], **list(PEERS.values())[column])
    close(got.xy[0, 0], torch.tensor(CELLS[row][column]))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_zero_map_after_another_joint(name: str) -> None:
    maps = torch.stack((bump(46, 62), MAPS["zero"]))[None]
    with fk.backend(name):
        got = [decode_heatmaps(maps, **peer).xy[0, 1] for peer in PEERS.values()]
    for xy, expected in zip(got, [(0, 0), (0, 0), (-1, -1), (NAN, NAN), None, (0, 0)], strict=True):
        if expected is not None:
            close(xy, torch.tensor(expected))
    # transformers reads the neighbour. Its y is the rounding error of a sum of four logarithms,
    # 1 / 32 pixel per unit in the last place of NumPy's logf, which differs between processors.
    close(got[4][0], torch.tensor(-0.5))
    assert abs(float(got[4][1]) + 1.3125) < 0.05


@pytest.mark.parametrize("name", BACKENDS)
def test_face_alignment(name: str) -> None:
    cases = [
        (bump(20.3, 30.7, 64, 64), (20.75, 31.25)),
        (bump(100.3, 100.7, 128, 128), (100.5, 101.5)),
        (bump(20.3, 30.7, 64, 48), (20.75, 23.75)),
    ]
    with fk.backend(name):
        for maps, expected in cases:
            got = decode_heatmaps(maps[None, None], "shift", compat="face_alignment")
            close(got.xy[0, 0], torch.tensor(expected))


@pytest.mark.parametrize("name", BACKENDS)
def test_scores_where_nothing_is_found(name: str) -> None:
    with fk.backend(name):
        zero = decode_heatmaps(MAPS["zero"][None, None], "shift", compat="hrnet")
        lost = decode_heatmaps(MAPS["nan"][None, None], "shift", compat="hrnet")
        megvii = decode_heatmaps(MAPS["zero"][None, None], "megvii", compat="mmpose")
    assert zero.score.item() == 0
    assert not zero.valid.item()
    assert math.isnan(lost.score.item())
    assert not lost.valid.item()
    assert math.isnan(megvii.score.item())


@pytest.mark.parametrize("name", BACKENDS)
def test_megvii_adds_half_a_pixel_only_where_it_refines(name: str) -> None:
    maps = torch.stack((255 * bump(20.3, 30.7), 255 * bump(0.0, 30.3), 255 * bump(20.3, 0.0)))
    with fk.backend(name):
        got = decode_heatmaps(maps[None], "megvii", kernel=3)
    assert got.xy[0].tolist() == [[20.75, 31.25], [1, 30], [20, 1]]
    # The zeros around the map push the blurred maximum inwards, to where nothing is refined.
    close(got.score, maps.amax((1, 2))[None] / 255 + 0.5, 1e-5)


@pytest.mark.parametrize("name", BACKENDS)
def test_mspn_moves_towards_the_second_maximum(name: str) -> None:
    maps = torch.zeros(1, 1, 32, 24)
    maps[0, 0, 20, 10], maps[0, 0, 16, 13] = 1.0, 0.9
    with fk.backend(name):
        got = decode_heatmaps(maps, "mspn", kernel=1)
    # The second maximum lies (3, -4) away: 5 pixels.
    close(got.xy[0, 0], torch.tensor([10 + 0.25 * 3 / 5 + 0.5, 20 - 0.25 * 4 / 5 + 0.5]), 1e-5)
    assert got.score.item() == pytest.approx(1 / 255 + 0.5)


@pytest.mark.parametrize("name", BACKENDS)
def test_offset_maps_are_read_at_the_disc(name: str) -> None:
    disc = bump(30, 20, 48, 64, sigma=4.0)
    maps = torch.stack((disc, torch.full_like(disc, 0.25), torch.full_like(disc, -0.5)))[None]
    with fk.backend(name):
        got = decode_heatmaps(maps, "udp_combined", radius_factor=0.0625)
        peer = decode_heatmaps(maps, "udp_combined", radius_factor=0.0625, compat="udp")
    assert got.xy[0, 0].tolist() == [31, 18]  # radius 4 = 64 / 16
    assert peer.xy[0, 0].tolist() == [30.75, 18.5]  # radius 3 = 48 / 16


# ---- Back ends against the oracle (D2, D11)


@pytest.mark.parametrize("kernel", [11, 17])
@pytest.mark.parametrize("shape", [(16, 17, 64, 48), (4, 17, 96, 72), (4, 68, 64, 64)])
def test_agrees_with_the_full_map_reference(shape: tuple[int, ...], kernel: int) -> None:
    maps = bumps(*shape, seed=kernel)
    for method in ("dark", "udp"):
        got = decode_heatmaps(maps, method, kernel=kernel)
        xy, score, valid = reference_decode(maps.double(), method, kernel=kernel)
        close(got.xy, xy)
        assert torch.equal(got.score.double(), score)
        assert torch.equal(got.valid, valid)


def test_shift_equals_the_loop_over_keypoints() -> None:
    maps = bumps(16, 17, 64, 48, seed=3)
    for compat in ("hrnet", "mmpose"):
        got = decode_heatmaps(maps, "shift", compat=compat).xy
        for b in range(16):
            for k in range(17):
                h = maps[b, k]
                y, x = divmod(int(h.argmax()), 48)
                inside_x, inside_y = 1 < x < 47, 1 < y < 63
                both = inside_x and inside_y
                do_x = both if compat == "hrnet" else inside_x and 0 < y < 64
                do_y = both if compat == "hrnet" else inside_y and 0 < x < 48
                px = x + (0.25 * float(torch.sign(h[y, x + 1] - h[y, x - 1])) if do_x else 0)
                py = y + (0.25 * float(torch.sign(h[y + 1, x] - h[y - 1, x])) if do_y else 0)
                assert got[b, k].tolist() == [px, py]


def difficult(dtype: torch.dtype, joints: int = 12) -> Tensor:
    """Small odd maps: faint, negative, infinite, NaN, constant, at the border, with ties."""
    maps = bumps(1, joints, 19, 13, seed=7, noise=0.0)[0]
    maps[1] *= 0.004  # the lower clamp of UDP acts
    maps[2] *= 120  # and the upper one
    maps[3] = -maps[3] - 0.1
    maps[4, 5, 6] = INF
    maps[5, 3, 3] = NAN
    maps[6] = 0.5
    maps[7] = NAN
    maps[8] = bump(0, 0, 19, 13)
    maps[9] = bump(12, 18, 19, 13)
    maps[10] = (8 * maps[10]).round() / 8
    maps[11] = 0
    return maps[None].to(dtype)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("method", METHODS)
def test_difficult_maps(method: str, dtype: torch.dtype, name: str) -> None:
    maps = difficult(dtype)
    with fk.backend(name):
        got = decode_heatmaps(maps, method, kernel=7)
    xy, score, valid = reference_decode(maps.double(), method, kernel=7)
    assert got.xy.dtype == got.score.dtype == (dtype if dtype is torch.float64 else torch.float32)
    # A blurred plateau has several maxima, of which rounding chooses one; a NaN inside the map
    # leaves blurred methods without a surrounding.
    keep = torch.ones_like(valid)
    if method in ("mspn", "megvii", "udp_combined"):
        keep[..., [i for i in (4, 5, 6, 10) if i < keep.shape[1]]] = False
    if method == "mspn":  # in a corner two neighbours are second by symmetry
        keep[..., 8:10] = False
    close(got.xy[keep], xy[keep], 2e-4)
    close(got.score[keep], score[keep], 1e-3)
    assert torch.equal(got.valid, valid)
    if name == "auto":
        assert got.xy.isfinite().all()


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("compat", "method"), COMPAT)
def test_compat_modes_agree_with_the_reference(compat: str, method: str, name: str) -> None:
    maps = bumps(2, 6, 21, 18, seed=5, noise=0.0)
    maps[0, 3] = 0
    with fk.backend(name):
        got = decode_heatmaps(maps, method, kernel=5, compat=compat)
    xy, score, valid = reference_decode(maps, method, kernel=5, compat=compat)
    close(got.xy, xy, 2e-4)
    close(got.score, score, 1e-5)
    assert torch.equal(got.valid, valid)


@pytest.mark.parametrize("name", BACKENDS)
def test_large_maps_and_layouts(name: str) -> None:
    maps = bumps(1, 3, 70, 66, seed=11)
    for method in ("shift", "dark", "mspn"):
        xy, score, valid = reference_decode(maps, method)
        wide = maps.new_full((1, 5, 72, 69), 9.0)
        wide[:, 1:4, 1:71, 2:68] = maps
        layouts = {
            "contiguous": maps,
            "channels_last": maps.contiguous(memory_format=torch.channels_last),
            "sliced": wide[:, 1:4, 1:71, 2:68],
            "transposed": maps.mT.contiguous().mT,
            "expanded": maps.expand(2, -1, -1, -1),
        }
        for layout in layouts.values():
            with fk.backend(name):
                got = decode_heatmaps(layout, method)
            close(got.xy[:1], xy)
            close(got.score[:1], score, 1e-6)
            assert torch.equal(got.valid[:1], valid)


VARIANT_CHECK = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from facekernels import _native
assert _native.C.build_info()["cpu_variant"] == sys.argv[2]
import test_heatmap as t
for method in t.METHODS:
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        t.test_difficult_maps(method, dtype, "auto")
t.test_large_maps_and_layouts("auto")
t.test_agrees_with_the_full_map_reference((2, 17, 64, 48), 11)
t.test_simcc_agrees_with_the_reference("auto")
"""


@pytest.mark.parametrize("variant", ["baseline", "avx2", "avx512"])
def test_every_cpu_variant(variant: str) -> None:
    flags = {"baseline": "", "avx2": " avx2 ", "avx512": " avx512dq "}[variant]
    try:
        with open("/proc/cpuinfo") as file:
            supported = flags in file.read()
    except OSError:
        supported = not flags
    if not supported:
        pytest.skip(f"this processor has no {variant}")
    done = subprocess.run(
        [sys.executable, "-c", VARIANT_CHECK, os.path.dirname(__file__), variant],
        env={**os.environ, "FACEKERNELS_CPU_VARIANT": variant},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_half_precision_stays_close() -> None:
    maps = bumps(4, 17, 64, 48, seed=9, noise=0.0)
    for dtype, atol in ((torch.float16, 1e-2), (torch.bfloat16, 8e-2)):
        inside = decode_heatmaps(maps.to(dtype), "dark").xy
        expected = decode_heatmaps(maps, "dark").xy
        moved = (inside - expected).abs().amax(-1)
        # bfloat16 has ties at the top: the maximum may be the neighbour.
        assert float(moved.median()) < atol
        if dtype is torch.float16:
            assert float(moved.max()) < atol


# ---- The contract (D3, D4, D5, D6)


@pytest.mark.parametrize("method", METHODS)
def test_input_is_not_written(method: str) -> None:
    maps = difficult(torch.float32)
    before = maps.clone()
    decode_heatmaps(maps, method, kernel=5)
    assert torch.equal(maps.view(torch.int32), before.view(torch.int32))


@pytest.mark.parametrize("method", [m for m in METHODS if m != "udp_combined"])
def test_joints_do_not_influence_each_other(method: str) -> None:
    maps = difficult(torch.float32)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    straight, shuffled = (decode_heatmaps(m, method) for m in (maps, maps[:, order]))
    for a, b in zip(straight, shuffled, strict=True):
        torch.testing.assert_close(a[:, order], b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("method", ["argmax", "dark"])
def test_mirrored_maps_give_mirrored_points(method: str) -> None:
    maps = bumps(4, 17, 64, 48, seed=13)
    straight, mirrored = decode_heatmaps(maps, method).xy, decode_heatmaps(maps.flip(-1), method).xy
    close(mirrored[..., 0], 47 - straight[..., 0])
    close(mirrored[..., 1], straight[..., 1])


def test_udp_round_trip() -> None:
    # Input 192 x 256, map 48 x 64: UDP's unit is the distance between pixel centres.
    scale = torch.tensor([191 / 47, 255 / 63])
    # Near the border the zeros outside bias a wide blur: a third of an input pixel for 11 taps.
    for point, kernel in (((96.0, 128.0), 11), ((180.0, 240.0), 3)):
        at = torch.tensor(point) / scale
        maps = bump(float(at[0]), float(at[1]))[None, None]
        got = decode_heatmaps(maps, "udp", kernel=kernel).xy[0, 0] * scale
        close(got, torch.tensor(point), 0.1)


@pytest.mark.parametrize("name", BACKENDS)
def test_validity(name: str) -> None:
    maps = torch.stack((bump(5, 5, 16, 12), 0.3 * bump(5, 5, 16, 12), -bump(5, 5, 16, 12)))[None]
    maps = torch.cat((maps, torch.full((1, 1, 16, 12), NAN)), 1)
    with fk.backend(name):
        free = decode_heatmaps(maps, invalid=(-7.0, 3.0))
        bound = decode_heatmaps(maps, threshold=0.3, invalid=(-7.0, 3.0))
    assert free.valid.tolist() == [[True, True, False, False]]
    assert bound.valid.tolist() == [[True, False, False, False]]  # 0.3 does not exceed 0.3
    assert bound.xy[0, 1:].tolist() == [[-7, 3]] * 3
    assert free.score[0, 2].item() <= 0
    assert math.isnan(free.score[0, 3].item())


def test_clamp() -> None:
    maps = bump(47, 63)[None, None]
    assert decode_heatmaps(maps, "udp").xy[0, 0].tolist() == [47, 63]
    close(decode_heatmaps(maps, "udp", clamp=False).xy[0, 0], torch.tensor([47.5, 63.5]))


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99),
    kernel=st.sampled_from((1, 3, 11, 31)),
    method=st.sampled_from(("argmax", "shift", "dark", "udp")),
)  # fmt: skip
def test_any_size(name: str, height: int, width: int, seed: int, kernel: int, method: str) -> None:
    gen = torch.Generator().manual_seed(seed)
    # Few different values: ties everywhere, and zeros.
    maps = torch.randint(0, 4, (1, 3, height, width), generator=gen).float() / 3
    with fk.backend(name):
        got = decode_heatmaps(maps, method, kernel=kernel)
    value = maps.flatten(2).amax(-1)
    assert torch.equal(got.score, value)
    assert torch.equal(got.valid, value > 0)
    first = (maps.flatten(2) == value[..., None]).int().argmax(-1)
    peak = torch.stack((first % width, first // width), -1).float()
    moved = (got.xy - peak).abs()[got.valid]
    assert moved.numel() == 0 or float(moved.max()) <= {"argmax": 0, "shift": 0.25}.get(method, 1)
    assert (got.xy[got.valid] >= 0).all()
    assert (got.xy[got.valid] <= torch.tensor([width - 1, height - 1])).all()


# ---- SimCC


def lines(seed: int = 2) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(2, 9, generator=gen) * n for n in (95, 127))
    xs, ys = torch.arange(96.0), torch.arange(128.0)
    simcc = torch.exp(-((xs - x[..., None]) ** 2) / 18), torch.exp(-((ys - y[..., None]) ** 2) / 18)
    simcc[0][0, 1] = 0
    simcc[1][0, 2, 5] = NAN
    simcc[0][0, 3] *= 0.004
    simcc[1][0, 4] = -1
    return simcc


@pytest.mark.parametrize("name", BACKENDS)
def test_simcc_agrees_with_the_reference(name: str) -> None:
    for method in ("argmax", "dark"):
        for dtype in (torch.float32, torch.float64, torch.float16):
            for compat in (None, "mmpose"):
                x, y = (line.to(dtype) for line in lines())
                if compat:
                    x, y = x[1:], y[1:]
                with fk.backend(name):
                    got = decode_simcc(x, y, method=method, compat=compat)
                expected = reference_simcc(x.double(), y.double(), method=method, compat=compat)
                close(got.xy, expected[0], 2e-4)
                close(got.score, expected[1], 1e-6)
                assert torch.equal(got.valid, expected[2])


@pytest.mark.parametrize("name", BACKENDS)
def test_simcc_values(name: str) -> None:
    x = torch.exp(-((torch.arange(384.0) - 195) ** 2) / 72).view(1, 1, -1)
    y = torch.exp(-((torch.arange(512.0) - 262.3) ** 2) / 72).view(1, 1, -1)
    with fk.backend(name):
        assert decode_simcc(x, y).xy[0, 0].tolist() == [97.5, 131]
        close(decode_simcc(x, y, method="dark").xy[0, 0], torch.tensor([97.5, 131.15]), 2e-3)
        lost = decode_simcc(0 * x, y, compat="mmpose")
        safe = decode_simcc(0 * x, y)
    assert lost.xy[0, 0].tolist() == [-0.5, -0.5]
    assert safe.xy[0, 0].tolist() == [-1, -1]
    assert not safe.valid.item()


# ---- Bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda h: decode_heatmaps(h[0]), ValueError,
         r"heatmaps must be \[B, K, H, W\], got shape \(3, 8, 6\)"),
        (lambda h: decode_heatmaps(h[0, 0, 0, 0]), ValueError, r"got shape \(\)"),
        (lambda h: decode_heatmaps(h.int()), TypeError, "heatmaps must be float32, .*, got int32"),
        (lambda h: decode_heatmaps(h.numpy()), TypeError, "must be a torch.Tensor, got ndarray"),
        (lambda h: decode_heatmaps(h.to_sparse()), ValueError, "must be a dense"),
        (lambda h: decode_heatmaps(h.to("meta")), ValueError, "CPU or a CUDA device, got meta"),
        (lambda h: decode_heatmaps(h[..., :0]), ValueError, "at least 1 x 1, got 8 x 0"),
        (lambda h: decode_heatmaps(h[:, :, :0]), ValueError, "at least 1 x 1, got 0 x 6"),
        (lambda h: decode_heatmaps(h, "drak"), ValueError, "must be one of 'argmax', .*'drak'"),
        (lambda h: decode_heatmaps(h, compat="openpose"), ValueError, "must be one of 'hrnet'"),
        (lambda h: decode_heatmaps(h, "dark", compat="hrnet"), ValueError,
         "compat='hrnet' goes with method 'argmax' or 'shift', got 'dark'"),
        (lambda h: decode_heatmaps(h, kernel=10), ValueError, "must be odd, from 1 to 65, got 10"),
        (lambda h: decode_heatmaps(h, kernel=-1), ValueError, "must be odd, from 1 to 65, got -1"),
        (lambda h: decode_heatmaps(h, kernel=67), ValueError, "from 1 to 65, got 67"),
        (lambda h: decode_heatmaps(h, "udp_combined", kernel=33), ValueError, "1 to 31, got 33"),
        (lambda h: decode_heatmaps(h, kernel=11.0), TypeError, "kernel must be an int, got float"),
        (lambda h: decode_heatmaps(h, threshold=NAN), ValueError, "threshold must be a number"),
        (lambda h: decode_heatmaps(h, invalid=0.0), ValueError, "invalid must be a pair"),
        (lambda h: decode_heatmaps(h[:, :2], "udp_combined"), ValueError,
         r"\[B, 3 K, H, W\] for 'udp_combined', got 2 maps"),
        (lambda h: decode_heatmaps(h, "udp_combined", radius_factor=0), ValueError,
         "radius_factor must be positive"),
        (lambda h: decode_simcc(h, h[0]), ValueError, r"x must be \[B, K, N\]"),
        (lambda h: decode_simcc(h[0], h[0, :2]), ValueError, r"\[B, K, N\] = \(3, 8, 6\)"),
        (lambda h: decode_simcc(h[0], h[0].double()), TypeError, "y must be float32 like x"),
        (lambda h: decode_simcc(h[0], h[0, :, :, :0]), ValueError, "y must have at least 1 bin"),
        (lambda h: decode_simcc(h[0], h[0], split=0), ValueError, "split must be positive"),
        (lambda h: decode_simcc(h[0], h[0], method="udp"), ValueError, "method must be one of"),
    ],
)  # fmt: skip
def test_bad_input(call: Callable[[Tensor], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(torch.rand(1, 3, 8, 6))


@pytest.mark.parametrize("name", ["auto", "emulated", "reference"])
def test_empty_batches(name: str) -> None:
    with fk.backend(name):
        for shape in ((0, 17, 8, 6), (2, 0, 8, 6)):
            got = decode_heatmaps(torch.rand(shape))
            assert got.xy.shape == (*shape[:2], 2)
            assert got.valid.dtype is torch.bool
        assert decode_heatmaps(torch.rand(2, 0, 8, 6), "udp", compat="vitpose").score.numel() == 0
        assert decode_simcc(torch.rand(0, 3, 8), torch.rand(0, 3, 9)).xy.shape == (0, 3, 2)


def test_results_do_not_require_grad() -> None:
    maps = bump(20.3, 30.7)[None, None].requires_grad_()
    got = decode_heatmaps(maps)
    assert not got.xy.requires_grad
    assert not got.score.requires_grad
    close(got.xy[0, 0], torch.tensor([20.29984, 30.70016]))


def test_compiles_into_one_graph() -> None:
    maps = bumps(1, 3, 16, 12, seed=1)

    def decode(h: Tensor) -> Tensor:
        return decode_heatmaps(h * 2.0, "dark").xy + 1

    compiled = torch.compile(decode, fullgraph=True, backend="aot_eager")
    close(compiled(maps), decode(maps), 0)
