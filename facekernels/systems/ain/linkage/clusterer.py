"""Face clustering with the conventions of scikit-learn."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from facekernels.data.files import replacing
from facekernels.ops import link_clusters, pool_edges
from facekernels.systems.ain.linkage.model import LinkageGCN
from facekernels.systems.ain.linkage.pipeline import Pipeline, unit_rows
from facekernels.systems.ain.linkage.task import LinkageData, LinkageTrainer

_FORMAT = "facekernels FaceClusterer 1"


class Clustering(NamedTuple):
    """Clusters of N faces, and the links they come from."""

    labels: NDArray[np.int64]
    """``[N]``, in the order of the clusters' smallest members."""
    neighbors: NDArray[np.int64]
    """``[N, k1]``, the neighbours that were scored, ascending."""
    scores: NDArray[np.float32]
    """``[N, k1]``, the probability that each is the same person."""


class FaceClusterer(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Learn from labelled faces which neighbours belong together, then cluster other faces.

    `fit` trains a linkage network; `predict` makes the neighbour graph of new features, scores its
    links, and cuts it by rising thresholds. Features are compared by their cosine, so they are
    normalised here.

    Args:
        k: neighbours in the graph.
        k_at_hop: neighbours that are scored and how many of theirs give context. More than there
            are other faces are cut down.
        active_connection: links of each node in a subgraph, at least ``k_at_hop[1]``.
        max_size: largest cluster; near the size of the largest identity.
        step: of the rising threshold.
        pooling: of the two scores of a pair: ``"mean"``, ``"max"`` or ``"last"``.
        aggregator: of the network.
        channels: of the network.
        epochs: of training.
        lr: of training.
        batch_size: pivots of a step.
        rotate: see `LinkageTrainer`. The published code does not; in our comparison it made the
            difference on identities never seen.
        seed: of weights, order and rotations: the same seed, the same network.
        progress: show bars.

    Attributes:
        model_: the trained `LinkageGCN`.
        n_features_in_: D.
        labels_: ``[N]``, clusters of the faces of `fit`.
        scores_: ``[N, k1]``, their link probabilities; see `Clustering`.
        n_clusters_: how many clusters they are.

    Source: Wang et al., CVPR 2019.
    """

    def __init__(
        self,
        k: int = 80,
        k_at_hop: tuple[int, int] = (80, 10),
        active_connection: int = 10,
        *,
        max_size: int = 300,
        step: float = 0.6,
        pooling: str = "mean",
        aggregator: str = "mean",
        channels: tuple[int, int, int, int] = (512, 512, 256, 256),
        epochs: int = 4,
        lr: float = 0.05,
        batch_size: int = 16,
        rotate: bool = True,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.k = k
        self.k_at_hop = k_at_hop
        self.active_connection = active_connection
        self.max_size = max_size
        self.step = step
        self.pooling = pooling
        self.aggregator = aggregator
        self.channels = channels
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.rotate = rotate
        self.seed = seed
        self.progress = progress

    def fit(self, X: Any, y: Any = None) -> FaceClusterer:
        """Train on identities that are known, and cluster them.

        Args:
            X: ``[N, D]`` features, N >= 3.
            y: ``[N]`` identities.

        Raises:
            ValueError: no or not fitting labels, features that are not finite, a zero row, settings
                out of range.
        """
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")
        features, labels = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=3)
        x = unit_rows(features)
        _, target = np.unique(labels, return_inverse=True)
        hops, links = self._hops(len(x))
        data = LinkageData(
            x, torch.from_numpy(target.astype(np.int64)), k_at_hop=hops, active_connection=links,
            batch_size=self.batch_size, aggregator=self.aggregator, seed=self.seed,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = LinkageGCN(x.shape[1], self.aggregator, tuple(self.channels))  # type: ignore[arg-type]
            task = LinkageTrainer(model, lr=self.lr, rotate=self.rotate)
            fit_quietly(task, data, self.epochs, self.progress)  # draws the rotations
        self.model_ = model.eval()
        clustering = self.cluster(features)
        self.labels_, self.scores_ = clustering.labels, clustering.scores
        self.n_clusters_ = int(self.labels_.max()) + 1
        return self

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Cluster features; they need not be those of `fit`.

        Args:
            X: ``[N, D]``.

        Returns:
            ``[N]`` labels, in the order of the clusters' smallest members.
        """
        return self.cluster(X).labels

    def cluster(self, X: Any) -> Clustering:
        """`predict` with the scores behind it."""
        check_is_fitted(self, "model_")
        return self.cluster_with(Pipeline(validate_data(self, X, dtype=np.float32, reset=False)))

    def cluster_with(self, pipeline: Pipeline) -> Clustering:
        """`cluster` for large sets: a `Pipeline` with a folder goes on after an interruption.

        Raises:
            ValueError: features of another width than in `fit`.
        """
        check_is_fitted(self, "model_")
        if pipeline.x.shape[1] != self.n_features_in_:
            raise ValueError(
                f"features must have {self.n_features_in_} columns as in fit, "
                f"got {pipeline.x.shape[1]}"
            )
        count = len(pipeline.x)
        if count < 3:  # a pair has no context
            none = np.empty((count, 0), dtype=np.int64)
            return Clustering(np.arange(count), none, none.astype(np.float32))
        hops, links = self._hops(count)
        graph = pipeline.graph(min(max(self.k, *hops, links), count - 1))
        neighbors, scores = pipeline.link_scores(graph, self.model_, hops, links)
        own = torch.arange(count).repeat_interleave(hops[0])
        edges = torch.stack((own, neighbors.flatten()), 1)
        pooled = pool_edges(edges, scores.flatten(), self.pooling)
        labels = link_clusters(*pooled, max_size=self.max_size, step=self.step, num_nodes=count)
        return Clustering(labels.numpy(), neighbors.numpy(), scores.numpy())

    def save(self, path: str | Path) -> None:
        """Write settings and weights; `load` reads them."""
        check_is_fitted(self, "model_")
        state = {
            "format": _FORMAT, "params": self.get_params(), "features": self.n_features_in_,
            "model": self.model_.state_dict(),
        }  # fmt: skip
        with replacing(path) as temporary:
            torch.save(state, temporary)

    @classmethod
    def load(cls, path: str | Path) -> FaceClusterer:
        """A clusterer as it was saved, without the labels of its own training faces.

        Raises:
            ValueError: the file is damaged or something else.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path} cannot be read as a FaceClusterer: {error}") from error
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise ValueError(f"{path} is not a {_FORMAT!r}")
        missing = sorted({"params", "features", "model"} - state.keys())
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)} of a {_FORMAT!r}")
        try:
            clusterer = cls(**state["params"])
            clusterer.n_features_in_ = state["features"]
            model = LinkageGCN(state["features"], clusterer.aggregator, tuple(clusterer.channels))  # type: ignore[arg-type]
            model.load_public(dict(state["model"]))
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path} cannot be used as a FaceClusterer: {error}") from error
        clusterer.model_ = model.eval()
        return clusterer

    def fit_predict(self, X: Any, y: Any = None, **kwargs: Any) -> NDArray[np.int64]:
        """The labels of ``fit(X, y)``."""
        return self.fit(X, y, **kwargs).labels_

    def _hops(self, count: int) -> tuple[tuple[int, int], int]:
        """The settings, as far as there are other faces."""
        k1, k2 = self.k_at_hop
        if self.active_connection < k2:
            raise ValueError(
                f"active_connection must be at least k_at_hop[1] = {k2}, "
                f"got {self.active_connection}"
            )
        others = count - 1
        return (min(k1, others), min(k2, others)), min(self.active_connection, others)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def fit_quietly(
    task: LinkageTrainer, data: LinkageData, epochs: int, progress: bool = False
) -> L.Trainer:
    """Train on the CPU without files, and without remarks unless `progress`."""
    loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        if not progress:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            trainer = L.Trainer(
                max_epochs=epochs, accelerator="cpu", devices=1, logger=False,
                enable_checkpointing=False, enable_progress_bar=progress,
                enable_model_summary=False,
            )  # fmt: skip
            trainer.fit(task, data)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    return trainer
