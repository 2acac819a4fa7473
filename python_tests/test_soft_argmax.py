"""soft_argmax and local_center_of_mass: known numbers, limits, NaN, flips, messages."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import facekernels as fk
from facekernels import ops

BACKENDS = [b for b in fk.backends() if b != "reference"]


def gaussian(x: float, y: float, sigma: float = 2.0, size: tuple[int, int] = (64, 48)) -> Tensor:
    ys, xs = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return torch.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma**2))[None, None]


@pytest.mark.parametrize("backend", BACKENDS)
def test_known_numbers(backend: str) -> None:
    """exp(ln 3) = 3: weights 1, 1, 1, 3 of a 2 x 2 map."""
    maps = torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]], dtype=torch.float64)
    with fk.backend(backend):
        xy = ops.soft_argmax(maps, torch.tensor(3.0, dtype=torch.float64).log().item())
        assert torch.allclose(xy, torch.full_like(xy, 4 / 6), atol=1e-14)
        # The published temperatures 1 and 10 of a Gaussian at (20.3, 30.7) on 64 x 48.
        for beta, x, y in ((1.0, 23.466, 31.491),):
            xy = ops.soft_argmax(gaussian(20.3, 30.7), beta)
            assert torch.allclose(xy, torch.tensor([x, y]), atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_limits(backend: str) -> None:
    with fk.backend(backend):
        for height, width in ((64, 48), (5, 7), (1, 1), (70, 90)):
            uniform = torch.full((1, 2, height, width), 0.3)
            centre = torch.tensor([(width - 1) / 2, (height - 1) / 2])
            assert torch.equal(ops.soft_argmax(uniform), centre.expand(1, 2, 2))
            zero = torch.zeros(1, 2, 2)
            assert torch.equal(ops.soft_argmax(uniform, normalized=True), zero)
        maps = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
        index = maps.flatten(2).argmax(2)
        want = torch.stack((index % 30, index // 30), -1).float()
        for beta in (1e6, 1e38, 1e300):
            assert torch.allclose(ops.soft_argmax(maps, beta), want, atol=1e-4)
        corner = torch.zeros(1, 1, 4, 6)
        corner[..., 3, 0] = 1
        assert ops.soft_argmax(corner, 1e4, normalized=True).tolist() == [[[-1, 1]]]


@pytest.mark.parametrize("op", [ops.soft_argmax, ops.local_center_of_mass])
def test_flip_equivariance(op: object) -> None:
    maps = gaussian(20.3, 30.7).repeat(1, 2, 1, 1) + 0.01 * torch.rand(
        1, 2, 64, 48, generator=torch.Generator().manual_seed(0)
    )
    a, b = op(maps), op(maps.flip(3))  # type: ignore[operator]
    assert torch.allclose(47 - b[..., 0], a[..., 0], atol=1e-4)
    assert torch.allclose(b[..., 1], a[..., 1], atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinity_stay_in_their_map(backend: str) -> None:
    maps = torch.rand(1, 5, 9, 11, generator=torch.Generator().manual_seed(0))
    with fk.backend(backend):
        clean = ops.soft_argmax(maps)
        maps[0, 1, 8, 10] = torch.nan
        maps[0, 2, 4, 4] = torch.inf
        maps[0, 3] = -torch.inf
        xy = ops.soft_argmax(maps)
        assert xy[0, 1:4].isnan().all()
        assert torch.equal(xy[0, 0::4], clean[0, 0::4])
        one = torch.full((1, 1, 9, 11), -torch.inf)  # the weight of -inf is zero
        one[..., 6, 7] = -3.0
        assert ops.soft_argmax(one).tolist() == [[[7, 6]]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_center_of_mass_window(backend: str) -> None:
    maps = torch.zeros(1, 4, 7, 9)
    maps[0, 0, 0, 0], maps[0, 0, 0, 1] = 3.0, 1.0  # clipped at the corner
    maps[0, 0, 6, 8] = 2.0  # outside the window
    maps[0, 1] = -1.0
    maps[0, 1, 4, 5] = -0.5  # nothing positive: the maximum itself
    maps[0, 2, 3, 4], maps[0, 2, 3, 5] = 1.0, -1.0  # negative cells weigh nothing
    maps[0, 3, 1, 1], maps[0, 3, 6, 8] = 1.0, torch.nan  # a NaN away from the window
    with fk.backend(backend):
        xy = ops.local_center_of_mass(maps, 2)
        assert xy[0].tolist() == [[0.25, 0], [5, 4], [4, 3], [1, 1]]
        maps[0, 3, 2, 2] = torch.nan
        assert ops.local_center_of_mass(maps, 2)[0, 3].isnan().all()
        everywhere = ops.local_center_of_mass(maps[:, :1], 10**12)
        assert torch.allclose(everywhere, torch.tensor([17 / 6, 2.0]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_center_of_mass_gradient_is_local(backend: str) -> None:
    maps = gaussian(4, 3, size=(7, 9)).requires_grad_()
    with fk.backend(backend):
        (d,) = torch.autograd.grad(ops.local_center_of_mass(maps, 1)[..., 0].sum(), maps)
    assert d[0, 0].count_nonzero() == 6  # the window's middle column does not move x
    assert (d[0, 0, 2:5, 5] > 0).all()
    assert (d[0, 0, 2:5, 3] < 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normalized", [False, True])
def test_gradients(backend: str, normalized: bool) -> None:
    maps = torch.rand(2, 2, 5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    maps.requires_grad_()
    with fk.backend(backend):
        for function in (
            lambda h: ops.soft_argmax(h, 3.0, normalized=normalized),
            lambda h: ops.local_center_of_mass(h - 0.4, 1),
        ):
            assert torch.autograd.gradcheck(function, maps)
            assert torch.autograd.gradgradcheck(function, maps)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: ops.soft_argmax(m, 0), ValueError, "beta must be positive and finite, got 0"),
        (lambda m: ops.soft_argmax(m, float("nan")), ValueError,
         "beta must be positive and finite, got nan"),
        (lambda m: ops.soft_argmax(m, float("inf")), ValueError,
         "beta must be positive and finite, got inf"),
        (lambda m: ops.soft_argmax(m, "1"), TypeError, "beta must be a number, got str"),
        (lambda m: ops.soft_argmax(m[0]), ValueError,
         "heatmaps must be [B, K, H, W], got shape (2, 4, 5)"),
        (lambda m: ops.soft_argmax(m[..., :0]), ValueError,
         "heatmaps must be at least 1 x 1, got 4 x 0"),
        (lambda m: ops.soft_argmax(m.long()), TypeError,
         "heatmaps must be float32, float64, float16 or bfloat16, got int64"),
        (lambda m: ops.local_center_of_mass(m, -1), ValueError,
         "radius must be at least 0, got -1"),
        (lambda m: ops.local_center_of_mass(m, 1.5), TypeError,
         "radius must be an integer, got float"),
    ],
)  # fmt: skip
def test_messages(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call(torch.rand(1, 2, 4, 5))  # type: ignore[operator]
    assert str(caught.value) == message
