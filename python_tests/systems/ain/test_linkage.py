"""The linkage network, its training and FaceClusterer."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

L = pytest.importorskip("lightning")

from sklearn.base import clone  # noqa: E402

import facekernels as fk  # noqa: E402
from facekernels import ops  # noqa: E402
from facekernels.metrics import pairwise_f  # noqa: E402
from facekernels.systems.ain.linkage import (  # noqa: E402
    FaceClusterer,
    LinkageData,
    LinkageGCN,
    LinkageTrainer,
    synthetic_identities,
)
from facekernels.systems.ain.linkage.clusterer import fit_quietly  # noqa: E402
from facekernels.systems.ain.linkage.model import AGGREGATORS, subgraph_inputs  # noqa: E402
from facekernels.systems.ain.linkage.rotation import random_rotation  # noqa: E402

HOPS, LINKS = (12, 4), 5
CHANNELS = (64, 64, 32, 32)


def batch(n: int = 90, d: int = 10, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    x, labels = synthetic_identities(n // 6, 6, d, seed=1)
    x = x.to(dtype)
    knn = ops.knn_graph(x, 14).idx
    pivots = torch.arange(0, len(x), 9)
    return x, labels, knn, pivots


def network(aggregator: str = "mean", d: int = 10, padded: int | None = None) -> LinkageGCN:
    torch.manual_seed(0)
    model = LinkageGCN(d, aggregator, CHANNELS, 8, padded).double()
    with torch.no_grad():
        model.bn0.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
        model.bn0.running_var.uniform_(0.2, 0.6)  # type: ignore[union-attr]
        for convolution in model.convolutions:
            convolution.bias.uniform_(-0.1, 0.1)
    return model


def test_sparse_dense_and_fused_agree_in_evaluation() -> None:
    x, _, knn, pivots = batch()
    model = network().eval()
    graph = ops.pivot_subgraphs(knn, pivots, HOPS, LINKS)
    sparse = model.link_probabilities(x, graph)
    dense = torch.softmax(model.forward_dense(graph.dense(x)), -1)[..., 1]
    fused = model.scores(x, knn, pivots, HOPS, LINKS)
    with fk.backend("reference"):
        reference = model.scores(x, knn, pivots, HOPS, LINKS)
    assert dense.std() > 1e-3
    for other in (sparse, fused, reference):
        torch.testing.assert_close(other, dense, rtol=0, atol=1e-12)


def test_fused_logits_of_the_toy_set_are_the_dense_ones() -> None:
    """float32, on the set whose subgraphs were measured on the published code."""
    i, d = torch.arange(60).unsqueeze(1), torch.arange(1, 17, dtype=torch.float64)
    x = torch.sin(0.37 * (i // 6 + 1) * d + 0.5 * d) + 0.35 * torch.sin(1.7 * (i + 1) * d)
    x = torch.nn.functional.normalize(x)
    knn = (x @ x.T).fill_diagonal_(-2).topk(8).indices
    assert knn[7].tolist() == [11, 6, 8, 9, 10, 33, 44, 0]
    x, pivots = x.float(), torch.arange(60)
    model = network(d=16).float().eval()
    graph = ops.pivot_subgraphs(knn, pivots, (8, 3), 3)
    dense = model.forward_dense(graph.dense(x))
    centred, _ = subgraph_inputs(x, graph, "mean")
    sparse = model(centred, graph.indptr, graph.indices, graph.one_hop)
    link = dense.diff(dim=-1).squeeze(-1)  # of two classes, the probability tells the difference
    fused = torch.logit(model.scores(x, knn, pivots, (8, 3), 3))
    assert link.std() > 0.01
    for got, want in ((sparse, dense), (fused, link)):
        assert (got - want).abs().max() < 5e-6


def test_padded_statistics_train_as_the_published_code() -> None:
    """Loss, gradients and running statistics are those of padded subgraphs."""
    x, labels, knn, pivots = batch()
    graph = ops.pivot_subgraphs(knn, pivots, HOPS, LINKS)
    rows = HOPS[0] * (HOPS[1] + 1) + 1
    targets = (labels[graph.nodes[graph.one_hop]] == labels[pivots].unsqueeze(1)).long()
    sparse, dense = network(padded=rows).train(), network().train()
    centred, _ = subgraph_inputs(x, graph, "mean")
    logits = sparse(centred, graph.indptr, graph.indices, graph.one_hop)
    expected = dense.forward_dense(graph.dense(x, size=rows))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
    for model, out in ((sparse, logits), (dense, expected)):
        torch.nn.functional.cross_entropy(out.flatten(0, 1), targets.flatten()).backward()
        assert all(p.grad is not None for p in model.parameters())
    for (name, a), b in zip(sparse.named_parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-12, msg=name)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(sparse.bn0, name), getattr(dense.bn0, name))
    unpadded = network().train()(centred, graph.indptr, graph.indices, graph.one_hop)
    assert (unpadded - logits).abs().max() > 1e-3


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_gradients_of_every_aggregator(aggregator: str) -> None:
    """With the kernels and with plain PyTorch."""
    x, _, knn, pivots = batch()
    graph = ops.pivot_subgraphs(knn, pivots, HOPS, LINKS)
    centred, cosine = subgraph_inputs(x, graph, aggregator)
    gradients = []
    for backend in ("auto", "reference"):
        model = network(aggregator).train()
        with fk.backend(backend):
            out = model(centred, graph.indptr, graph.indices, graph.one_hop, cosine)
            out.square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("aggregator", ["weighted", "attention"])
def test_streamed_scores_of_other_aggregators(aggregator: str) -> None:
    x, _, knn, pivots = batch()
    model = network(aggregator).eval()
    graph = ops.pivot_subgraphs(knn, pivots, HOPS, LINKS)
    want = model.link_probabilities(x, graph)
    torch.testing.assert_close(model.scores(x, knn, pivots, HOPS, LINKS), want)
    mean = network().eval().link_probabilities(x, graph)
    assert (want - mean).abs().max() > 1e-4


def test_public_checkpoints(tmp_path: Path) -> None:
    """The layouts of both public repositories; the names are theirs."""
    names = set(LinkageGCN(10, channels=CHANNELS).state_dict())
    layers = {f"conv{i}.{p}" for i in range(1, 5) for p in ("weight", "bias")}
    head = {"classifier.0.weight", "classifier.0.bias", "classifier.1.weight",
            "classifier.2.weight", "classifier.2.bias"}  # fmt: skip
    assert names == layers | head | {
        f"bn0.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")
    }
    state = network().float().state_dict()
    path = tmp_path / "epoch_4.ckpt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 4}, path)
    model = LinkageGCN(10, channels=CHANNELS)
    model.load_public(path)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    old = {k: v for k, v in state.items() if k != "bn0.num_batches_tracked"}
    LinkageGCN(10, channels=CHANNELS).load_public(old)
    torch.save([1], path)
    with pytest.raises(TypeError, match="checkpoint must be a file or a state dict, got list"):
        model.load_public(path)
    with pytest.raises(ValueError, match=r"does not fit LinkageGCN: conv3\.bias"):
        model.load_public({k: v for k, v in state.items() if k != "conv3.bias"})
    with pytest.raises(ValueError, match=r"conv1\.weight \(20, 64\) instead of \(24, 64\)"):
        LinkageGCN(12, channels=CHANNELS).load_public(state)


def test_model_errors() -> None:
    with pytest.raises(ValueError, match="aggregator must be one of mean, weighted, attention"):
        LinkageGCN(4, "max")
    x, _, knn, pivots = batch()
    with pytest.raises(ValueError, match="must be in evaluation mode"):
        network().train().scores(x, knn, pivots, HOPS, LINKS)
    graph = ops.pivot_subgraphs(knn, pivots, HOPS, LINKS)
    training = network().train()
    before = training.bn0.running_mean.clone()  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match="must be in evaluation mode"):
        training.link_probabilities(x, graph)
    assert torch.equal(training.bn0.running_mean, before)  # type: ignore[arg-type]
    centred, _ = subgraph_inputs(x, graph, "mean")
    with pytest.raises(ValueError, match="padded_nodes must be at least"):
        network(padded=3).train()(centred, graph.indptr, graph.indices, graph.one_hop)
    with pytest.raises(ValueError, match="cosine is needed"):
        network("weighted")(centred, graph.indptr, graph.indices, graph.one_hop)


def train(backend: str, epochs: int = 2, seed: int = 0) -> tuple[LinkageGCN, list[float]]:
    x, y = synthetic_identities(60, 12, 32, noise=(0.5, 1.1), seed=seed)
    torch.manual_seed(seed)
    task = LinkageTrainer(LinkageGCN(32, channels=CHANNELS), lr=0.1, rotate=True)
    losses: list[float] = []
    step = task.training_step

    def record(*args: object) -> Tensor:
        loss = step(*args)  # type: ignore[arg-type]
        losses.append(loss.item())
        return loss

    task.training_step = record  # type: ignore[method-assign, assignment]
    data = LinkageData(x, y, k_at_hop=(20, 4), active_connection=4, batch_size=16, seed=seed)
    with fk.backend(backend):
        fit_quietly(task, data, epochs)
    return task.model, losses


def test_training_learns_and_the_kernels_change_nothing() -> None:
    _, ours = train("auto")
    _, plain = train("reference")
    assert len(ours) == 2 * 45
    assert np.mean(ours[-5:]) < 0.75 * np.mean(ours[:3])
    np.testing.assert_allclose(ours[:8], plain[:8], rtol=1e-3)
    assert train("auto")[1] == ours  # the same bits again


def test_rotation_is_orthogonal_and_uniform() -> None:
    torch.manual_seed(0)
    turns = torch.stack([random_rotation(3) for _ in range(2000)])
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).expand_as(turns), rtol=0, atol=1e-5)
    assert turns.mean(0).abs().max() < 0.06
    torch.testing.assert_close(turns.var(0), torch.full((3, 3), 1 / 3), rtol=0, atol=0.03)


def test_a_constant_network_is_reported() -> None:
    """With the shares of the whole epoch, and of that epoch alone."""
    x, y = synthetic_identities(20, 6, 16)
    data = LinkageData(x, y, k_at_hop=(10, 3), active_connection=3, batch_size=16)
    neighbors = ops.knn_graph(x, 10).idx
    links = (y[neighbors] == y.unsqueeze(1)).double().mean().item()
    assert 0.1 < links < 0.9
    task = LinkageTrainer(LinkageGCN(16, channels=CHANNELS), lr=0.0)
    last = task.model.classifier[2]
    for bias, share in (([50.0, -50.0], "0.0%"), ([-50.0, 50.0], "100.0%")):
        with torch.no_grad():
            last.bias.copy_(torch.tensor(bias))  # type: ignore[operator, union-attr]
        expected = re.escape(f"predicts {share} links where {links:.1%} are: it is constant")
        with pytest.warns(UserWarning, match=expected):
            fit_quietly(task, data, 1)


def test_labels_of_another_length() -> None:
    x, y = synthetic_identities(20, 6, 16)
    with pytest.raises(ValueError, match=r"labels must be as many as features \(120\), got 119"):
        LinkageData(x, y[1:])


def clusterer(**changes: object) -> FaceClusterer:
    settings = {
        "k": 20, "k_at_hop": (20, 4), "active_connection": 4, "max_size": 14,
        "channels": CHANNELS, "batch_size": 16, "epochs": 3, "lr": 0.1,
    }  # fmt: skip
    return FaceClusterer(**{**settings, **changes})  # type: ignore[arg-type]


def test_clustering_of_identities_never_seen() -> None:
    """Better than the best single similarity for the same neighbours."""
    train_x, train_y = synthetic_identities(80, 12, 32, noise=(0.5, 1.1), seed=0)
    x, y = synthetic_identities(80, 12, 32, noise=(0.5, 1.1), seed=1)
    model = clusterer().fit(train_x.numpy(), train_y.numpy())
    found = model.cluster(x.numpy())
    labels = found.labels
    assert (model.predict(x.numpy()) == labels).all()
    graph = ops.knn_graph(x, 20)
    own = torch.arange(len(x)).repeat_interleave(20)
    edges, sims = torch.stack((own, graph.idx.flatten()), 1), graph.sim.flatten()
    threshold = max(
        pairwise_f(y, ops.threshold_clusters(edges, sims, t / 50, num_nodes=len(x))).f
        for t in range(50)
    )
    assert pairwise_f(y, labels).f >= threshold + 0.02
    assert model.n_clusters_ == model.labels_.max() + 1
    assert pairwise_f(train_y, model.labels_).f > 0.8
    assert model.scores_.shape == found.scores.shape == (960, 20)
    same = y.numpy()[found.neighbors] == y.numpy()[:, None]
    assert ((found.scores > 0.5) == same).mean() > 0.85
    assert (np.bincount(labels) <= 14).all()


def test_scikit_learn_conventions() -> None:
    model = clusterer(k=9)
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(k=7).k == 7
    with pytest.raises(ValueError, match="Invalid parameter"):
        model.set_params(neighbours=3)


@pytest.mark.filterwarnings("ignore")  # the checks provoke many
def test_estimator_checks() -> None:
    from sklearn.utils.estimator_checks import check_estimator

    small = clusterer(channels=(8, 8, 4, 4), epochs=1, k=5, k_at_hop=(5, 2), active_connection=2)
    expected = {
        # What predict returns depends on all rows together.
        "check_methods_subset_invariance": "clusters are made of all rows",
        "check_methods_sample_order_invariance": "labels are numbered in the order of the rows",
        "check_clustering": "it needs labels",
        "check_estimators_dtypes": "its integers have zero rows, which have no cosine",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(small, expected_failed_checks=expected, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed, failed
    assert sum(r["status"] == "passed" for r in results) > 25


def test_few_faces() -> None:
    """All others are neighbours; fewer than three faces have no context and stay alone."""
    x, y = synthetic_identities(50, 8, 16, noise=(0.2, 0.8))
    model = clusterer().fit(x.numpy(), y.numpy())
    for count in (1, 2):
        found = model.cluster(x[:count].numpy())
        assert found.labels.tolist() == list(range(count))
        assert found.neighbors.shape == found.scores.shape == (count, 0)
    for count in (3, 4):
        found = model.cluster(x[:count].numpy())
        others = [[j for j in range(count) if j != i] for i in range(count)]
        assert found.neighbors.tolist() == others
        assert found.labels.tolist() == [0] * count  # no more than max_size, and all linked
        knn = ops.knn_graph(x[:count], count - 1).idx
        hops = (count - 1, min(4, count - 1))
        graph = ops.pivot_subgraphs(knn, torch.arange(count), hops, hops[1])
        logits = model.model_.forward_dense(graph.dense(x[:count]))
        np.testing.assert_allclose(found.scores, logits.softmax(-1)[..., 1].detach(), atol=1e-5)


def test_clusterer_errors() -> None:
    x, y = synthetic_identities(5, 4, 8)
    bad = x.numpy().copy()
    bad[3] = 0
    with pytest.raises(ValueError, match="direction in every row: row 3 is zero"):
        clusterer().fit(bad, y.numpy())
    bad[3] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        clusterer().fit(bad, y.numpy())
    with pytest.raises(ValueError, match="the target y is None"):
        clusterer().fit(x.numpy())
    with pytest.raises(ValueError, match="epochs must be at least 1, got -3"):
        clusterer(epochs=-3).fit(x.numpy(), y.numpy())
    with pytest.raises(
        ValueError, match=r"active_connection must be at least k_at_hop\[1\] = 5, got 1"
    ):
        clusterer(k_at_hop=(10, 5), active_connection=1).fit(x.numpy(), y.numpy())


@pytest.mark.filterwarnings("ignore:the linkage network predicts")  # after one epoch
def test_seed_decides_everything() -> None:
    """Also the rotations, whatever the global generator was, which is left where it was."""
    x, y = synthetic_identities(12, 6, 8, noise=(0.5, 1.0))
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        model = clusterer(channels=(8, 8, 4, 4), epochs=1).fit(x.numpy(), y.numpy())
        assert torch.equal(torch.get_rng_state(), before)
        states.append(model.model_.state_dict())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    other = clusterer(channels=(8, 8, 4, 4), epochs=1, seed=1).fit(x.numpy(), y.numpy())
    assert not torch.equal(other.model_.conv1.weight, states[0]["conv1.weight"])
