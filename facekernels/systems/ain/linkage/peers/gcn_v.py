"""Confidence of nodes by a graph convolution on the whole graph."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facekernels.ops import connected_components, neighbor_mean
from facekernels.systems.ain.linkage.model import GraphConvolution
from facekernels.systems.ain.linkage.peers.graph import (
    Labels,
    Values,
    check_features,
    check_graph,
    check_labels,
    check_threshold,
    edge_list,
    symmetric_rows,
)
from facekernels.systems.ain.linkage.rotation import random_rotation


class ConfidenceNetwork(nn.Module):
    """One graph convolution and a two-layer head: features of all nodes -> their confidence."""

    def __init__(self, in_features: int, hidden: int = 512) -> None:
        super().__init__()
        self.conv = GraphConvolution(in_features, hidden)
        self.head = nn.Sequential(nn.Linear(hidden, hidden), nn.PReLU(hidden), nn.Linear(hidden, 1))

    def forward(self, x: Tensor, indptr: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """``[N, D]`` and a row-normalised graph -> ``[N]``."""
        h = self.conv(x, lambda v: neighbor_mean(v, indptr, indices, weights))
        confidence: Tensor = self.head(h).squeeze(1)
        return confidence


@dataclass
class GCNV:
    """Learn how pure a node's surroundings are; link every node to a near one that is purer.

    Args:
        tau: least similarity of such a link.
        hidden: width of the network.
        steps: of training, each on the whole graph.
        lr: of SGD with momentum 0.9; it drops to a tenth at 50, 80 and 90 % of the steps.
        weight_decay: of SGD.
        seed: of the initial weights and the rotations.
        rotate: turn all features by a new random rotation per step, so that the network cannot
            learn by heart in which directions the known identities lie. Our own addition, for few
            identities: of 60 synthetic ones it learned almost nothing about others without it.

    Source: Yang et al., Learning to Cluster Faces via Confidence and Connectivity Estimation, CVPR
    2020, its first stage. Published: 512 hidden, 80,000 steps, tau 0.8 on learned features, 0.65 on
    the given ones.
    """

    tau: float = 0.65
    hidden: int = 512
    steps: int = 1000
    lr: float = 0.1
    weight_decay: float = 1e-5
    seed: int = 0
    rotate: bool = False
    network: ConfidenceNetwork | None = field(default=None, repr=False)
    losses: list[float] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        check_threshold(self.tau, "tau")
        if self.hidden < 1 or self.steps < 0:
            raise ValueError(
                "hidden must be at least 1 and steps at least 0, "
                f"got {self.hidden} and {self.steps}"
            )

    def fit(self, features: Values, idx: Values, sim: Values, labels: Values) -> GCNV:
        """Train on the graph of identities that are known.

        Args:
            features: ``[N, D]`` float32.
            idx: ``[N, k]`` int64 neighbours, descending, without the node itself.
            sim: ``[N, k]`` cosine similarities.
            labels: ``[N]`` int64 identities.
        """
        idx, sim = check_graph(idx, sim)
        features, labels = check_features(features, len(idx)), check_labels(labels, len(idx))
        target = neighborhood_confidence(idx, sim, labels)
        graph = normalized_graph(idx, sim)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = ConfidenceNetwork(features.shape[1], self.hidden)
            self._train(self.network, features, graph, target)
        return self

    def _train(
        self,
        network: ConfidenceNetwork,
        features: Tensor,
        graph: tuple[Tensor, Tensor, Tensor],
        target: Tensor,
    ) -> None:
        optimizer = torch.optim.SGD(
            network.parameters(), self.lr, 0.9, weight_decay=self.weight_decay
        )
        drops = [max(1, round(f * self.steps)) for f in (0.5, 0.8, 0.9)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, 0.1)
        self.losses.clear()
        for _ in range(self.steps):
            x = features @ random_rotation(features.shape[1]) if self.rotate else features
            loss = F.mse_loss(network(x, *graph), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            self.losses.append(float(loss.detach()))

    @torch.no_grad()
    def confidence(self, features: Values, idx: Values, sim: Values) -> Tensor:
        """``[N]`` float32, up to about 1."""
        if self.network is None:
            raise ValueError("GCNV is not trained: call fit first")
        idx, sim = check_graph(idx, sim)
        features = check_features(features, len(idx), len(self.network.conv.weight) // 2)
        return self.network(features, *normalized_graph(idx, sim))

    def cluster(self, features: Values, idx: Values, sim: Values) -> Labels:
        """``[N]`` labels of other identities."""
        idx, sim = check_graph(idx, sim)
        confidence = self.confidence(features, idx, sim)
        return peaks_to_labels(*confidence_to_peaks(confidence, idx, sim), self.tau)


def neighborhood_confidence(idx: Tensor, sim: Tensor, labels: Tensor) -> Tensor:
    """``[N]``: similarities of a node's own kind minus those of others, at most 1.

    The node itself counts with 1, as in the published graphs, whose first column it is. All are
    divided by the largest magnitude; if every sum is 0, they are 0.
    """
    sign = torch.where(labels[idx] == labels.unsqueeze(1), 1.0, -1.0)
    total = (sign * sim.float()).sum(1) + 1
    return total / total.abs().max().clamp(min=torch.finfo(total.dtype).tiny)  # all 0 stays 0


def normalized_graph(idx: Tensor, sim: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities made symmetric by their maximum, with 1 for the node itself; rows sum to 1."""
    nodes = len(idx)
    own = torch.arange(nodes)
    edges, scores = edge_list(idx, sim.clamp(min=0))
    loops = torch.stack((own, own), 1)
    indptr, indices, weights = (torch.from_numpy(a) for a in symmetric_rows(edges, scores, nodes))
    rows = torch.repeat_interleave(own, indptr.diff())
    rows, columns = torch.cat((rows, own)), torch.cat((indices, loops[:, 1]))
    values = torch.cat((weights, torch.ones(nodes)))
    order = torch.argsort(rows, stable=True)
    rows, columns, values = rows[order], columns[order], values[order]
    total = torch.zeros(nodes).index_add(0, rows, values)
    indptr = torch.searchsorted(rows, torch.arange(nodes + 1))
    return indptr, columns, values / total[rows]


def confidence_to_peaks(confidence: Tensor, idx: Tensor, sim: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest neighbour with strictly more confidence, or -1, and its similarity."""
    higher = confidence[idx] > confidence.unsqueeze(1)
    first = higher.float().argmax(1, keepdim=True)
    peak = torch.where(higher.any(1), idx.gather(1, first).squeeze(1), -1)
    return peak, sim.gather(1, first).squeeze(1)


def peaks_to_labels(peak: Tensor, similarity: Tensor, tau: float) -> Labels:
    """Clusters of the links to peaks with more than that similarity."""
    nodes = torch.arange(len(peak))
    linked = (peak >= 0) & (similarity > tau)
    edges = torch.stack((nodes[linked], peak[linked]), 1)
    labels: Labels = connected_components(edges, len(peak)).numpy().astype(np.int64)
    return labels
