"""The neighbour that is most surely the same person, by graph convolutions on the candidates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facekernels.ops import neighbor_mean
from facekernels.systems.ain.linkage.model import GraphConvolution
from facekernels.systems.ain.linkage.peers.gcn_v import (
    GCNV,
    confidence_to_peaks,
    normalized_graph,
    peaks_to_labels,
)
from facekernels.systems.ain.linkage.peers.graph import (
    Labels,
    Values,
    check_features,
    check_graph,
    check_labels,
    check_threshold,
)
from facekernels.systems.ain.linkage.rotation import random_rotation


class Candidates(NamedTuple):
    """For each of some pivots, its neighbours of more confidence, as one graph."""

    pivots: Tensor
    """``[R]`` int64: whose candidate a row is, ascending."""
    nodes: Tensor
    """``[R]`` int64: the candidate, nearest first within a pivot."""
    indptr: Tensor
    indices: Tensor
    """Links among the candidates of one pivot, and of each to itself."""
    weights: Tensor
    """float32; rows sum to 1."""


class ConnectivityNetwork(nn.Module):
    """Four graph convolutions and a classifier: a logit of no link and one of a link per row."""

    def __init__(self, in_features: int, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.in_features = in_features
        widths = (in_features, *channels)
        self.convolutions = nn.ModuleList(
            GraphConvolution(widths[i], widths[i + 1]) for i in range(4)
        )
        self.classifier = nn.Sequential(
            nn.Linear(channels[3], channels[3]), nn.PReLU(channels[3]), nn.Linear(channels[3], 2)
        )

    def forward(self, x: Tensor, graph: Candidates) -> Tensor:
        """``[R, D]`` features of candidates minus those of their pivots -> ``[R, 2]``."""
        for convolution in self.convolutions:
            x = convolution(
                x, lambda v: neighbor_mean(v, graph.indptr, graph.indices, graph.weights)
            )
        logits: Tensor = self.classifier(x)
        return logits


@dataclass
class GCNE:
    """GCN-V with a second network, which chooses the links of the most confident nodes.

    GCN-V links a node to its nearest neighbour of more confidence. Where confidence is highest this
    decides whether clusters merge; there, this network looks at all such neighbours together and
    takes the likeliest to be the same person.

    Args:
        base: the first stage; fitted, or `fit` does it.
        tau: least similarity of a link.
        ignore_train: share of the nodes, the least confident ones, that training leaves out.
        ignore: share that keeps the links of GCN-V.
        channels: outputs of the four convolutions.
        epochs: of training.
        lr: of SGD with momentum 0.9, down to 0 along a cosine (inferred: the paper names none).
        weight_decay: of SGD.
        batch_size: pivots of a step.
        seed: of the initial weights, the order and the rotations.
        rotate: as in `GCNV`.

    Source: Yang et al., Learning to Cluster Faces via Confidence and Connectivity Estimation, CVPR
    2020, its second stage; the graph among candidates and the order of training are our reading.
    On 60 synthetic identities it changes the F of GCN-V by less than 0.02, either way.
    """

    base: GCNV = field(default_factory=GCNV)
    tau: float = 0.65
    ignore_train: float = 0.7
    ignore: float = 0.8
    channels: tuple[int, int, int, int] = (512, 512, 256, 256)
    epochs: int = 40
    lr: float = 0.01
    weight_decay: float = 1e-5
    batch_size: int = 32
    seed: int = 0
    rotate: bool = False
    network: ConnectivityNetwork | None = field(default=None, repr=False)
    losses: list[float] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        check_threshold(self.tau, "tau")
        for name in ("ignore_train", "ignore"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share in [0, 1], got {getattr(self, name)}")
        if self.epochs < 0 or self.batch_size < 1:
            raise ValueError(
                "epochs must be at least 0 and batch_size at least 1, "
                f"got {self.epochs} and {self.batch_size}"
            )

    def fit(self, features: Values, idx: Values, sim: Values, labels: Values) -> GCNE:
        """Train on the graph of identities that are known; arguments as of `GCNV.fit`."""
        idx, sim = check_graph(idx, sim)
        features, labels = check_features(features, len(idx)), check_labels(labels, len(idx))
        if self.base.network is None:
            self.base.fit(features, idx, sim, labels)
        confidence = self.base.confidence(features, idx, sim)
        graph = normalized_graph(idx, sim)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = ConnectivityNetwork(features.shape[1], self.channels)
            optimizer = torch.optim.SGD(
                self.network.parameters(), self.lr, 0.9, weight_decay=self.weight_decay
            )
            pivots = _confident(confidence, self.ignore_train)
            steps = max(1, self.epochs * -(-len(pivots) // self.batch_size))
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            self.losses.clear()
            for _ in range(self.epochs):
                for chosen in pivots[torch.randperm(len(pivots))].split(self.batch_size):
                    batch = candidates(chosen.sort().values, confidence, idx, graph)
                    if len(batch.nodes) == 0:
                        continue
                    x = features[batch.nodes] - features[batch.pivots]
                    if self.rotate:
                        x = x @ random_rotation(x.shape[1])
                    same = (labels[batch.nodes] == labels[batch.pivots]).long()
                    loss = F.cross_entropy(self.network(x, batch), same)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    self.losses.append(float(loss.detach()))
        return self

    @torch.no_grad()
    def cluster(self, features: Values, idx: Values, sim: Values) -> Labels:
        """``[N]`` labels of other identities."""
        if self.network is None:
            raise ValueError("GCNE is not trained: call fit first")
        idx, sim = check_graph(idx, sim)
        features = check_features(features, len(idx), self.network.in_features)
        confidence = self.base.confidence(features, idx, sim)
        peak, similarity = confidence_to_peaks(confidence, idx, sim)
        graph = normalized_graph(idx, sim)
        for chosen in _confident(confidence, self.ignore).split(1024):
            batch = candidates(chosen, confidence, idx, graph)
            logits = self.network(features[batch.nodes] - features[batch.pivots], batch)
            best = _best_row(batch.pivots, logits[:, 1] - logits[:, 0])
            pivots, nodes = batch.pivots[best], batch.nodes[best]
            peak[pivots] = nodes
            column = (idx[pivots] == nodes.unsqueeze(1)).int().argmax(1, keepdim=True)
            similarity[pivots] = sim[pivots].gather(1, column).squeeze(1)
        return peaks_to_labels(peak, similarity, self.tau)


def candidates(
    pivots: Tensor, confidence: Tensor, idx: Tensor, graph: tuple[Tensor, Tensor, Tensor]
) -> Candidates:
    """Neighbours of more confidence, and the part of the whole graph that lies among them.

    Args:
        pivots: ``[P]`` int64, ascending.
        confidence: ``[N]``.
        idx: ``[N, k]`` int64 neighbours.
        graph: of all nodes, as `normalized_graph` makes it.
    """
    indptr, indices, weights = graph
    neighbors = idx[pivots]
    higher = confidence[neighbors] > confidence[pivots].unsqueeze(1)
    owner = pivots.unsqueeze(1).expand_as(neighbors)[higher]
    nodes = neighbors[higher]

    # Every link of every candidate, of which those stay that end at a candidate of the same pivot.
    count = indptr[nodes + 1] - indptr[nodes]
    rows = torch.repeat_interleave(count)
    within = torch.arange(len(rows)) - (count.cumsum(0) - count)[rows]
    link = indptr[nodes][rows] + within
    keys, order = torch.sort(owner * len(idx) + nodes)
    wanted = owner[rows] * len(idx) + indices[link]
    found = torch.searchsorted(keys, wanted).clamp(max=max(len(keys) - 1, 0))
    inside = keys[found] == wanted
    rows, columns, values = rows[inside], order[found[inside]], weights[link[inside]]

    total = torch.zeros(len(nodes)).index_add(0, rows, values)
    ends = torch.searchsorted(rows, torch.arange(len(nodes) + 1))
    return Candidates(owner, nodes, ends, columns, values / total[rows])


def _confident(confidence: Tensor, ignored: float) -> Tensor:
    """Ascending nodes without the given share of least confidence."""
    kept = len(confidence) - int(ignored * len(confidence))
    return torch.argsort(confidence, descending=True, stable=True)[:kept].sort().values


def _best_row(owner: Tensor, score: Tensor) -> Tensor:
    """For each owner, its row of the highest score, the first among equals."""
    order = torch.argsort(score, descending=True, stable=True)
    order = order[torch.argsort(owner[order], stable=True)]
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = owner[order][1:] != owner[order][:-1]
    return order[first]
