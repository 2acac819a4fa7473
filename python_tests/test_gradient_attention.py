"""Gradient attention beyond what test_ops.py generates: ties, zeros, models, bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import facekernels as fk
from facekernels import ops, reference
from facekernels.nn import gradient_attention
from facekernels.ops import gradient_attention_map


def network(classes: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.PReLU(), nn.Dropout(0.5),
        nn.Conv2d(6, 6, 3, padding=1), nn.PReLU(), nn.Flatten(), nn.Linear(6 * 64, classes),
    )  # fmt: skip


IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


# ---- the op


def test_ties_give_their_gradient_to_the_first_channel() -> None:
    grad = torch.tensor([1.0, -2.0, 2.0, -2.0]).view(1, 4, 1, 1).requires_grad_()
    gradient_attention_map(grad).sum().backward()
    assert grad.grad is not None
    assert grad.grad.flatten().tolist() == [0, -1, 0, 0]


@pytest.mark.parametrize("normalize", ["none", "max", "minmax", "sum", "l2"])
@pytest.mark.parametrize("reduce", ["absmax", "abssum", "l2", "gradcam"])
def test_zeros_stay_zeros_and_have_finite_gradients(reduce: str, normalize: str) -> None:
    grad = torch.zeros(2, 3, 4, 4, requires_grad=True)
    features = torch.ones(2, 3, 4, 4) if reduce == "gradcam" else None
    out = gradient_attention_map(grad, features, reduce=reduce, normalize=normalize)
    assert not out.any()
    out.sum().backward()
    assert grad.grad is not None
    assert grad.grad.isfinite().all()


@pytest.mark.parametrize("reduce", ["absmax", "abssum", "l2"])
def test_nan_stays_at_its_position(reduce: str) -> None:
    for channel in range(5):
        grad = torch.ones(1, 5, 3, 3)
        grad[0, channel, 1, 2] = float("nan")
        out = gradient_attention_map(grad, reduce=reduce)
        assert out.isnan().nonzero().tolist() == [[0, 0, 1, 2]]


def test_scaling_the_gradient_scales_the_map() -> None:
    grad = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(2))
    for reduce in ("absmax", "abssum", "l2"):
        once = gradient_attention_map(grad, reduce=reduce)
        assert torch.equal(gradient_attention_map(grad * 4, reduce=reduce), once * 4)
        scaled = gradient_attention_map(grad * 4, reduce=reduce, normalize="max")
        assert torch.equal(scaled, gradient_attention_map(grad, reduce=reduce, normalize="max"))


@pytest.mark.parametrize("reduce", ["absmax", "abssum", "l2", "gradcam"])
@pytest.mark.parametrize("normalize", ["none", "max", "minmax", "sum", "l2"])
def test_second_derivatives(reduce: str, normalize: str) -> None:
    gen = torch.Generator().manual_seed(3)
    grad = torch.randn(2, 3, 3, 4, generator=gen, dtype=torch.float64)
    grad = (grad + grad.sign() / 4).requires_grad_()
    inputs: tuple[Tensor, ...] = (grad,)
    if reduce == "gradcam":
        features = torch.rand(2, 3, 3, 4, generator=gen, dtype=torch.float64) + 0.5
        inputs = (grad, features.requires_grad_())

    def function(*tensors: Tensor) -> Tensor:
        return gradient_attention_map(*tensors, reduce=reduce, normalize=normalize, size=(5, 3))

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


BAD: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ((torch.ones(3, 4, 4),), {}, ValueError, r"grad must be \[B, C, H, W\], got shape \(3, 4, 4\)"),
    ((torch.ones(1, 3, 4, 4).int(),), {}, TypeError, "grad must be float32, .* got int32"),
    ((torch.ones(1, 0, 4, 4),), {}, ValueError, "grad must be at least 1 x 1 x 1"),
    ((torch.ones(1, 3, 4, 4),), {"reduce": "mean"}, ValueError, "reduce must be one of 'absmax'"),
    ((torch.ones(1, 3, 4, 4),), {"normalize": "x"}, ValueError, "normalize must be one of 'none'"),
    ((torch.ones(1, 3, 4, 4),), {"reduce": "gradcam"}, ValueError, "'gradcam' needs features"),
    ((torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)), {}, ValueError, "features are for reduce"),
    (
        (torch.ones(1, 3, 4, 4), torch.ones(1, 2, 4, 4)), {"reduce": "gradcam"},
        ValueError, r"features must be \[B, C, H, W\] like grad = \(1, 3, 4, 4\)",
    ),
    (
        (torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4).double()), {"reduce": "gradcam"},
        TypeError, r"features must have the dtype of grad \(float32\), got float64",
    ),
    ((torch.ones(1, 3, 4, 4),), {"size": (0, 4)}, ValueError, "size must be at least 1 x 1"),
    ((torch.ones(1, 3, 4, 4),), {"size": 2.5}, TypeError, r"size must be \(height, width\)"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "options", "error", "message"), BAD)
def test_bad_input(
    args: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gradient_attention_map(*args, **options)


# ---- of a model


def test_a_linear_model_gives_its_weights() -> None:
    """gabn.md 2h.1: the map of logit y is max_c |W_y|."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
    labels = torch.tensor([2, 0, 3])
    got = gradient_attention(model, IMAGES, labels=labels)
    weight = model[1].weight.detach().view(4, 3, 8, 8)
    assert torch.equal(got, weight[labels].abs().amax(1, keepdim=True))


@pytest.mark.parametrize("target", ["logit", "loss", "logit_margin"])
def test_targets(target: str) -> None:
    model = network().eval()
    labels = torch.tensor([1, 3, 0])
    for i in range(3):
        image = IMAGES[i : i + 1].clone().requires_grad_()
        logits = model(image)[0]
        own, y = logits[labels[i]], int(labels[i])
        value = {
            "logit": own,
            "loss": logits.logsumexp(0) - own,
            "logit_margin": own - torch.cat([logits[:y], logits[y + 1 :]]).max(),
        }[target]
        (grad,) = torch.autograd.grad(value, image)
        got = gradient_attention(model, IMAGES, target, labels=labels)[i : i + 1]
        assert torch.allclose(got, grad.abs().amax(1, keepdim=True), atol=1e-6)


def test_without_labels_the_own_decision_is_explained() -> None:
    model = network().eval()
    labels = model(IMAGES).argmax(1)
    assert torch.equal(
        gradient_attention(model, IMAGES), gradient_attention(model, IMAGES, labels=labels)
    )


def test_grad_cam_at_a_layer() -> None:
    model = network().eval()
    labels = torch.tensor([1, 3, 0])
    features = model[:5](IMAGES)
    features.retain_grad()
    model[5:](features).gather(1, labels[:, None]).sum().backward()
    assert features.grad is not None
    weights = features.grad.mean((2, 3), keepdim=True)
    want = torch.relu((weights * features).sum(1, keepdim=True)).detach()
    for layer in ("4", model[4]):
        got = gradient_attention(model, IMAGES, layer=layer, labels=labels, reduce="gradcam")
        assert torch.allclose(got, want, atol=1e-6)


def snapshot(model: nn.Module) -> tuple[Any, ...]:
    hooks = [len(m._forward_hooks) for m in model.modules()]
    buffers = [b.clone() for b in model.buffers()]
    return [m.training for m in model.modules()], hooks, buffers


@pytest.mark.parametrize("layer", [None, "4"])
@pytest.mark.parametrize("fail", [False, True])
def test_the_model_is_left_as_it_was(layer: str | None, fail: bool) -> None:
    model = network().train()
    model[1].eval()  # a mode of its own
    model[0].weight.grad = torch.full_like(model[0].weight, 7.0)
    before = snapshot(model)
    images = IMAGES.clone()

    def broken(output: Tensor, labels: Tensor | None) -> Tensor:
        raise ArithmeticError("broken")

    if fail:
        with pytest.raises(ArithmeticError):
            gradient_attention(model, images, broken, layer)
    else:
        gradient_attention(model, images, layer=layer)
    after = snapshot(model)
    assert before[:2] == after[:2]
    assert all(torch.equal(a, b) for a, b in zip(before[2], after[2], strict=True))
    assert (model[0].weight.grad == 7).all()
    assert all(p.grad is None for p in list(model.parameters())[1:])
    assert images.grad is None
    assert not images.requires_grad


def test_training_through_the_map_reaches_weights_but_not_biases() -> None:
    model = network().train()
    out = gradient_attention(model, IMAGES, create_graph=True, normalize="max")
    assert out.requires_grad
    out.mean().backward()
    assert model[0].weight.grad is not None
    assert model[0].weight.grad.abs().sum() > 0
    bias = model[4].bias.grad
    assert bias is None or not bias.any()


def test_inside_no_grad_and_without_a_graph() -> None:
    model = network().eval()
    want = gradient_attention(model, IMAGES)
    assert not want.requires_grad
    with torch.no_grad():
        assert torch.equal(gradient_attention(model, IMAGES), want)
        assert not torch.is_grad_enabled()


def test_bad_models_and_targets() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"layer must be a name in the model, got 'conv1'"):
        gradient_attention(model, IMAGES, layer="conv1")
    with pytest.raises(ValueError, match="layer must be a module of the model"):
        gradient_attention(model, IMAGES, layer=nn.ReLU())
    with pytest.raises(TypeError, match=r"layer must give a \[B, C, H, W\] tensor"):
        gradient_attention(model, IMAGES, layer="6")
    with pytest.raises(ValueError, match="target must be one of logit, loss, logit_margin"):
        gradient_attention(model, IMAGES, "probability")
    with pytest.raises(ValueError, match=r"target must return \[B\] = \(3,\) values"):
        gradient_attention(model, IMAGES, lambda output, labels: output.sum())
    with pytest.raises(ValueError, match="target must depend on the images"):
        gradient_attention(model, IMAGES, lambda output, labels: output.detach().sum(1))
    with pytest.raises(ValueError, match=r"labels must be int64 \[B\] = \(3,\)"):
        gradient_attention(model, IMAGES, labels=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"images must be a floating-point \[B, C, H, W\] tensor"):
        gradient_attention(model, IMAGES[0])


def test_the_reference_agrees_for_a_model() -> None:
    model = network().eval()
    with fk.backend("reference"):
        want = gradient_attention(model, IMAGES, normalize="minmax", size=16)
    assert torch.allclose(gradient_attention(model, IMAGES, normalize="minmax", size=16), want)


@pytest.mark.parametrize("backend", [b for b in fk.backends() if b != "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 5), (3, 130, 7, 7), (1, 301, 1, 9), (2, 1, 8, 9), (1, 140, 64, 33)]
)
def test_grad_cam_of_channels_last(
    backend: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    grad, features = (
        torch.randn(shape, generator=generator).to(dtype).to(memory_format=torch.channels_last)
        for _ in range(2)
    )
    want = reference.gradient_attention_map(grad.double(), features.double(), reduce="gradcam")
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if dtype is torch.bfloat16 else {}
    with fk.backend(backend):
        got = ops.gradient_attention_map(grad, features, reduce="gradcam")
        mixed = ops.gradient_attention_map(grad.contiguous(), features, reduce="gradcam")
    torch.testing.assert_close(got, want.to(dtype), **tolerance)
    torch.testing.assert_close(mixed, want.to(dtype), **tolerance)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_grad_cam_without_a_gradient_compiles(layout: torch.memory_format) -> None:
    grad, features = (torch.randn(2, 20, 6, 5).to(memory_format=layout) for _ in range(2))
    lazy = torch._neg_view(grad)

    def function(grad: Tensor, features: Tensor) -> Tensor:
        return gradient_attention_map(grad, features, reduce="gradcam")

    compiled = torch.compile(function, fullgraph=True)
    assert torch.equal(compiled(grad, features), function(grad, features))
    assert torch.equal(function(lazy, features), function(-grad, features))


def test_grad_cam_copies_no_channels_last() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    wide = torch.randn(4, 20, 6, 5).to(memory_format=torch.channels_last)
    for grad, features in ((wide, wide), (wide[::2], wide[1::2])):
        with Recorder():
            gradient_attention_map(grad, features, reduce="gradcam")
    assert not [name for name in seen if "copy" in name or "clone" in name]
    assert "facekernels.gradient_attention_forward.default" in seen
