"""knn_graph: the result of brute force in float64, on every back end, whatever is in the data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import facekernels as fk
from facekernels import ops, reference
from facekernels._op import current_backend
from facekernels.ops import knn, knn_filter

METRICS = ("cosine", "ip", "l2")
emulated = pytest.mark.skipif(
    "emulated" not in fk.backends(), reason="built without the emulated back end"
)


def clustered(n: int, d: int, seed: int = 0, noise: float = 0.5) -> Tensor:
    gen = torch.Generator().manual_seed(seed)
    centers = torch.randn(max(n // 10, 1), d, generator=gen)
    return centers[torch.arange(n) % len(centers)] + noise * torch.randn(n, d, generator=gen)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.dtype, int, str]]:
    """Of every search that a call makes: dtype of the filter, queries, back end."""
    made = []

    def recorded(queries: Any, slack: Tensor, *args: Any) -> Tensor:
        made.append((queries.filter.dtype, len(slack), current_backend()))
        return search(queries, slack, *args)

    search = knn._search
    monkeypatch.setattr(knn, "_search", recorded)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "d", "k"), [(5, 3, 2), (97, 16, 8), (300, 33, 20), (1500, 64, 80)])
def test_brute_force(n: int, d: int, k: int, metric: str, dtype: torch.dtype) -> None:
    x = clustered(n, d).to(dtype)
    for own in (True, False):
        got = ops.knn_graph(x, k, metric=metric, exclude_self=own)
        idx, sim = reference.knn_graph(x, k, metric=metric, exclude_self=own)
        if dtype in (torch.float32, torch.float64):
            assert torch.equal(got.idx, idx)
        else:  # a few rows of 16 bits tie, and matmul rounds ties apart
            assert (got.idx == idx).float().mean() > 0.999
        torch.testing.assert_close(got.sim, sim, rtol=1e-6, atol=1e-6)
        assert (got.sim[:, 1:] <= got.sim[:, :-1]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_database_and_rows(metric: str) -> None:
    x, database = clustered(150, 20), clustered(700, 20, seed=1)
    for kwargs in ({"database": database}, {}):
        whole = ops.knn_graph(x, 12, metric=metric, **kwargs)
        idx, _ = reference.knn_graph(x, 12, metric=metric, **kwargs)
        assert torch.equal(whole.idx, idx)
        part = ops.knn_graph(x, 12, metric=metric, rows=(31, 90), **kwargs)
        assert torch.equal(part.idx, whole.idx[31:90])
        assert torch.equal(part.sim, whole.sim[31:90])
    assert len(ops.knn_graph(x, 3, rows=(7, 7)).idx) == 0


def test_the_row_itself_is_left_out_by_its_index() -> None:
    """Equal rows: the published code drops the first column, whoever is in it."""
    x = torch.eye(4).repeat_interleave(3, 0)
    got = ops.knn_graph(x, 3)
    assert got.idx[4].tolist() == [3, 5, 0]  # its equals, then all others tie: lowest index
    assert got.idx[0].tolist() == [1, 2, 3]
    assert ops.knn_graph(x, 3, exclude_self=False).idx[4].tolist() == [3, 4, 5]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows", [40, 1000])
def test_many_equal_rows(metric: str, rows: int) -> None:
    """More ties than there is room for candidates."""
    x = torch.cat((torch.ones(rows, 8), torch.eye(8)))
    got = ops.knn_graph(x, 5, metric=metric)
    assert got.idx[0].tolist() == [1, 2, 3, 4, 5]
    assert got.idx[3].tolist() == [0, 1, 2, 4, 5]
    assert got.idx[rows - 1].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("case", ["equal rows", "outlier, ip", "outlier, l2"])
def test_lost_queries_are_searched_together(
    case: str, searches: list[tuple[torch.dtype, int, str]]
) -> None:
    """60 equal rows among the first fill the lists of nearly all queries, as do large slacks."""
    x, metric = torch.randn(3000, 24, generator=torch.Generator().manual_seed(1)), "cosine"
    if case == "equal rows":
        x[:60] = x[0]
    else:
        metric = case.removeprefix("outlier, ")
        x[7] *= 1e6
    got = ops.knn_graph(x, 10, metric=metric)
    want, _ = reference.knn_graph(x, 10, metric=metric)
    assert torch.equal(got.idx, want)
    assert 2 <= len(searches) <= 3


def test_rows_whose_squares_underflow() -> None:
    x = torch.randn(5, 3, dtype=torch.float64) * 1e-200
    got = ops.knn_graph(x, 2, metric="ip")  # all products are 0: ties
    assert got.idx.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]
    with pytest.raises(ValueError, match=r"squares are zero in float64.*row 0"):
        ops.knn_graph(x, 2)


def test_nearly_equal_scores_are_ordered_in_float64() -> None:
    """Differences of 1e-9 are beyond float32 sums, which is what the filter has."""
    base = F.normalize(torch.randn(64, generator=torch.Generator().manual_seed(3)).double(), dim=0)
    x = base * (1 + 1e-9 * torch.arange(101, dtype=torch.float64)).unsqueeze(1)
    got = ops.knn_graph(x, 20, metric="ip")
    assert got.idx[0].tolist() == list(range(100, 80, -1))
    assert got.idx[50].tolist() == list(range(100, 80, -1))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e15])
@pytest.mark.parametrize("metric", METRICS)
def test_scale_of_the_features(metric: str, scale: float) -> None:
    x = clustered(200, 16)
    want, _ = reference.knn_graph(x.double() * scale, 10, metric=metric)
    assert torch.equal(ops.knn_graph(x.double() * scale, 10, metric=metric).idx, want)


def test_far_from_the_origin() -> None:
    """l2 around a mean far away: the filter works on centred rows."""
    x = clustered(300, 8).double() + 1e6
    want, _ = reference.knn_graph(x, 10, metric="l2")
    assert torch.equal(ops.knn_graph(x, 10, metric="l2").idx, want)


def hard_to_round(kind: str, n: int, d: int) -> Tensor:
    """Rows of which 8-bit codes and halves say little."""
    gen = torch.Generator().manual_seed(d)
    x = torch.randn(n, d, generator=gen)
    if kind == "near":  # closer than a step of the codes
        return x[:1] + 1e-3 * x
    if kind == "outliers":  # one coordinate sets the step
        x[:, 0] *= 1000
    if kind == "norms":  # from 1 to numbers whose squares underflow
        return x * 10 ** (-28 * torch.rand(n, 1, generator=gen))
    return x


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [3, 130])
@pytest.mark.parametrize("kind", ["plain", "near", "outliers", "norms"])
def test_codes_lose_nothing(kind: str, d: int, metric: str) -> None:
    """Where the processor has AVX-512 VNNI, pairs are first compared in 8 bits."""
    x = hard_to_round(kind, 1700, d)
    database = torch.cat((x[1000:].flip(0), x[:1000]))
    for kwargs in ({}, {"rows": (500, 1600), "database": database}):
        got = ops.knn_graph(x, 6, metric=metric, **kwargs)
        idx, _ = reference.knn_graph(x, 6, metric=metric, **kwargs)
        assert torch.equal(got.idx, idx)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 130), d=st.integers(1, 40), data=st.data(), metric=st.sampled_from(METRICS),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_small_integers_tie_exactly(
    n: int, d: int, data: st.DataObject, metric: str, seed: int
) -> None:
    """Products of small integers are exact in every order, so all ties are true ones."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (n, d), generator=gen).float()
    if metric == "cosine":  # equal norms, so that scaling is the same for all
        x = torch.where(x >= 0, 1.0, -1.0)
    k = data.draw(st.integers(1, n - 1))
    got = ops.knn_graph(x, k, metric=metric)
    want, _ = reference.knn_graph(x, k, metric="ip" if metric == "cosine" else metric)
    assert torch.equal(got.idx, want)


@emulated
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "d", "k"), [(6, 3, 2), (200, 17, 9), (700, 8, 70)])
def test_emulated_cuda(n: int, d: int, k: int, metric: str) -> None:
    """The same bits: the filter differs, the scores that decide do not."""
    x = clustered(n, d)
    want = ops.knn_graph(x, k, metric=metric)
    with fk.backend("emulated"):
        got = ops.knn_graph(x, k, metric=metric)
        part = ops.knn_graph(x, k, metric=metric, rows=(2, 5))
    assert torch.equal(got.idx, want.idx)
    assert torch.equal(part.idx, want.idx[2:5])
    torch.testing.assert_close(got.sim, want.sim, rtol=1e-6, atol=1e-7)
    if metric != "l2":
        assert torch.equal(got.sim, want.sim)


def test_halves_are_for_cuda_and_in_whole_steps() -> None:
    x = clustered(20, 17)
    sides = knn_filter.sides(x, x, "cosine")
    slack = torch.ones(20)
    halves = [side._replace(filter=side.filter.half()) for side in sides]
    result = knn._empty(x, 3, 20)
    with pytest.raises(ValueError, match="filter rows must be float32 on the CPU, got float16"):
        knn._search(halves[0], slack, halves[1], "cosine", False, 0, 32, result)
    if "emulated" in fk.backends():
        with (
            fk.backend("emulated"),
            pytest.raises(ValueError, match="must have a multiple of 16 elements"),
        ):
            knn._search(halves[0], slack, halves[1], "cosine", False, 0, 32, result)


@emulated
@pytest.mark.parametrize("metric", METRICS)
def test_halves_are_enough_for_ordinary_rows(
    metric: str, searches: list[tuple[torch.dtype, int, str]]
) -> None:
    """Several tiles of columns for a block, several stripes, a last step of 16 elements."""
    x = clustered(1100, 34)
    want = ops.knn_graph(x, 20, metric=metric)
    searches.clear()
    with fk.backend("emulated"):
        got = ops.knn_graph(x, 20, metric=metric)
    assert torch.equal(got.idx, want.idx)
    assert searches == [(torch.float16, len(x), "emulated")]


@emulated
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [3, 50])
@pytest.mark.parametrize("kind", ["near", "outliers", "norms"])
def test_halves_lose_nothing(kind: str, d: int, metric: str) -> None:
    """Thresholds in halves keep every true neighbour, or the query is searched in floats."""
    x = hard_to_round(kind, 400, d)
    database = torch.cat((x[150:].flip(0), x[:150]))
    for kwargs in ({}, {"rows": (70, 210), "database": database}):
        want = ops.knn_graph(x, 6, metric=metric, **kwargs)
        with fk.backend("emulated"):
            got = ops.knn_graph(x, 6, metric=metric, **kwargs)
        assert torch.equal(got.idx, want.idx)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [3, 130])
@pytest.mark.parametrize("kind", ["plain", "near", "outliers", "norms"])
def test_error_of_halves_is_bounded(kind: str, d: int, metric: str) -> None:
    x = hard_to_round(kind, 300, d)
    queries, data = knn_filter.sides(x, x, metric)
    rows, columns, slack = knn_filter.half_filter(queries.filter, data.filter, metric)
    exact = queries.filter.double()
    if metric == "ip":
        exact /= exact.norm(dim=1, keepdim=True)
    error = (exact @ data.filter.double().T - rows.double() @ columns.double().T).abs().amax(1)
    bound = slack.double() / 2
    assert (error <= bound).all()
    if kind == "plain":  # and of the size of what is lost
        assert bound.max() < 1e-3
        assert error.max() > 0.05 * bound.max()


@emulated
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("own", [True, False])
def test_emulated_cuda_with_more_ties_than_room(
    own: bool, metric: str, searches: list[tuple[torch.dtype, int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Visited again with the halves, then searched with floats, at last on the CPU."""
    x = torch.cat((clustered(60, 8), torch.ones(300, 8), torch.eye(8)))
    want = ops.knn_graph(x, 5, metric=metric, exclude_self=own)
    for room in (2048, 256):
        monkeypatch.setattr(knn, "_MAX_CUDA_CAPACITY", room)
        searches.clear()
        with fk.backend("emulated"):
            got = ops.knn_graph(x, 5, metric=metric, exclude_self=own)
        assert torch.equal(got.idx, want.idx)
        torch.testing.assert_close(got.sim, want.sim, rtol=1e-6, atol=1e-6)
        halves, floats, *rest = searches
        assert halves == (torch.float16, len(x), "emulated")
        assert floats[0] is torch.float32
        assert 300 <= floats[1] <= len(x)
        together = [] if room == 2048 else [(torch.float32, "auto")]
        assert [(dtype, where) for dtype, _, where in rest] == together


def test_threads_change_nothing() -> None:
    x = clustered(3000, 24)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ops.knn_graph(x, 15)
        torch.set_num_threads(3)
        three = ops.knn_graph(x, 15)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one.idx, three.idx)
    assert torch.equal(one.sim, three.sim)


def test_the_reference_back_end() -> None:
    x = clustered(80, 6)
    want = ops.knn_graph(x, 4)
    with fk.backend("reference"):
        assert torch.equal(ops.knn_graph(x, 4).idx, want.idx)


def test_layouts_and_views() -> None:
    x = clustered(120, 10)
    want = ops.knn_graph(x, 6).idx
    assert torch.equal(ops.knn_graph(x.t().contiguous().t(), 6).idx, want)
    assert torch.equal(ops.knn_graph(torch._neg_view(-x), 6).idx, want)
    assert torch.equal(ops.knn_graph(x.requires_grad_(), 6).idx, want)
    assert not ops.knn_graph(x, 6).sim.requires_grad


@pytest.mark.parametrize("method", ["faiss-ivf", "hnsw"])
@pytest.mark.parametrize("metric", METRICS)
def test_approximate_methods(method: str, metric: str) -> None:
    pytest.importorskip("faiss")
    x = clustered(800, 16, noise=0.3)
    exact = ops.knn_graph(x, 10, metric=metric)
    got = ops.knn_graph(x, 10, metric=metric, method=method, nprobe=40, ef=200)
    assert ops.knn_recall(got.idx, exact.idx) > 0.95
    assert not (got.idx == torch.arange(800).unsqueeze(1)).any()
    found = got.idx == exact.idx
    torch.testing.assert_close(got.sim[found], exact.sim[found], rtol=1e-4, atol=1e-4)
    if method == "faiss-ivf":
        all_cells = ops.knn_graph(x, 10, metric=metric, method=method, nlist=20, nprobe=20)
        assert ops.knn_recall(all_cells.idx, exact.idx) > 0.999


def test_recall_counts_in_any_order() -> None:
    a = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert ops.knn_recall(a, a.flip(1)) == 1
    assert ops.knn_recall(a, torch.tensor([[1, 9, 8], [6, 5, 7]])) == 0.5


ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
NAN = ROWS.clone()
NAN[3, 1] = float("nan")
ZERO = ROWS.clone()
ZERO[2] = 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.knn_graph(ROWS, 6), ValueError, "k must be between 1 and 5"),
        (lambda: ops.knn_graph(ROWS, 0), ValueError, "k must be between 1 and 5"),
        (lambda: ops.knn_graph(ROWS, 7, exclude_self=False), ValueError, "between 1 and 6"),
        (lambda: ops.knn_graph(ROWS, True), TypeError, "k must be an int, got bool"),
        (lambda: ops.knn_graph(ROWS[:0], 1), ValueError, "number of rows to find, which is 0"),
        (lambda: ops.knn_graph(ROWS[:1], 1), ValueError, "number of rows to find, which is 0"),
        (lambda: ops.knn_graph(ROWS[0], 1), ValueError, r"x must be \[N, D\] with D >= 1"),
        (lambda: ops.knn_graph(ROWS.long(), 1), TypeError, "x must be float32, float64"),
        (
            lambda: ops.knn_graph(NAN, 1),
            ValueError,
            "x must be finite, got NaN or infinity in row 3",
        ),
        (lambda: ops.knn_graph(NAN, 1, metric="l2"), ValueError, "in row 3"),
        (
            lambda: ops.knn_graph(ZERO, 1),
            ValueError,
            r"no zero row for 'cosine' \(.*\), got one in row 2",
        ),
        (
            lambda: ops.knn_graph(ROWS, 1, metric="dot"),
            ValueError,
            "metric must be one of 'cosine'",
        ),
        (
            lambda: ops.knn_graph(ROWS, 1, method="flann"),
            ValueError,
            "method must be one of 'exact'",
        ),
        (lambda: ops.knn_graph(ROWS, 1, rows=(2, 9)), ValueError, "rows must be"),
        (
            lambda: ops.knn_graph(ROWS, 1, database=ROWS[:, :3]),
            ValueError,
            r"database must be \[M, 4\]",
        ),
        (lambda: ops.knn_graph(ROWS, 1, database=ROWS.double()), TypeError, "dtype of x"),
        (lambda: ops.knn_recall(ROWS, ROWS), TypeError, "idx must hold integers"),
        (lambda: ops.knn_recall(ROWS.long(), ROWS[1:].long()), ValueError, "exact must be"),
    ],
)
def test_errors(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]


def test_zero_rows_have_inner_products() -> None:
    assert ops.knn_graph(ZERO, 5, metric="ip").idx[2].tolist() == [0, 1, 3, 4, 5]
