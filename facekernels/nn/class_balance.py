"""Class weights from how often each class occurs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from facekernels import _check

SCHEMES = ("mek", "mean1", "sklearn")


def class_balance_weights(
    counts: Tensor | Sequence[int], scheme: str = "mek", *, names: Sequence[str] | None = None
) -> Tensor:
    """Weights inversely proportional to the classes' counts.

    With N the sum of K counts ``n_k``: ``"mek"`` is ``N / (10 n_k)``, the released code of Mine
    Extra Knowledge; ``"mean1"`` the same divided by its mean; ``"sklearn"`` is ``N / (K n_k)``,
    scikit-learn's ``class_weight="balanced"``. They differ in scale only, which matters in a loss
    that is proportional to them (`RebalancedAttentionConsistency`) and not in one that normalises
    them (`RebalancedSmoothLabelLoss`).

    Args:
        counts: ``[K]`` samples of each class in the training set, at least 1 each.
        scheme: ``"mek"``, ``"mean1"`` or ``"sklearn"``.
        names: names of the classes for error messages.

    Returns:
        ``[K]`` in float64, on the device of counts.

    Raises:
        ValueError: a count is 0 or negative (the message names the class), counts is not ``[K]``,
            or the scheme is unknown.
    """
    _check.one_of("scheme", scheme, SCHEMES)
    n = torch.as_tensor(counts)
    if n.ndim != 1 or n.numel() == 0:
        raise ValueError(f"counts must be [K], got shape {_check.shape_of(n)}")
    if names is not None and len(names) != len(n):
        raise ValueError(f"names must have one name per count ({len(n)}), got {len(names)}")
    empty = (~(n > 0)).nonzero().flatten().tolist()
    if empty:
        of = ", ".join(f"{i} ({names[i]})" if names is not None else str(i) for i in empty)
        values = ", ".join(str(n[i].item()) for i in empty)
        raise ValueError(f"counts must be at least 1 for every class, got {values} of class {of}")
    n = n.double()
    weights = n.sum() / (10 * n)
    if scheme == "mean1":
        return weights / weights.mean()
    return weights if scheme == "mek" else weights * 10 / len(n)
