"""The gradient attention map of a model, at its input or at one of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from facekernels.ops.gradient_attention import gradient_attention_map

Target = str | Callable[[Any, Tensor | None], Tensor]

TARGETS = ("logit", "loss", "logit_margin")


def gradient_attention(
    model: torch.nn.Module,
    images: Tensor,
    target: Target = "logit",
    layer: str | torch.nn.Module | None = None,
    create_graph: bool = False,
    *,
    labels: Tensor | None = None,
    reduce: str = "absmax",
    normalize: str = "none",
    size: tuple[int, int] | int | None = None,
) -> Tensor:
    """Where a model's decision is sensitive: the attention map of the gradient of a target.

    The targets of all samples are added and differentiated once, so every sample gets the gradient
    of its own target. For that to be true the model is in eval mode meanwhile (in train mode batch
    normalisation ties samples together); each module's mode is restored afterwards. Parameters'
    ``.grad`` is not touched, and no hook stays behind, also after an exception.

    Args:
        model: gives logits ``[B, classes]`` for images, or anything the callable target takes.
        images: ``[B, C, H, W]`` floating-point.
        target: ``"logit"``: the logit of the label; ``"loss"``: cross-entropy; ``"logit_margin"``:
            the label's logit less the largest other one; or ``target(output, labels)`` returning
            ``[B]`` numbers.
        layer: a module of the model or its name in ``model.named_modules()``: the map is taken at
            its output, which must be ``[B, C, H, W]``. None: at the images.
        create_graph: whether the map can be differentiated, to train the model through it.
        labels: int64 ``[B]``; None takes the model's own argmax for the named targets.
        reduce: see `facekernels.ops.gradient_attention_map`; ``"gradcam"`` uses the layer's output
            (or the images) as features.
        normalize: see there.
        size: see there; with a layer, the image's ``(H, W)`` gives a map to lay over it.

    Returns:
        ``[B, 1, H, W]`` of the images or the layer, or ``[B, 1, *size]``; detached unless
        `create_graph` is set.

    Raises:
        TypeError: an argument has another type, or the layer's output is not a tensor.
        ValueError: an unknown layer or target, labels or target values of another shape, or a
            target that does not depend on the layer.

    Source: RFM (Wang and Deng, CVPR 2021) and GABN (Huang et al., 2023), whose code and details
    are not public: the defaults are RFM's.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim != 4:
        got = (
            f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images)
        )
        raise TypeError(f"images must be a floating-point [B, C, H, W] tensor, got {got}")
    if not callable(target) and target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)} or callable, got {target!r}")
    module = _find(model, layer)
    with torch.enable_grad(), _eval_mode(model):
        # A leaf of its own: the caller's images are neither changed nor differentiated.
        source = images if create_graph and images.requires_grad else images.detach()
        at = source if source.requires_grad else source.requires_grad_()
        if module is None:
            output = model(at)
        else:
            output, at = _run(model, module, at)
        values = _values(target, output, labels, len(images))
        if not values.requires_grad:
            raise ValueError("target must depend on the images: its value has no gradient")
        try:
            (grad,) = torch.autograd.grad(values.sum(), at, create_graph=create_graph)
        except RuntimeError as error:
            if "not have been used" in str(error):
                where = "the images" if module is None else "the output of the layer"
                raise ValueError(f"target must depend on {where}, but does not") from None
            raise
        features = at if reduce == "gradcam" else None
        if not create_graph:
            features = None if features is None else features.detach()
        elif features is not None and features.dtype is not grad.dtype:
            features = features.to(grad.dtype)
        attention = gradient_attention_map(
            grad, features, reduce=reduce, normalize=normalize, size=size
        )
    return attention if create_graph else attention.detach()


def _find(model: torch.nn.Module, layer: str | torch.nn.Module | None) -> torch.nn.Module | None:
    if layer is None:
        return None
    modules: dict[str, torch.nn.Module] = dict(model.named_modules())
    if isinstance(layer, torch.nn.Module):
        if not any(layer is m for m in modules.values()):
            raise ValueError(
                f"layer must be a module of the model, got another {type(layer).__name__}"
            )
        return layer
    if layer not in modules:
        near = get_close_matches(layer, modules, n=3, cutoff=0.4) or [n for n in modules if n][:3]
        raise ValueError(
            f"layer must be a name in the model, got {layer!r}; near: {', '.join(near)}"
        )
    return modules[layer]


@contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    training = [m for m in model.modules() if m.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def _run(model: torch.nn.Module, module: torch.nn.Module, images: Tensor) -> tuple[Any, Tensor]:
    """The model's output and the output of one of its modules in the same graph."""
    seen: list[Any] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        output = model(images)
    finally:
        hook.remove()
    if not seen:
        raise ValueError("layer must run in the model's forward, but was not called")
    if len(seen) > 1:
        raise ValueError(f"layer must run once in the model's forward, but ran {len(seen)} times")
    at = seen[0]
    if not isinstance(at, Tensor) or at.ndim != 4:
        got = f"shape {tuple(at.shape)}" if isinstance(at, Tensor) else type(at).__name__
        raise TypeError(f"layer must give a [B, C, H, W] tensor, got {got}")
    return output, at


def _values(target: Target, output: Any, labels: Tensor | None, batch: int) -> Tensor:
    """``[B]`` target values."""
    if not isinstance(target, str):
        values = target(output, labels)
        if not isinstance(values, Tensor) or values.shape != (batch,):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"target must return [B] = ({batch},) values, got {got}")
        return values
    if not isinstance(output, Tensor) or output.ndim != 2:
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"target {target!r} needs logits [B, classes] from the model, got {what}")
    if labels is None:
        labels = output.detach().argmax(1)
    if labels.shape != (batch,) or labels.dtype is not torch.int64:
        raise ValueError(
            f"labels must be int64 [B] = ({batch},), got {str(labels.dtype)[6:]} "
            f"{tuple(labels.shape)}"
        )
    if target == "loss":
        return functional.cross_entropy(output, labels, reduction="none")
    own = output.gather(1, labels[:, None]).squeeze(1)
    if target == "logit":
        return own
    others = output.scatter(1, labels[:, None], -torch.inf)
    return own - others.amax(1)
