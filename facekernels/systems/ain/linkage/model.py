"""The linkage network: do a pivot and its neighbour show the same person?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facekernels.ops import LinkageWeights, PivotSubgraphs, neighbor_mean
from facekernels.ops.linkage import LinkageScorer
from facekernels.ops.subgraphs import DenseSubgraphs, pivot_subgraphs

AGGREGATORS = ("mean", "weighted", "attention")
_BATCH_PIVOTS = 32

Aggregate = Callable[[Tensor], Tensor]


class GraphConvolution(nn.Module):
    """``relu([x ; A x] W + b)`` with A given as a function.

    The neighbours are averaged before or after the product, whichever has fewer features.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2 * in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor, aggregate: Aggregate) -> Tensor:
        """``[R, in] -> [R, out]``."""
        own, other = self.weight.chunk(2)
        narrower = own.shape[1] < own.shape[0]
        neighbors = aggregate(x @ other) if narrower else aggregate(x) @ other
        return torch.relu(torch.addmm(self.bias, x, own) + neighbors)


class PairAttention(nn.Module):
    """Weights of a node's neighbours by a two-layer perceptron of both their features."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.own = nn.Linear(features, hidden)
        self.other = nn.Linear(features, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, x: Tensor, rows: Tensor, indptr: Tensor, indices: Tensor) -> Tensor:
        """``[E]`` weights that sum to 1 in every row."""
        pair = torch.tanh(self.own(x)[rows] + self.other(x)[indices])
        return row_softmax(self.score(pair).squeeze(1), rows, len(indptr) - 1)


class LinkageGCN(nn.Module):
    """Four graph convolutions on the subgraph around a pivot, then a classifier of its neighbours.

    Parameter names are those of the public checkpoints (``conv1.weight``, ``classifier.0.weight``,
    ``bn0.running_mean``, ...), which `load_public` reads.

    Args:
        in_features: D of the face features.
        aggregator: ``"mean"`` (the published code), ``"weighted"`` (softmax of the cosine
            similarities of the input) or ``"attention"`` (`PairAttention`). The paper names the
            last two; their details are our reading.
        channels: outputs of the four convolutions.
        attention_hidden: width of `PairAttention`.
        padded_nodes: rows that each subgraph counts for in the statistics of the input
            normalisation. The published code pads subgraphs to ``k1 * (k2 + 1) + 1`` rows of 0 and
            lets them count; None leaves them out.

    Source: Wang et al., Linkage Based Face Clustering via Graph Convolution Network, CVPR 2019.
    """

    def __init__(
        self,
        in_features: int,
        aggregator: str = "mean",
        channels: tuple[int, int, int, int] = (512, 512, 256, 256),
        attention_hidden: int = 64,
        padded_nodes: int | None = None,
    ) -> None:
        super().__init__()
        if aggregator not in AGGREGATORS:
            raise ValueError(
                f"aggregator must be one of {', '.join(AGGREGATORS)}, got {aggregator!r}"
            )
        self.aggregator = aggregator
        self.padded_nodes = padded_nodes
        self.bn0 = nn.BatchNorm1d(in_features, affine=False)
        widths = (in_features, *channels)
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            GraphConvolution(widths[i], widths[i + 1]) for i in range(4)
        )
        self.classifier = nn.Sequential(
            nn.Linear(channels[3], channels[3]), nn.PReLU(channels[3]), nn.Linear(channels[3], 2)
        )
        if aggregator == "attention":
            self.attention = nn.ModuleList(PairAttention(w, attention_hidden) for w in widths[:4])

    @property
    def convolutions(self) -> tuple[GraphConvolution, ...]:
        """The four layers."""
        return self.conv1, self.conv2, self.conv3, self.conv4

    def forward(
        self,
        x: Tensor,
        indptr: Tensor,
        indices: Tensor,
        one_hop: Tensor,
        cosine: Tensor | None = None,
    ) -> Tensor:
        """Logits of no link and link.

        Args:
            x: ``[R, D]``, features of all rows of a batch minus those of their pivots.
            indptr: ``[R + 1]`` int64, as in `PivotSubgraphs`.
            indices: ``[E]`` int64.
            one_hop: ``[P, k1]`` int64 rows.
            cosine: ``[E]`` similarities of linked features, for ``aggregator="weighted"``.

        Returns:
            ``[P, k1, 2]``.
        """
        rows = torch.repeat_interleave(
            torch.arange(len(x), device=x.device), indptr.diff(), output_size=len(indices)
        )
        fixed = None
        if self.aggregator == "weighted":
            if cosine is None:
                raise ValueError("cosine is needed for aggregator='weighted', got None")
            fixed = row_softmax(cosine, rows, len(x))
        h = self._normalized(x, len(one_hop))
        for layer, convolution in enumerate(self.convolutions):
            weights = fixed
            if self.aggregator == "attention":
                weights = self.attention[layer](h, rows, indptr, indices)

            def aggregate(v: Tensor, weights: Tensor | None = weights) -> Tensor:
                if weights is None:
                    return neighbor_mean(v, indptr, indices, symmetric=True)
                return neighbor_mean(v, indptr, indices, weights.to(v.dtype))

            h = convolution(h, aggregate)
        logits: Tensor = self.classifier(h[one_hop.flatten()])
        return logits.view(*one_hop.shape, 2)

    def forward_dense(self, batch: DenseSubgraphs) -> Tensor:
        """The same from padded subgraphs with dense adjacency: the published form, mean only.

        In training the padding counts in the statistics, as in the published code.
        """
        if self.aggregator != "mean":
            raise ValueError(
                f"the dense form has the mean aggregator only, not {self.aggregator!r}"
            )
        x = self.bn0(batch.features.flatten(0, 1)).view(batch.features.shape)
        for convolution in self.convolutions:
            joined = torch.cat((x, batch.adjacency @ x), -1)
            x = torch.relu(joined @ convolution.weight + convolution.bias)
        chosen = batch.one_hop.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        logits: Tensor = self.classifier(x.gather(1, chosen).flatten(0, 1))
        return logits.view(*batch.one_hop.shape, 2)

    @torch.no_grad()
    def link_probabilities(self, features: Tensor, subgraphs: PivotSubgraphs) -> Tensor:
        """``[P, k1]`` probabilities of a batch, in the order of the neighbours' ids.

        Args:
            features: ``[N, D]``.
            subgraphs: of `pivot_subgraphs`.

        Raises:
            ValueError: in training mode, where a batch would change its own statistics.
        """
        self._check_evaluation()
        x, cosine = subgraph_inputs(features, subgraphs, self.aggregator)
        logits = self(x, subgraphs.indptr, subgraphs.indices, subgraphs.one_hop, cosine)
        return torch.softmax(logits, -1)[..., 1]

    @torch.no_grad()
    def scores(
        self,
        features: Tensor,
        knn: Tensor,
        pivots: Tensor,
        k_at_hop: tuple[int, int],
        active_connection: int,
    ) -> Tensor:
        """``[P, k1]`` probabilities in evaluation mode, streamed; see `ops.linkage_scores`."""
        return self.scorer(features, knn, k_at_hop, active_connection, len(pivots))(pivots)

    def scorer(
        self,
        features: Tensor,
        knn: Tensor,
        k_at_hop: tuple[int, int],
        active_connection: int,
        pivots: int,
    ) -> Callable[[Tensor], Tensor]:
        """`scores` in several calls with `pivots` in all; what they share is made once."""
        self._check_evaluation()
        if self.aggregator == "mean":
            return LinkageScorer(
                features, knn, self.weights(), k_at_hop=k_at_hop,
                active_connection=active_connection, eps=self.bn0.eps, pivots=pivots,
            )  # fmt: skip

        def score(chosen: Tensor) -> Tensor:
            parts = [features.new_empty(0, k_at_hop[0])]
            for part in chosen.split(_BATCH_PIVOTS):
                subgraphs = pivot_subgraphs(knn, part, k_at_hop, active_connection)
                parts.append(self.link_probabilities(features, subgraphs))
            return torch.cat(parts)

        return score

    def weights(self) -> LinkageWeights:
        """The weights as `ops.linkage_scores` takes them."""
        if self.aggregator != "mean":
            raise ValueError(
                f"linkage_scores has the mean aggregator only, not {self.aggregator!r}"
            )
        mean, variance = self.bn0.running_mean, self.bn0.running_var
        assert mean is not None
        assert variance is not None
        values = {name: p.detach() for name, p in self.named_parameters()}
        layers = [f"conv{i}.{p}" for i in range(1, 5) for p in ("weight", "bias")]
        head = ["0.weight", "0.bias", "1.weight", "2.weight", "2.bias"]
        names = layers + [f"classifier.{name}" for name in head]
        return LinkageWeights(mean, variance, *(values[name] for name in names))

    def load_public(self, checkpoint: str | Path | Mapping[str, Any]) -> None:
        """Load a checkpoint of the public repositories: a file, its content, or a state dict.

        Raises:
            TypeError: neither a file nor a mapping, or a file of something else.
            ValueError: tensors are missing, unexpected or of other shapes; names them.
        """
        if isinstance(checkpoint, (str, Path)):
            checkpoint = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, Mapping):
            raise TypeError(
                f"checkpoint must be a file or a state dict, got {type(checkpoint).__name__}"
            )
        state = checkpoint.get("state_dict", checkpoint)
        state = {str(k).removeprefix("module."): v for k, v in dict(state).items()}
        own = self.state_dict()
        state.setdefault("bn0.num_batches_tracked", own["bn0.num_batches_tracked"])  # old torch
        wrong = sorted(state.keys() ^ own.keys()) or [
            f"{k} {tuple(v.shape)} instead of {tuple(own[k].shape)}"
            for k, v in state.items()
            if v.shape != own[k].shape
        ]
        if wrong:
            raise ValueError(f"checkpoint does not fit LinkageGCN: {', '.join(wrong)}")
        self.load_state_dict(state)

    def _check_evaluation(self) -> None:
        if self.training:
            raise ValueError("the network must be in evaluation mode: call eval() first")

    def _normalized(self, x: Tensor, pivots: int) -> Tensor:
        if self.padded_nodes is None or not self.training:
            normalized: Tensor = self.bn0(x)
            return normalized
        rows = pivots * self.padded_nodes
        if rows < len(x):
            raise ValueError(
                f"padded_nodes must be at least the nodes of a subgraph, got {self.padded_nodes} "
                f"for {pivots} subgraphs with {len(x)} nodes"
            )
        mean = x.sum(0) / rows
        # around the mean, of which the padding is |mean| away
        variance = ((x - mean).square().sum(0) + (rows - len(x)) * mean.square()) / rows
        with torch.no_grad():
            bn, m = self.bn0, self.bn0.momentum
            assert m is not None
            moved = {"running_mean": mean, "running_var": variance * (rows / (rows - 1))}
            for name, value in moved.items():
                bn.get_buffer(name).lerp_(value, m)
            bn.get_buffer("num_batches_tracked").add_(1)
        return (x - mean) * torch.rsqrt(variance + self.bn0.eps)


def subgraph_inputs(
    features: Tensor, subgraphs: PivotSubgraphs, aggregator: str
) -> tuple[Tensor, Tensor | None]:
    """What `LinkageGCN.forward` takes: centred features, and similarities if they are needed."""
    own = features[subgraphs.nodes]
    x = own - features[subgraphs.pivots][subgraphs.groups()]
    if aggregator != "weighted":
        return x, None
    unit = F.normalize(own)
    rows = torch.repeat_interleave(
        torch.arange(len(own), device=own.device), subgraphs.indptr.diff()
    )
    return x, (unit[rows] * unit[subgraphs.indices]).sum(1)


def row_softmax(scores: Tensor, rows: Tensor, count: int) -> Tensor:
    """Softmax of the edges of each row."""
    largest = scores.new_full((count,), -torch.inf).scatter_reduce(0, rows, scores.detach(), "amax")
    e = torch.exp(scores - largest[rows])
    return e / e.new_zeros(count).index_add(0, rows, e)[rows]
