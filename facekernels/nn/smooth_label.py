"""Label smoothing that gives rare classes more of the smoothed mass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from facekernels import _check


class RebalancedSmoothLabelLoss(nn.Module):
    """Re-balanced smooth label loss: cross-entropy with targets that keep ``1 - eps`` for the label
    and divide eps among the other classes by their weights.

    With labels y and weights w, the target is ``1 - eps`` for ``k = y`` and
    ``eps * w_k / sum_{j != y} w_j`` elsewhere; the loss is the mean of
    ``-(target * log_softmax(logits)).sum(1)``. Ordinary label smoothing would leave
    ``1 - eps + eps / K`` for the label. The scale of w does not matter.

    Args:
        class_weights: ``[K]`` positive weights of at least two classes, such as those of
            `class_balance_weights`.
        eps: smoothed mass in [0, 1]: 0.3 in the released Swin-T code (the default), 0.1 in the
            paper's recipe for ResNets.

    Attributes:
        targets: ``[K, K]``, one row per label, float64 for float64 weights. A buffer, not part of
            the state dict.

    Shape:
        ``forward(logits, labels)`` with ``[B, K]`` and int64 ``[B]``; a scalar in float32 (float64
        for float64 logits).

    Raises:
        TypeError: logits are not floating-point, or labels not int64.
        ValueError: a shape or value does not fit.

    Source: Zhang et al., NeurIPS 2023 ("Leave No Stone Unturned: Mine Extra Knowledge for
    Imbalanced Facial Expression Recognition").
    """

    targets: Tensor

    def __init__(self, class_weights: Tensor | Sequence[float], eps: float = 0.3) -> None:
        super().__init__()
        if not 0 <= eps <= 1:
            raise ValueError(f"eps must be in [0, 1], got {eps}")
        given = torch.as_tensor(class_weights).detach()
        weights = given.double()
        if weights.ndim != 1 or weights.numel() < 2:
            raise ValueError(
                f"class_weights must be [K] with K at least 2, got shape {_check.shape_of(weights)}"
            )
        if not bool(((weights > 0) & weights.isfinite()).all()):
            raise ValueError(f"class_weights must be positive and finite, got {weights.tolist()}")
        others = weights.repeat(len(weights), 1).fill_diagonal_(0)
        targets = eps * others / others.sum(1, keepdim=True)
        targets.fill_diagonal_(1 - eps)
        dtype = torch.promote_types(given.dtype, torch.get_default_dtype())
        self.register_buffer("targets", targets.to(dtype), persistent=False)
        self.eps = eps

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        _check.floating("logits", logits)
        _check.tensor("labels", labels)
        classes = len(self.targets)
        if logits.ndim != 2 or logits.shape[1] != classes:
            raise ValueError(f"logits must be [B, {classes}], got shape {_check.shape_of(logits)}")
        if labels.dtype is not torch.int64:
            raise TypeError(f"labels must be int64, got {str(labels.dtype)[6:]}")
        _check.shape("labels", labels, (logits.shape[0],), "[B]")
        exact = _check.wide_dtype(logits)
        log_probabilities = functional.log_softmax(logits, 1, dtype=exact)
        # Not indexing, which would take -1 for the last class.
        targets = functional.embedding(labels, self.targets).to(exact)
        # A logit of -inf costs nothing where nothing is expected.
        log_probabilities = log_probabilities.masked_fill(targets == 0, 0)
        return -(targets * log_probabilities).sum(1).mean()

    def extra_repr(self) -> str:
        return f"classes={len(self.targets)}, eps={self.eps}"
