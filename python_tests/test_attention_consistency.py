"""Flip consistency beyond what test_ops.py generates: numbers, accuracy, layouts, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import facekernels as fk
from facekernels import reference
from facekernels.ops import cam_flip_consistency

BACKENDS = [b for b in fk.backends() if b != "reference"]


def views(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(0)
    first, second = (torch.randn(shape, generator=gen, dtype=torch.float64) for _ in range(2))
    return first.to(dtype), second.to(dtype)


def weights(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(
        dtype
    )


def published(features: Tensor, flipped: Tensor, weight: Tensor, class_weights: Tensor) -> Tensor:
    """The released order of work: class activation maps summed over channels, one of them resampled
    from right to left.
    """
    maps, other = ((weight[:, :, None, None] * f[:, None]).sum(2) for f in (features, flipped))
    batch, _, height, width = maps.shape
    x = torch.linspace(1, -1, width, dtype=maps.dtype).expand(height, width)
    y = torch.linspace(-1, 1, height, dtype=maps.dtype)[:, None].expand(height, width)
    grid = torch.stack((x, y), -1).expand(batch, height, width, 2)
    other = functional.grid_sample(
        other, grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    per_sample = (maps - other).square().mean((2, 3))
    return (per_sample * class_weights).sum(1).mean()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_published_order_of_work_gives_the_same(backend: str) -> None:
    features, flipped = views(4, 12, 7, 7)
    weight, class_weights = weights(7, 12), weights(7).abs()
    with fk.backend(backend):
        loss, per_class = cam_flip_consistency(features, flipped, weight, class_weights)
    want = published(features, flipped, weight, class_weights)
    assert torch.allclose(loss, want, rtol=1e-12, atol=0)
    assert torch.allclose((class_weights * per_class).sum(), want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_known_value_and_gradient(backend: str) -> None:
    """One row of two positions: E = (1, 2) - flip(3, 5) = (-4, -1), times 2, times 3."""
    first = torch.tensor([[[[1.0, 2.0]]]], requires_grad=True)
    second = torch.tensor([[[[3.0, 5.0]]]], requires_grad=True)
    with fk.backend(backend):
        out = cam_flip_consistency(first, second, torch.tensor([[2.0]]), torch.tensor([3.0]))
        out.loss.backward()
    assert out.per_class.tolist() == [(64 + 4) / 2]
    assert out.loss.item() == 3 * 34
    assert first.grad is not None
    assert second.grad is not None
    # dF = 2 w r W / HW with r = 2 E = (-8, -2); dF' is its mirror image, negated.
    assert first.grad.flatten().tolist() == [-48, -12]
    assert second.grad.flatten().tolist() == [12, 48]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_at_the_maps(backend: str) -> None:
    """With the identity as weight the features are the maps: dL/dH = 2 w E / (B H W)."""
    features, flipped = (v.requires_grad_() for v in views(3, 5, 7, 7))
    class_weights = weights(5).abs()
    with fk.backend(backend):
        loss = cam_flip_consistency(features, flipped, torch.eye(5).double(), class_weights).loss
        loss.backward()
    error = (features - flipped.flip(-1)).detach()
    want = 2 * class_weights[:, None, None] / (49 * 3) * error
    assert features.grad is not None
    assert flipped.grad is not None
    assert torch.allclose(features.grad, want, rtol=1e-12, atol=1e-15)
    assert torch.equal(flipped.grad, -features.grad.flip(-1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_symmetric_views_give_zero(backend: str) -> None:
    features, _ = views(2, 6, 5, 9, dtype=torch.float32)
    with fk.backend(backend):
        loss, per_class = cam_flip_consistency(
            features, features.flip(-1), weights(3, 6, dtype=torch.float32)
        )
    assert loss.item() == 0
    assert not per_class.any()


def test_nearly_equal_views_lose_no_digits() -> None:
    """A difference of class activation maps would leave about one digit here."""
    features, noise = views(2, 512, 7, 7, dtype=torch.float32)
    features = features + 100
    flipped = (features + noise / 128).flip(-1)
    weight = weights(7, 512, dtype=torch.float32)
    exact = reference.cam_flip_consistency(features.double(), flipped.double(), weight)[0].item()
    got = cam_flip_consistency(features, flipped, weight).loss.item()
    maps = [torch.einsum("kc,bchw->bkhw", weight, f) for f in (features, flipped)]
    late = (maps[0] - maps[1].flip(-1)).square().mean((0, 2, 3)).sum().item()
    assert abs(got - exact) <= 1e-6 * exact
    assert abs(late - exact) > 1e-6 * exact


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [3, 8])
def test_a_nan_stays_with_its_sample(backend: str, channels: int) -> None:
    features, flipped = views(3, channels, 4, 5, dtype=torch.float32)
    for layout in (torch.contiguous_format, torch.channels_last):
        broken = features.clone(memory_format=torch.contiguous_format)
        broken[1, 2, 3, 4] = float("nan")
        with fk.backend(backend):
            loss, per_class = cam_flip_consistency(
                broken.contiguous(memory_format=layout),
                flipped.contiguous(memory_format=layout),
                weights(2, channels, dtype=torch.float32),
                reduction="none",
            )
        assert loss.isnan().tolist() == [False, True, False]
        assert per_class.isnan().all(1).tolist() == [False, True, False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_one_view_needs_a_gradient(backend: str) -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        pair = [v.contiguous(memory_format=layout) for v in views(2, 6, 5, 4)]
        weight = weights(3, 6)
        both = [v.clone().requires_grad_() for v in pair]
        want = torch.autograd.grad(cam_flip_consistency(*both, weight).loss, both)
        for i in range(2):
            one = [v.clone().requires_grad_(i == j) for j, v in enumerate(pair)]
            with fk.backend(backend):
                (got,) = torch.autograd.grad(cam_flip_consistency(*one, weight).loss, one[i])
            assert torch.allclose(got, want[i], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("detach", [True, False])
def test_second_derivatives(reduction: str, detach: bool) -> None:
    features, flipped = (v.requires_grad_() for v in views(2, 3, 2, 3))
    weight, class_weights = weights(2, 3).requires_grad_(not detach), weights(2).abs()

    def function(*args: Tensor) -> tuple[Tensor, ...]:
        w = weight if detach else args[2]
        return tuple(
            cam_flip_consistency(
                args[0], args[1], w, class_weights, detach_weight=detach, reduction=reduction
            )
        )

    inputs = (features, flipped) if detach else (features, flipped, weight)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_a_penalty_on_the_gradient_reaches_the_features() -> None:
    """The second backward pass without create_graph goes through the kernels."""
    features, flipped = (v.requires_grad_() for v in views(2, 5, 3, 4))
    weight = weights(4, 5)

    def penalty(function: Any) -> tuple[Tensor, ...]:
        loss = function(features, flipped, weight)[0]
        first = torch.autograd.grad(loss, features, create_graph=True)[0]
        return torch.autograd.grad(first.square().sum() + loss, (features, flipped))

    for got, want in zip(
        penalty(cam_flip_consistency), penalty(reference.cam_flip_consistency), strict=True
    ):
        assert torch.allclose(got, want, rtol=1e-12, atol=1e-15)


def test_the_weight_is_a_constant_unless_asked_for() -> None:
    features, flipped = (v.requires_grad_() for v in views(2, 4, 3, 3))
    weight = weights(3, 4).requires_grad_()
    class_weights = weights(3).abs().requires_grad_()
    cam_flip_consistency(features, flipped, weight, class_weights).loss.backward()
    assert weight.grad is None
    assert class_weights.grad is None
    cam_flip_consistency(features, flipped, weight, detach_weight=False).loss.backward()
    assert weight.grad is not None


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_tokens_are_read_without_a_copy() -> None:
    tokens = [torch.randn(4, 49, 8, requires_grad=True) for _ in range(2)]
    weight = torch.randn(7, 8)

    def function(first: Tensor, second: Tensor) -> Tensor:
        maps = [t.mT.unflatten(2, (7, 7)) for t in (first, second)]
        return cam_flip_consistency(*maps, weight).loss

    with Recorder() as recorder:
        gradients = torch.autograd.grad(function(*tokens), tokens)
    assert not [n for n in recorder.seen if any(s in n for s in ("copy", "clone", "contiguous"))]
    assert "facekernels.attention_consistency_backward.default" in recorder.seen
    assert all(g.is_contiguous() for g in gradients)
    both = torch.cat(tokens).detach().mT.unflatten(2, (7, 7))
    with Recorder() as recorder:
        cam_flip_consistency(*both.chunk(2), weight)
    assert not [n for n in recorder.seen if any(s in n for s in ("copy", "clone", "contiguous"))]


def test_only_the_residual_is_kept() -> None:
    features, flipped = (v.requires_grad_() for v in views(2, 64, 4, 4, dtype=torch.float32))
    kept: list[int] = []

    def pack(t: Tensor) -> Tensor:
        kept.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        cam_flip_consistency(features, flipped, weights(3, 64), torch.ones(3))
    assert sorted(kept) == [3, 2 * 3 * 16, 3 * 64]


@pytest.mark.parametrize("backend", BACKENDS)
def test_sixteen_bits_under_autocast(backend: str) -> None:
    features, flipped = views(3, 16, 7, 7, dtype=torch.bfloat16)
    weight = weights(7, 16, dtype=torch.float32)
    features.requires_grad_()
    with fk.backend(backend), torch.autocast("cpu", dtype=torch.bfloat16):
        loss, per_class = cam_flip_consistency(features, flipped, weight)
        (gradient,) = torch.autograd.grad(loss, features)
    assert loss.dtype is per_class.dtype is torch.float32
    assert gradient.dtype is torch.bfloat16
    want = reference.cam_flip_consistency(features.double(), flipped.double(), weight)[0]
    assert torch.allclose(loss.double(), want, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch_is_the_mean_of_nothing(backend: str) -> None:
    features, flipped = (v.requires_grad_() for v in views(0, 4, 3, 3))
    with fk.backend(backend):
        loss, per_class = cam_flip_consistency(features, flipped, weights(2, 4))
        none = cam_flip_consistency(features, flipped, weights(2, 4), reduction="none")
        loss.backward()
    assert loss.isnan()
    assert per_class.isnan().all()
    assert none.loss.shape == (0,)
    assert none.per_class.shape == (0, 2)
    assert features.grad is not None
    assert features.grad.shape == (0, 4, 3, 3)


F, W = torch.ones(2, 3, 4, 5), torch.ones(7, 3)
BAD: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    (([1.0], F, W), {}, TypeError, "features must be a torch.Tensor, got list"),
    ((F.int(), F, W), {}, TypeError, "features must be float32, .* got int32"),
    ((F[0], F, W), {}, ValueError, r"features must be \[B, C, H, W\] .* got shape \(3, 4, 5\)"),
    ((F[:, :, :0], F, W), {}, ValueError, "features must be .* at least 1 x 1 x 1"),
    (
        (F, F[:, :2], W), {}, ValueError,
        r"features_flipped must be \[B, C, H, W\] like features = \(2, 3, 4, 5\)",
    ),
    (
        (F, F.double(), W), {}, TypeError,
        r"features_flipped must have the dtype of features \(float32\), got float64",
    ),
    ((F, F, W[:, :2]), {}, ValueError, r"weight must be \[K, C\] = \(K, 3\) .* got shape \(7, 2\)"),
    ((F, F, W[:0]), {}, ValueError, r"weight must be .* K at least 1, got shape \(0, 3\)"),
    ((F, F, W[0]), {}, ValueError, r"weight must be \[K, C\]"),
    (
        (F, F, W, torch.ones(6)), {}, ValueError,
        r"class_weights must be \[K\] = \(7\), got shape \(6\)",
    ),
    ((F, F, W, torch.ones(7).int()), {}, TypeError, "class_weights must be float32"),
    ((F, F, W), {"reduction": "sum"}, ValueError, "reduction must be one of 'mean', 'none'"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "options", "error", "message"), BAD)
def test_bad_input(
    args: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        cam_flip_consistency(*args, **options)


def test_the_binding_checks_again() -> None:
    forward = torch.ops.facekernels.attention_consistency_forward
    residual = torch.empty(2, 7, 4, 5)
    with pytest.raises(ValueError, match="both views must be contiguous"):
        forward(F, F.mT.contiguous().mT, W, None, residual, None, None, None)
    with pytest.raises(ValueError, match=r"residual must have shape \(2, 7, 4, 5\)"):
        forward(F, F, W, None, residual[:1], None, None, None)
    with pytest.raises(ValueError, match="must be given together"):
        forward(F, F, W, None, residual, None, torch.empty(()), None)
    backward = torch.ops.facekernels.attention_consistency_backward
    with pytest.raises(ValueError, match="d_features or d_flipped must be given"):
        backward(residual, W, None, None, None, None, None)
    with pytest.raises(ValueError, match="no gaps"):
        backward(residual, W, None, None, None, torch.empty(2, 5, 4, 5)[:, :3], None)
