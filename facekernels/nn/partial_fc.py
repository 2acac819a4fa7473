"""Class centres with a margin softmax loss: sampled, and spread over the ranks of a group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from facekernels import _check
from facekernels.ops import margin_cross_entropy


class PartialFC(nn.Module):
    """Margin softmax loss over learned class centres, of which each step may sample a part.

    In training with ``sample_rate < 1`` a step uses the centres of its labels and a random choice
    of the others, ``int(sample_rate * classes)`` together (more where the labels alone are more).
    The gradient of ``weight`` is then sparse; `nn.RowwiseAdamW` updates only its rows. The module
    has nothing to do with the optimizer: the order of parameter groups does not matter, and
    no other parameter is touched. In eval mode all centres take part.

    With a process group each rank holds ``num_classes // world`` centres (the first ranks one more
    where that leaves a remainder). Embeddings and labels of all ranks are gathered, every rank
    computes the part of its centres, and all return the mean loss of the whole batch.

    Args:
        embedding_dim: D.
        num_classes: of all ranks together, at least 1.
        s: scale of the cosines.
        margins: ``(m1, m2, m3)``, see `facekernels.ops.margin_cross_entropy`.
        sample_rate: above 0, at most 1.
        gradient: ``"exact"`` or ``"straight_through"``, see there.
        group: the ranks that share the classes; None for one process.
        for_ddp: with a group, multiply the gradient of the embeddings by its size, because
            DistributedDataParallel around the backbone averages gradients, and the loss is the
            mean over all ranks already. Published. False gives the gradient of the loss itself.
        sparse_grad: give ``weight`` a sparse gradient where classes are sampled.
        keep_cosines: on the CPU, faster for B x classes numbers of memory; see the op.
        generator: chooses the sampled classes; on the device of ``weight``. None for torch's.

    Shape:
        embeddings ``[B, D]`` floating-point, cast to the dtype of ``weight``; labels ``[B]`` int64
        between 0 and num_classes - 1, or -1 for a row without a target. B must be the same on all
        ranks. Output: a scalar.

    State dict: ``weight``, ``[centres of this rank, D]``, initialised from N(0, 0.01).

    Raises:
        TypeError: an argument has another type.
        ValueError: an argument or a shape does not fit.

    Source: Partial FC (An et al., arXiv 2203.15565).
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        s: float = 64.0,
        margins: tuple[float, float, float] = (1.0, 0.0, 0.4),
        sample_rate: float = 1.0,
        gradient: str = "exact",
        group: dist.ProcessGroup | None = None,
        for_ddp: bool = True,
        sparse_grad: bool = True,
        keep_cosines: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("embedding_dim", embedding_dim), ("num_classes", num_classes)):
            if _check.integer(name, size) < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if not 0 < _check.number("sample_rate", sample_rate) <= 1:
            raise ValueError(f"sample_rate must be above 0 and at most 1, got {sample_rate}")
        self.embedding_dim, self.num_classes = embedding_dim, num_classes
        self.s, self.margins, self.gradient = s, margins, gradient
        self.sample_rate, self.sparse_grad, self.for_ddp = sample_rate, sparse_grad, for_ddp
        self.keep_cosines, self.group, self.generator = keep_cosines, group, generator
        self.world = 1 if group is None else dist.get_world_size(group)
        rank = 0 if group is None else dist.get_rank(group)
        share, rest = divmod(num_classes, self.world)
        self.first_class = share * rank + min(rank, rest)
        self.weight = nn.Parameter(torch.empty(share + (rank < rest), embedding_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the centres from N(0, 0.01) by torch's default generator."""
        nn.init.normal_(self.weight, std=0.01)

    def extra_repr(self) -> str:
        """Sizes and options, for `repr`."""
        return (
            f"{self.embedding_dim}, {self.num_classes}, s={self.s}, margins={self.margins}, "
            f"sample_rate={self.sample_rate}, gradient={self.gradient!r}, world={self.world}"
        )

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss."""
        _check.floating("embeddings", embeddings)
        _check.tensor("labels", labels)
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_dim:
            raise ValueError(
                f"embeddings must be [B, {self.embedding_dim}], "
                f"got shape {_check.shape_of(embeddings)}"
            )
        _check.shape("labels", labels, (embeddings.shape[0],), "[B]")
        if labels.dtype is not torch.int64:
            raise TypeError(f"labels must be int64, got {str(labels.dtype)[6:]}")
        embeddings = embeddings.to(self.weight.dtype)
        if self.world > 1:
            embeddings, labels = self._gathered(embeddings, labels)
        local = self._local(labels)
        return margin_cross_entropy(
            embeddings,
            self.weight,
            local,
            self.s,
            self.margins,
            sample_index=self.sample(local) if self.training and self.sample_rate < 1 else None,
            gradient=self.gradient,
            group=self.group if self.world > 1 else None,
            sparse_grad=self.sparse_grad,
            keep_cosines=self.keep_cosines,
        )

    def _local(self, labels: Tensor) -> Tensor:
        """Positions in this rank's centres; -1 for those of other ranks."""
        if self.world == 1:
            return labels
        if labels.is_cpu and bool(((labels < -1) | (labels >= self.num_classes)).any()):
            raise ValueError(f"labels must be between 0 and {self.num_classes - 1}, or -1")
        local = labels - self.first_class
        local = local.where((local >= 0) & (local < self.weight.shape[0]), -1)
        # -2 makes the loss NaN, as a wrong label does in one process.
        return local.where((labels >= -1) & (labels < self.num_classes), -2)

    @torch.no_grad()
    def sample(self, local: Tensor) -> Tensor:
        """The sorted rows of ``weight`` that take part: those of ``local`` (labels of this rank's
        classes, or -1), and as many others, drawn without replacement, as the rate asks for.
        """
        classes = self.weight.shape[0]
        count = int(self.sample_rate * classes)
        device = self.weight.device
        # One row more than there are classes takes the labels that are not here.
        score = torch.rand(classes + 1, device=device, generator=self.generator)
        score[local.where((local >= 0) & (local < classes), classes)] = 2.0
        score = score[:classes]
        if count < local.shape[0]:  # only then the labels may need more, and the host has to look
            count = max(count, int((score == 2).sum()))
        return score.topk(count).indices.sort().values

    def _gathered(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        all_labels = [torch.empty_like(labels) for _ in range(self.world)]
        dist.all_gather(all_labels, labels.contiguous(), group=self.group)
        scale = self.world if self.for_ddp else 1
        return _Gather.apply(embeddings, self.group, scale), torch.cat(all_labels)


class _Gather(torch.autograd.Function):
    """The rows of all ranks. What follows gives every rank the whole gradient, so that of a
    rank's own rows only has to be cut out.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, scale: int) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, x.contiguous(), group=group)
        ctx.first, ctx.rows, ctx.scale = dist.get_rank(group) * x.shape[0], x.shape[0], scale
        return torch.cat(parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.narrow(0, ctx.first, ctx.rows) * ctx.scale, None, None
