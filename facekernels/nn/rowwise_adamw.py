"""AdamW that leaves rows without a gradient alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class RowwiseAdamW(torch.optim.AdamW):
    """AdamW; of a parameter with a sparse gradient only the rows in that gradient are updated.

    A parameter with a dense gradient is updated by torch.optim.AdamW itself. For a sparse gradient
    of rows, as `nn.PartialFC` with ``sample_rate < 1`` or ``nn.Embedding(sparse=True)`` give,
    the same formulas are applied to the rows in the gradient; all other rows keep their values and
    moments, and do not decay. That is what the published Partial FC does with the classes that were
    not sampled. The bias corrections count the steps of the parameter, not those of a row.

    State per parameter is that of torch.optim.AdamW (``step``, ``exp_avg``, ``exp_avg_sq``), so
    state dicts are exchangeable and a parameter may change between sparse and dense gradients.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay of the first and second moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled weight decay.

    Raises:
        ValueError: an option is out of range, or a gradient is sparse in more than its rows.

    Source: Partial FC (An et al., arXiv 2203.15565); AdamW (Loshchilov and Hutter,
    arXiv 1711.05101).
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure` computes the loss again, with gradients enabled."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse = [
            (p, p.grad, group)
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None and p.grad.is_sparse
        ]
        for _, grad, group in sparse:
            if any(group.get(o) for o in ("amsgrad", "maximize", "capturable", "differentiable")):
                raise ValueError(
                    "amsgrad, maximize, capturable and differentiable must be False for a "
                    "parameter with a sparse gradient"
                )
            if grad.sparse_dim() != 1:
                raise ValueError(
                    f"a sparse gradient must have 1 sparse dimension, got {grad.sparse_dim()}"
                )
        try:
            for p, _, _ in sparse:
                p.grad = None
            # Unwrapped: this step runs the hooks of the optimizer already.
            inspect.unwrap(torch.optim.AdamW.step)(self)
        finally:
            for p, grad, _ in sparse:
                p.grad = grad
        for p, grad, group in sparse:
            self._step_rows(p, grad.coalesce(), group)
        return loss

    def _step_rows(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        state["step"] += 1
        count, lr, (beta1, beta2) = state["step"].item(), group["lr"], group["betas"]
        rows, g = grad.indices()[0], grad.values()
        value, first, second = (t[rows] for t in (p, state["exp_avg"], state["exp_avg_sq"]))
        value.mul_(1 - lr * group["weight_decay"])
        first.lerp_(g, 1 - beta1)
        second.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        root = (second.sqrt() / (1 - beta2**count) ** 0.5).add_(group["eps"])
        value.addcdiv_(first, root, value=-lr / (1 - beta1**count))
        for whole, part in ((p, value), (state["exp_avg"], first), (state["exp_avg_sq"], second)):
            whole.index_copy_(0, rows, part)
