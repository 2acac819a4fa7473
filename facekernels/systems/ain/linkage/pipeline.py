"""The steps of clustering a large set, each kept in files so that it need not be done again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facekernels.data.stages import Stages
from facekernels.ops import KNNGraph, knn_graph
from facekernels.systems.ain.linkage.model import LinkageGCN

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many parts are done, and how many there are."""

_WHOLE = 200_000  # faces up to which the graph is one part, and costs half


class LinkScores(NamedTuple):
    """Link probabilities of every face and its nearest neighbours."""

    neighbors: Tensor
    """``[N, k1]`` int64, ascending."""
    scores: Tensor
    """``[N, k1]`` float32."""


class Pipeline:
    """Neighbour graph and link scores of one set of features.

    With a folder, parts of both are written as they are finished: a run that was interrupted goes
    on where it stopped, and one with the same features and settings finds them done. Damaged files
    and files made from other features are named in a warning and made again.

    Args:
        features: ``[N, D]``, an array or a memory map; compared by cosine.
        folder: of the files; None keeps nothing.
        progress: told after each part.

    Raises:
        ValueError: features that are not ``[N, D]`` floating point, or have no finite direction.
    """

    def __init__(
        self,
        features: NDArray[Any],
        folder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        if features.ndim != 2 or features.dtype.kind != "f":
            raise ValueError(
                f"features must be [N, D] floating point, got {features.shape} {features.dtype}"
            )
        self.x = unit_rows(features)
        self._stages = None if folder is None else Stages(folder, {"features": features})
        self._progress = progress or (lambda what, done, total: None)
        self.last_graph: KNNGraph | None = None

    def graph(self, k: int) -> KNNGraph:
        """The exact graph; see `ops.knn_graph`. Also kept as `last_graph`."""
        self.last_graph = self._graph(k)
        return self.last_graph

    def _graph(self, k: int) -> KNNGraph:
        n = len(self.x)
        if n <= _WHOLE or self._stages is None:
            self._progress("neighbours", 0, 1)
            if self._stages is None:
                graph = knn_graph(self.x, k)
            else:
                stored = self._stages.stage(
                    "knn", lambda: _arrays(knn_graph(self.x, k)), settings={"k": k}
                )
                graph = KNNGraph(_tensor(stored["idx"]), _tensor(stored["sim"]))
            self._progress("neighbours", 1, 1)
            return graph
        chunks = -(-n // (_WHOLE // 4))

        def fill(i: int, views: dict[str, NDArray[Any]]) -> None:
            begin, end = n * i // chunks, n * (i + 1) // chunks
            self._progress("neighbours", i, chunks)
            part = knn_graph(self.x, k, rows=(begin, end))
            views["idx"][begin:end] = part.idx.numpy()
            views["sim"][begin:end] = part.sim.numpy()
            self._progress("neighbours", i + 1, chunks)

        layout: Any = {"idx": ((n, k), np.int64), "sim": ((n, k), np.float32)}
        stored = self._stages.chunked_stage("knn", layout, chunks, fill, settings={"k": k})
        return KNNGraph(_tensor(stored["idx"]), _tensor(stored["sim"]))

    def link_scores(
        self, graph: KNNGraph, model: LinkageGCN, k_at_hop: tuple[int, int], active_connection: int
    ) -> LinkScores:
        """Score every face's first ``k_at_hop[0]`` neighbours; see `ops.linkage_scores`."""
        n, k1 = len(self.x), k_at_hop[0]
        chunks = max(1, min(n // 256, 200))
        scores = np.empty((n, k1), dtype=np.float32)
        scorer = model.scorer(self.x, graph.idx, k_at_hop, active_connection, n)

        def fill(i: int, views: dict[str, NDArray[Any]]) -> None:
            begin, end = n * i // chunks, n * (i + 1) // chunks
            self._progress("links", i, chunks)
            views["scores"][begin:end] = scorer(torch.arange(begin, end)).numpy()
            self._progress("links", i + 1, chunks)

        if self._stages is None:
            for i in range(chunks):
                fill(i, {"scores": scores})
        else:
            weights = {name: value.numpy() for name, value in model.state_dict().items()}
            settings = {"k_at_hop": list(k_at_hop), "active_connection": active_connection,
                        "aggregator": model.aggregator, **weights}  # fmt: skip
            scores = self._stages.chunked_stage(
                "scores", {"scores": ((n, k1), np.float32)}, chunks, fill, settings=settings
            )["scores"]
        return LinkScores(graph.idx[:, :k1].sort(1).values, _tensor(scores))


def unit_rows(features: NDArray[Any]) -> Tensor:
    """float32 rows of norm 1.

    Raises:
        ValueError: a row that is zero or not finite.
    """
    x = torch.from_numpy(np.array(features, dtype=np.float32))
    norms = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
    bad = ~(norms.isfinite() & (norms > 0))
    if bad.any():
        row = int(bad.nonzero()[0])
        what = "zero" if norms[row] == 0 else "not finite"
        raise ValueError(f"features must have a direction in every row: row {row} is {what}")
    step = max(1, (1 << 22) // max(x.shape[1], 1))
    for first in range(0, len(x), step):
        part = slice(first, first + step)
        x[part] = (x[part] / norms[part].unsqueeze(1)).float()
    return x


def _arrays(graph: KNNGraph) -> dict[str, NDArray[Any]]:
    return {"idx": graph.idx.numpy(), "sim": graph.sim.numpy()}


def _tensor(array: NDArray[Any]) -> Tensor:
    """Of a writeable array without a copy; read-only maps are copied into memory."""
    if array.flags.writeable:
        return torch.from_numpy(array)
    return torch.from_numpy(np.array(array))
