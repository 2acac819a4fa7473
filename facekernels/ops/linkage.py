"""Link probabilities of a graph convolutional network, streamed over all pivots."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from facekernels import _check
from facekernels._op import Op, launch, use_reference
from facekernels.ops.neighbors import neighbor_mean
from facekernels.ops.subgraphs import PivotSubgraphs, check_hops, pivot_subgraphs
from facekernels.reference.linkage import linkage_scores as _reference

_COMBINE = Op(
    "linkage_combine(Tensor own, Tensor other, Tensor? nodes, Tensor indptr, Tensor indices, "
    "Tensor? groups, Tensor shift, Tensor(a!) out) -> ()"
)
_TABLE_BYTES = 8 << 30  # products of the whole data set that are kept
# Rows of one batch of subgraphs: on the CPU they should stay in its caches, on a GPU fill it.
_CPU_BATCH_ROWS, _CUDA_BATCH_ROWS = 4096, 65536


class LinkageWeights(NamedTuple):
    """Weights of the linkage network in inference, all of the features' dtype and device."""

    mean: Tensor
    """``[D]``, running mean of the input normalisation."""
    variance: Tensor
    """``[D]``, running variance."""
    conv1_weight: Tensor
    """``[2 D, 512]`` and so on: the upper half acts on a node, the lower on its neighbours."""
    conv1_bias: Tensor
    conv2_weight: Tensor
    conv2_bias: Tensor
    conv3_weight: Tensor
    conv3_bias: Tensor
    conv4_weight: Tensor
    conv4_bias: Tensor
    hidden_weight: Tensor
    """``[H, C]``, first layer of the classifier."""
    hidden_bias: Tensor
    slope: Tensor
    """``[H]``, PReLU."""
    output_weight: Tensor
    """``[2, H]``: no link, link."""
    output_bias: Tensor


def linkage_scores(
    features: Tensor,
    knn: Tensor,
    pivots: Tensor,
    weights: LinkageWeights,
    *,
    k_at_hop: tuple[int, int] = (80, 10),
    active_connection: int = 10,
    eps: float = 1e-5,
) -> Tensor:
    """The probability that each pivot and each of its neighbours show the same person.

    Equivalent to, for the subgraph of each pivot p (`pivot_subgraphs`), with adjacency A whose rows
    sum to 1::

        h = ((features[nodes] - features[p]) - mean) / sqrt(variance + eps)
        for weight, bias in four_convolutions:
            h = relu(cat((h, A @ h), 1) @ weight + bias)
        score = softmax(output(prelu(hidden(h[one_hop]))), 1)[:, 1]

    but without padding or a dense A, with the first layer's products made once for the data set
    instead of once per subgraph (it is linear in the features), neighbours gathered after the
    products, and the last layer on the rows of the neighbours only.

    Args:
        features: ``[N, D]`` float32, float64, float16 or bfloat16, normalised as in training.
        knn: ``[N, k]`` int64, see `pivot_subgraphs`.
        pivots: ``[P]`` int64.
        weights: of the network; ``facekernels.systems.ain.linkage.LinkageGCN.weights()``.
        k_at_hop: see `pivot_subgraphs`.
        active_connection: see `pivot_subgraphs`.
        eps: of the input normalisation.

    Returns:
        ``[P, k1]``, dtype of the features, in the order of the neighbours' ids:
        ``knn[pivots, :k1].sort(1).values``. It has no gradient; training uses `LinkageGCN`.

    Raises:
        TypeError: dtypes.
        ValueError: shapes, devices, and what `pivot_subgraphs` refuses.

    Source: Wang et al., CVPR 2019; the sums are those of the published network up to rounding.
    """
    scorer = LinkageScorer(
        features, knn, weights, k_at_hop=k_at_hop, active_connection=active_connection, eps=eps,
        pivots=len(pivots),
    )  # fmt: skip
    return scorer(pivots)


class LinkageScorer:
    """`linkage_scores` in several calls, with what they share made once.

    Args:
        features, knn, weights, k_at_hop, active_connection, eps: see `linkage_scores`.
        pivots: how many all calls together will have. A table of the first layer's products of all
            features is made where their subgraphs have more rows than that.
    """

    def __init__(
        self,
        features: Tensor,
        knn: Tensor,
        weights: LinkageWeights,
        *,
        k_at_hop: tuple[int, int],
        active_connection: int,
        eps: float,
        pivots: int,
    ) -> None:
        _check_arguments(features, knn, weights)
        k1, k2, active_connection = check_hops(knn, k_at_hop, active_connection)
        self._features, self._knn, self._weights = features, knn, weights
        self._k_at_hop, self._links, self._eps = (k1, k2), active_connection, eps
        self._reused = pivots * k1 >= len(features)
        self._network: _Network | None = None

    @torch.no_grad()
    def __call__(self, pivots: Tensor) -> Tensor:
        """``[P, k1]`` probabilities."""
        features, (k1, k2) = self._features, self._k_at_hop
        if use_reference():
            pivot_subgraphs(self._knn, pivots, self._k_at_hop, self._links)  # for its errors
            return _reference(
                features, self._knn, pivots, self._weights, k_at_hop=self._k_at_hop,
                active_connection=self._links, eps=self._eps,
            )  # fmt: skip
        if self._network is None:
            dense = _check.resolve_neg(features).contiguous()
            self._network = _Network(dense, self._weights, self._eps, self._reused)
        scores = features.new_empty(len(pivots), k1)
        rows = _CPU_BATCH_ROWS if features.is_cpu else _CUDA_BATCH_ROWS
        first, step = 0, max(1, rows // (k1 * (k2 + 1) + 1))
        while first < len(pivots):
            part = pivots[first : first + step]
            batch = pivot_subgraphs(self._knn, part, self._k_at_hop, self._links)
            scores[first : first + len(part)] = self._network(batch, part)
            first += len(part)
            # Subgraphs of clustered data are much smaller than they could be.
            step = max(1, round(rows * len(part) / len(batch.nodes)))
        return scores


class _Network:
    """The weights, prepared once, and the first layer's products of the data set."""

    def __init__(self, features: Tensor, weights: LinkageWeights, eps: float, reused: bool) -> None:
        w = weights
        self.w = w
        self.features = features
        inverse = torch.rsqrt(w.variance.to(torch.float64) + eps)
        own, other = w.conv1_weight.to(torch.float64).chunk(2)
        own, other = own * inverse.unsqueeze(1), other * inverse.unsqueeze(1)
        mean = w.mean.to(torch.float64)
        self.first = torch.cat((own, other), 1).to(features.dtype)
        self.bias = (w.conv1_bias - mean @ own - mean @ other).to(features.dtype)
        self.second, self.third = (
            torch.cat(weight.chunk(2), 1) for weight in (w.conv2_weight, w.conv3_weight)
        )
        table = features.shape[0] * self.first.shape[1] * features.element_size()
        self.table = features @ self.first if reused and table <= _TABLE_BYTES else None

    def __call__(self, batch: PivotSubgraphs, pivots: Tensor) -> Tensor:
        """``[P, k1]`` probabilities."""
        w = self.w
        table, nodes, at = self._products(batch.nodes, pivots)
        own, other = table.chunk(2, 1)
        shift = self.bias - own[at] - other[at]
        h = _combine(own, other, nodes, batch, batch.groups(), shift)
        for weight, bias in ((self.second, w.conv2_bias), (self.third, w.conv3_bias)):
            own, other = (h @ weight).chunk(2, 1)
            h = _combine(own, other, None, batch, None, bias.unsqueeze(0))
        h = torch.relu(torch.addmm(w.conv4_bias, self._last_rows(h, batch), w.conv4_weight))
        hidden = F.prelu(F.linear(h, w.hidden_weight, w.hidden_bias), w.slope)
        # softmax of two is the sigmoid of their difference
        difference = w.output_weight[1] - w.output_weight[0]
        logit = hidden @ difference + (w.output_bias[1] - w.output_bias[0])
        return torch.sigmoid(logit).view(batch.one_hop.shape)

    def _products(self, nodes: Tensor, pivots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A table of products, and where in it the rows and the pivots are."""
        if self.table is not None:
            return self.table, nodes, pivots
        used, position = torch.unique(nodes, return_inverse=True)
        return self.features[used] @ self.first, position, torch.searchsorted(used, pivots)

    @staticmethod
    def _last_rows(h: Tensor, batch: PivotSubgraphs) -> Tensor:
        """``[x ; A x]`` of the pivots' neighbours."""
        rows = batch.one_hop.flatten()
        begin = batch.indptr[rows]
        degree = batch.indptr[rows + 1] - begin
        indptr = torch.cat((degree.new_zeros(1), degree.cumsum(0)))
        edges = torch.repeat_interleave(begin - indptr[:-1], degree)
        edges += torch.arange(len(edges), device=edges.device)
        return torch.cat((h[rows], neighbor_mean(h, indptr, batch.indices[edges])), 1)


def _combine(
    own: Tensor,
    other: Tensor,
    nodes: Tensor | None,
    batch: PivotSubgraphs,
    groups: Tensor | None,
    shift: Tensor,
) -> Tensor:
    out = own.new_empty(len(batch.nodes), own.shape[1])
    launch(_COMBINE, own, other, nodes, batch.indptr, batch.indices, groups, shift, out)
    return out


def _check_arguments(features: Tensor, knn: Tensor, weights: LinkageWeights) -> None:
    _check.floating("features", features)
    if features.ndim != 2:
        raise ValueError(f"features must be [N, D], got shape {_check.shape_of(features)}")
    _check.tensor("knn", knn)
    if knn.ndim != 2 or len(knn) != len(features):
        raise ValueError(
            f"knn must be [{len(features)}, k] as there are as many features, "
            f"got shape {_check.shape_of(knn)}"
        )
    _check.same_device("knn", knn, "features", features)
    w, width = weights, features.shape[1]
    for name, t in weights._asdict().items():
        _check.tensor(f"weights.{name}", t)
        if t.dtype != features.dtype:
            raise TypeError(
                f"weights.{name} must have the dtype of features ({str(features.dtype)[6:]}), "
                f"got {str(t.dtype)[6:]}"
            )
        _check.same_device(f"weights.{name}", t, "features", features)
    for name in ("mean", "variance"):
        _check.shape(f"weights.{name}", getattr(w, name), (width,), "[D]")
    for layer in range(1, 5):
        weight, bias = getattr(w, f"conv{layer}_weight"), getattr(w, f"conv{layer}_bias")
        expected = (2 * width, bias.shape[0])
        _check.shape(f"weights.conv{layer}_weight", weight, expected, "[2 * in, out]")
        width = bias.shape[0]
    hidden = w.hidden_bias.shape[0]
    _check.shape("weights.hidden_weight", w.hidden_weight, (hidden, width), "[H, C]")
    _check.shape("weights.slope", w.slope, (hidden,), "[H]")
    _check.shape("weights.output_weight", w.output_weight, (2, hidden), "[2, H]")
    _check.shape("weights.output_bias", w.output_bias, (2,), "[2]")
