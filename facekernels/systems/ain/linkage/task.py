"""Training of the linkage network on ragged batches of subgraphs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from facekernels.ops import knn_graph, pivot_subgraphs
from facekernels.systems.ain.linkage.model import LinkageGCN, subgraph_inputs
from facekernels.systems.ain.linkage.rotation import random_rotation


class LinkageBatch(NamedTuple):
    """Subgraphs of some pivots, ready for `LinkageGCN.forward`."""

    x: Tensor
    """``[R, D]``."""
    indptr: Tensor
    indices: Tensor
    one_hop: Tensor
    """``[P, k1]``."""
    cosine: Tensor | None
    targets: Tensor
    """``[P, k1]`` int64: 1 where the neighbour is the same person."""


class LinkageData(L.LightningDataModule):
    """Every image is a pivot once per epoch; kNN graph and subgraphs are made here.

    Args:
        features: ``[N, D]``, one set of identities.
        labels: ``[N]`` int64.
        k_at_hop: neighbours and their neighbours.
        active_connection: links of each node.
        batch_size: pivots of a batch.
        knn: ``[N, k]`` int64; by default the exact graph by cosine.
        validation: features and labels of other identities, for `validate` and after each epoch.
        aggregator: of the network that will be trained.
        seed: of the order of pivots.
        workers: processes that make subgraphs ahead.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        *,
        k_at_hop: tuple[int, int] = (80, 10),
        active_connection: int = 10,
        batch_size: int = 16,
        knn: Tensor | None = None,
        validation: tuple[Tensor, Tensor] | None = None,
        aggregator: str = "mean",
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__()
        if len(features) != len(labels):
            raise ValueError(
                f"labels must be as many as features ({len(features)}), got {len(labels)}"
            )
        k = max(*k_at_hop, active_connection)
        self.train_set = _Pivots(
            features, labels, knn_graph(features, k).idx if knn is None else knn,
            k_at_hop, active_connection, aggregator,
        )  # fmt: skip
        self.validation_set = None
        if validation is not None:
            self.validation_set = _Pivots(
                *validation,
                knn_graph(validation[0], k).idx,
                k_at_hop,
                active_connection,
                aggregator,
            )
        self.batch_size, self.seed, self.workers = batch_size, seed, workers

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, the last incomplete batch included."""
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | Sequence[Any]:
        """In order; nothing without a validation set."""
        return [] if self.validation_set is None else self._loader(self.validation_set, False)

    def _loader(self, pivots: _Pivots, shuffle: bool) -> DataLoader[Any]:
        return DataLoader(
            range(len(pivots.features)), self.batch_size, shuffle=shuffle,  # type: ignore[arg-type]
            collate_fn=pivots.batch, num_workers=self.workers,
            generator=torch.Generator().manual_seed(self.seed),
            persistent_workers=self.workers > 0,
        )  # fmt: skip


class _Pivots:
    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        knn: Tensor,
        k_at_hop: tuple[int, int],
        active_connection: int,
        aggregator: str,
    ) -> None:
        self.features, self.labels, self.knn = features, labels, knn
        self.k_at_hop, self.active_connection = k_at_hop, active_connection
        self.aggregator = aggregator

    def batch(self, chosen: list[int]) -> LinkageBatch:
        pivots = torch.tensor(chosen)
        graph = pivot_subgraphs(self.knn, pivots, self.k_at_hop, self.active_connection)
        x, cosine = subgraph_inputs(self.features, graph, self.aggregator)
        same = self.labels[graph.nodes[graph.one_hop]] == self.labels[pivots].unsqueeze(1)
        return LinkageBatch(x, graph.indptr, graph.indices, graph.one_hop, cosine, same.long())


class LinkageTrainer(L.LightningModule):
    """Cross-entropy of links, SGD, a learning rate that drops at fractions of all steps.

    Args:
        model: the network.
        lr: of the published settings; small data sets need 0.05.
        momentum: of SGD.
        weight_decay: of SGD.
        drops: fractions of all steps after which the rate is multiplied by `drop`. The published
            schedule drops at every epoch, which are 36,000 steps; on small data that starves
            training, so fractions it is.
        drop: the factor.
        class_weights: of no link and link, against imbalance.
        rotate: turn the features of every batch by a random orthogonal matrix. The network then
            cannot memorise the directions of the identities, which it does when they are few.

    Logged: ``loss``, ``accuracy``, ``positives`` (share of links among the targets) and
    ``predicted`` (share among the predictions). After an epoch in which nearly all predictions were
    the same it warns: the network has learned the base rate only.
    """

    def __init__(
        self,
        model: LinkageGCN,
        *,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        drops: tuple[float, ...] = (0.6, 0.85),
        drop: float = 0.1,
        class_weights: tuple[float, float] | None = None,
        rotate: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.drops, self.drop = drops, drop
        self.register_buffer(
            "class_weights", None if class_weights is None else torch.tensor(class_weights)
        )
        self.rotate = rotate
        self._predicted = self._targets = self._seen = 0.0

    def training_step(self, batch: LinkageBatch, index: int) -> Tensor:
        """The loss of a batch."""
        if self.rotate:
            batch = batch._replace(x=batch.x @ random_rotation(batch.x.shape[1]).to(batch.x))
        loss, predicted = self._step(batch, "")
        self._predicted += float(predicted.sum())
        self._targets += float(batch.targets.sum())
        self._seen += batch.targets.numel()
        return loss

    def validation_step(self, batch: LinkageBatch, index: int) -> None:
        """Logs ``val_loss`` and the others."""
        self._step(batch, "val_")

    def on_train_epoch_end(self) -> None:
        """Warns of a constant network."""
        if self._seen:
            share, positives = self._predicted / self._seen, self._targets / self._seen
            if not 0.01 <= share <= 0.99 and 0.02 <= positives <= 0.98:
                warnings.warn(
                    f"the linkage network predicts {share:.1%} links where {positives:.1%} are: it "
                    "is constant. Raise lr, train longer, set class_weights, or take a larger k1 "
                    "(more hard negatives)",
                    stacklevel=1,
                )
        self._predicted = self._targets = self._seen = 0.0

    def configure_optimizers(self) -> Any:
        """SGD and a rate per step."""
        optimizer = torch.optim.SGD(
            self.model.parameters(), self.lr, self.momentum, weight_decay=self.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        milestones = [max(1, round(f * steps)) for f in self.drops]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, self.drop)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _step(self, batch: LinkageBatch, prefix: str) -> tuple[Tensor, Tensor]:
        logits = self.model(batch.x, batch.indptr, batch.indices, batch.one_hop, batch.cosine)
        flat, targets = logits.flatten(0, 1), batch.targets.flatten()
        loss = F.cross_entropy(flat, targets, self.class_weights)  # type: ignore[arg-type]
        predicted = flat.argmax(1)
        self.log_dict(
            {
                f"{prefix}loss": loss,
                f"{prefix}accuracy": (predicted == targets).float().mean(),
                f"{prefix}positives": targets.float().mean(),
                f"{prefix}predicted": predicted.float().mean(),
            },
            prog_bar=True, batch_size=len(targets),
        )  # fmt: skip
        return loss, predicted
