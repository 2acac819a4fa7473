"""margin_cross_entropy: known numbers, the published losses, sampling, memory, groups, errors."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

import facekernels as fk
from facekernels import _op, ops, reference
from facekernels.ops import margin_softmax
from facekernels.reference.margin_softmax import margin_of

COSFACE, ARCFACE = (1.0, 0.0, 0.4), (1.0, 0.5, 0.0)
BACKENDS = [b for b in ("auto", "emulated") if b in ("auto", *fk.backends())]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with fk.backend(request.param):
        yield request.param


def with_cosines(*cosines: float) -> tuple[Tensor, Tensor]:
    """One embedding, and unit class weights that have these cosines with it."""
    rows = [(c, math.sqrt(1 - c * c)) for c in cosines]
    return torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor(rows, dtype=torch.float64)


def published(
    cosines: Tensor, labels: Tensor, s: float, margins: tuple[float, float, float]
) -> Tensor:
    """Logits by the formulas of the released losses, on a matrix of cosines."""
    logits = cosines.clone()
    _, m2, m3 = margins
    for b, label in enumerate(labels.tolist()):
        c = cosines[b, label]
        if m2:
            beyond = c <= math.cos(math.pi - m2)
            sine = torch.sqrt(1 - c * c)
            c = (
                c - math.sin(math.pi - m2) * m2
                if beyond
                else c * math.cos(m2) - sine * math.sin(m2)
            )
        logits[b, label] = c - m3
    return s * logits


@pytest.mark.parametrize(
    ("cosines", "label", "margins", "logit"),
    [
        ((0.5, 0.1, -0.2), 0, COSFACE, 6.4),
        ((0.5, 0.1, -0.2), 0, ARCFACE, 1.5102),
        ((0.3, 0.9, 0.0), 1, COSFACE, 32.0),
        ((0.3, 0.9, 0.0), 1, ARCFACE, 37.1742),
        ((-0.95, 0.1, 0.2), 0, ARCFACE, -76.1416),  # the angle plus the margin is above pi
    ],
)
def test_known_logits(
    backend: str, cosines: tuple[float, ...], label: int, margins: Any, logit: float
) -> None:
    e, w = with_cosines(*cosines)
    loss = ops.margin_cross_entropy(3 * e, 0.01 * w, torch.tensor([label]), margins=margins)
    others = [64 * c for i, c in enumerate(cosines) if i != label]
    all_logits = torch.tensor([logit, *others], dtype=torch.float64)
    assert loss.item() == pytest.approx((all_logits.logsumexp(0) - logit).item(), abs=1e-4)
    assert 64 * margin_of(torch.tensor(cosines[label]).double(), margins).item() == pytest.approx(
        logit, abs=1e-4
    )


@pytest.mark.parametrize("margins", [COSFACE, ARCFACE], ids=["cosface", "arcface"])
def test_loss_and_gradients_are_those_of_cross_entropy(backend: str, margins: Any) -> None:
    gen = torch.Generator().manual_seed(0)
    e = torch.randn(9, 20, generator=gen, dtype=torch.float64, requires_grad=True)
    w = torch.randn(130, 20, generator=gen, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(130, (9,), generator=gen)
    with torch.no_grad():
        w[labels[0]] = -e[0] * 0.99  # beyond pi
    cosines = F.normalize(e) @ F.normalize(w).T
    want = F.cross_entropy(published(cosines, labels, 64.0, margins), labels)
    got = ops.margin_cross_entropy(e, w, labels, margins=margins)
    assert got.item() == pytest.approx(want.item(), rel=1e-12)
    for g, t in zip(
        torch.autograd.grad(got, (e, w)), torch.autograd.grad(want, (e, w)), strict=True
    ):
        torch.testing.assert_close(g, t, rtol=1e-9, atol=1e-12)


def test_straight_through_takes_one_as_the_margins_derivative(backend: str) -> None:
    """As insightface's ArcFace, which changes the logits where autograd does not see it."""
    gen = torch.Generator().manual_seed(1)
    e = torch.randn(6, 8, generator=gen, dtype=torch.float64, requires_grad=True)
    w = torch.randn(15, 8, generator=gen, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(6)
    cosines = (F.normalize(e) @ F.normalize(w).T).clamp(-1, 1)
    logits = cosines.clone()
    with torch.no_grad():
        angles = logits.arccos_()
        angles[torch.arange(6), labels] += 0.5
        logits.cos_()
    want = F.cross_entropy(30 * logits, labels)
    got, exact = (
        ops.margin_cross_entropy(e, w, labels, 30.0, ARCFACE, gradient=gradient)
        for gradient in ("straight_through", "exact")
    )
    assert got.item() == pytest.approx(want.item(), rel=1e-9)
    assert got.item() == exact.item()
    theirs = torch.autograd.grad(want, (e, w))
    for g, t in zip(torch.autograd.grad(got, (e, w)), theirs, strict=True):
        torch.testing.assert_close(g, t, rtol=1e-9, atol=1e-12)
    d_exact = torch.autograd.grad(exact, (e, w))
    assert not torch.allclose(d_exact[0], theirs[0], rtol=1e-2)


def test_rows_without_target(backend: str) -> None:
    """Loss 0, no gradient; the mean still counts them, as the published one does."""
    e, w = torch.randn(4, 6, requires_grad=True), torch.randn(9, 6, requires_grad=True)
    labels = torch.tensor([3, -1, 0, -1])
    rows = ops.margin_cross_entropy(e, w, labels, reduction="none")
    assert (rows == 0).tolist() == [False, True, False, True]
    mean = ops.margin_cross_entropy(e, w, labels)
    assert mean.item() == pytest.approx(rows.sum().item() / 4)
    d_e, d_w = torch.autograd.grad(mean, (e, w))
    assert d_e[1].abs().max() == 0
    alone = ops.margin_cross_entropy(e[::2], w, labels[::2], reduction="sum") / 4
    torch.testing.assert_close(torch.autograd.grad(alone, w)[0], d_w)


def test_a_cosine_of_one_has_finite_gradients(backend: str) -> None:
    e = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    w = torch.tensor([[3.0, 0.0], [0.0, -1.0]], requires_grad=True)
    for margins in (ARCFACE, (0.9, 0.3, 0.1)):
        loss = ops.margin_cross_entropy(e, w, torch.tensor([0, 1]), 8.0, margins)
        for g in torch.autograd.grad(loss, (e, w)):
            assert g.isfinite().all()


def test_small_losses_keep_their_digits(backend: str) -> None:
    """The loss of an easy row is log1p(exp(-x)), not the difference of two large numbers."""
    e, w = with_cosines(1.0, 0.3)
    loss = ops.margin_cross_entropy(e.float(), w.float(), torch.tensor([0]), 64.0, (1.0, 0.0, 0.0))
    assert loss.item() == pytest.approx(math.exp(64 * (0.3 - 1)), rel=1e-4)


def test_large_scales_do_not_overflow(backend: str) -> None:
    e, w = torch.randn(3, 5), torch.randn(20, 5)
    labels = torch.tensor([1, 2, 3])
    largest = torch.finfo(torch.float32).max
    assert not ops.margin_cross_entropy(e, w, labels, largest, reduction="none").isnan().any()
    got = ops.margin_cross_entropy(e, w, labels, 5000.0, reduction="none")
    want = reference.margin_cross_entropy(e.double(), w.double(), labels, 5000.0, reduction="none")
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-2)


def test_nan(backend: str) -> None:
    e, w = torch.randn(3, 5), torch.randn(20, 5)
    labels = torch.tensor([1, 2, 3])
    e[1, 2] = float("nan")
    rows = ops.margin_cross_entropy(e, w, labels, reduction="none")
    assert rows.isnan().tolist() == [False, True, False]
    w[19, 0] = float("nan")
    assert ops.margin_cross_entropy(e, w, labels, reduction="none").isnan().all()


def test_zero_rows_are_divided_by_the_smallest_norm(backend: str) -> None:
    e, w = torch.randn(3, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    w[4], e[1] = 0, 0
    labels = torch.tensor([4, 0, 1])
    leaves = [t.requires_grad_() for t in (e, w)]
    got = torch.autograd.grad(ops.margin_cross_entropy(*leaves, labels, 4.0), leaves)
    want = torch.autograd.grad(reference.margin_cross_entropy(*leaves, labels, 4.0), leaves)
    for g, t in zip(got, want, strict=True):
        torch.testing.assert_close(g, t, rtol=1e-9, atol=1e-12)


def test_out_of_range_labels_are_not_read_by(backend: str, monkeypatch: Any) -> None:
    """Where the values may not be looked at, the row's loss is NaN."""
    monkeypatch.setattr(margin_softmax, "_values_known", lambda t: False)
    e, w = torch.randn(4, 5), torch.randn(20, 5)
    labels = torch.tensor([1, 20, -2, -1])
    rows = ops.margin_cross_entropy(e, w, labels, reduction="none")
    assert rows.isnan().tolist() == [False, True, True, False]
    index = torch.tensor([1, 5])
    rows = ops.margin_cross_entropy(e, w, labels, reduction="none", sample_index=index)
    assert rows.isnan().tolist() == [False, True, True, False]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 40), st.integers(1, 220), st.integers(2, 140), st.integers(0, 2**31),
    st.sampled_from([COSFACE, ARCFACE, (1.2, 0.1, 0.1)]),
)  # fmt: skip
def test_any_size(b: int, v: int, d: int, seed: int, margins: Any) -> None:
    gen = torch.Generator().manual_seed(seed)
    e, w = (
        torch.randn(n, d, generator=gen, dtype=torch.float64, requires_grad=True) for n in (b, v)
    )
    labels = torch.randint(-1, v, (b,), generator=gen)
    got, want = (
        f(e, w, labels, 10.0, margins, reduction="sum")
        for f in (ops.margin_cross_entropy, reference.margin_cross_entropy)
    )
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    for g, t in zip(
        torch.autograd.grad(got, (e, w)), torch.autograd.grad(want, (e, w)), strict=True
    ):
        torch.testing.assert_close(g, t, rtol=1e-7, atol=1e-8)


# ---- Sampled classes


def test_sampled_classes_are_those_of_the_smaller_matrix(backend: str) -> None:
    gen = torch.Generator().manual_seed(2)
    e = torch.randn(5, 12, generator=gen, requires_grad=True)
    w = torch.randn(60, 12, generator=gen, requires_grad=True)
    index = torch.tensor([0, 3, 7, 20, 21, 59])
    labels = torch.tensor([3, 59, 0, 21, -1])
    small = w.detach()[index].requires_grad_()
    local = torch.tensor([1, 5, 0, 4, -1])
    want = ops.margin_cross_entropy(e, small, local)
    d_e, d_small = torch.autograd.grad(want, (e, small))

    got = ops.margin_cross_entropy(e, w, labels, sample_index=index)
    assert got.item() == want.item()
    got.backward()
    assert w.grad is not None
    assert w.grad.is_sparse
    assert torch.equal(w.grad._indices()[0], index)
    torch.testing.assert_close(w.grad._values(), d_small)
    torch.testing.assert_close(e.grad, d_e)

    dense = ops.margin_cross_entropy(e, w, labels, sample_index=index, sparse_grad=False)
    (d_w,) = torch.autograd.grad(dense, w)
    torch.testing.assert_close(d_w, torch.zeros_like(w).index_copy(0, index, d_small))


def test_rows_that_are_not_sampled_are_not_read(backend: str) -> None:
    e, w = torch.randn(2, 12), torch.full((60, 12), float("nan"))
    index = torch.tensor([3, 40])
    w[index] = torch.randn(2, 12)
    assert ops.margin_cross_entropy(e, w, index, sample_index=index).isfinite()


@pytest.mark.skipif("emulated" not in BACKENDS, reason="the emulated kernels are not built")
@pytest.mark.parametrize("wild", [-3, 60, 2**40])
def test_rows_that_do_not_exist_are_nan_on_cuda(wild: int) -> None:
    e, w = torch.randn(70, 12, requires_grad=True), torch.randn(60, 12, requires_grad=True)
    index = torch.tensor([3, 40, wild]).sort().values
    labels = torch.tensor([3, 40] * 35)
    with fk.backend("emulated"):
        rows = ops.margin_cross_entropy(e, w, labels, sample_index=index, reduction="none")
        assert rows.isnan().all()
        (d_e,) = torch.autograd.grad(rows.sum(), e)
    assert d_e.isnan().all()


def test_weights_that_are_a_view_or_transposed(backend: str) -> None:
    """The operations behind a view may not take a sparse gradient: it is dense there."""
    gen = torch.Generator().manual_seed(5)
    e, w = torch.randn(4, 6, generator=gen), torch.randn(20, 6, generator=gen)
    index, labels = torch.tensor([1, 4, 9, 16]), torch.tensor([4, 16, 1, 9])

    def gradient(leaf: Tensor, weights: Tensor) -> Tensor:
        loss = ops.margin_cross_entropy(e, weights, labels, sample_index=index)
        return torch.autograd.grad(loss, leaf)[0]

    plain = w.clone().requires_grad_()
    want = gradient(plain, plain)
    assert want.is_sparse
    transposed = w.T.contiguous().T.requires_grad_()
    assert not transposed.is_contiguous()
    got = gradient(transposed, transposed)
    assert got.is_sparse
    assert torch.equal(got.to_dense(), want.to_dense())
    base = w.T.contiguous().requires_grad_()
    assert torch.equal(gradient(base, base.T), want.to_dense().T)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("b", "v", "d"), [(3, 7, 5), (33, 300, 40), (70, 100, 17)])
def test_kept_cosines_change_no_bit(b: int, v: int, d: int, dtype: torch.dtype) -> None:
    gen = torch.Generator().manual_seed(4)
    e, w = (torch.randn(n, d, generator=gen).to(dtype).requires_grad_() for n in (b, v))
    labels = torch.randint(-1, v, (b,), generator=gen)
    index = torch.cat((labels, torch.arange(0, v, 3))).clamp_min(0).unique()
    for sample_index in (None, index):
        kept, made_again = (
            ops.margin_cross_entropy(
                e, w, labels, sample_index=sample_index, sparse_grad=False, keep_cosines=keep
            )
            for keep in (True, False)
        )
        assert kept.item() == made_again.item()
        want = torch.autograd.grad(made_again, (e, w))
        for _ in range(2):  # the second time from what the first left
            got = torch.autograd.grad(kept, (e, w), retain_graph=True)
            assert all(torch.equal(g, t) for g, t in zip(got, want, strict=True))


# ---- Memory


def test_backward_of_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA computes the cosines again a chunk of classes at a time."""
    monkeypatch.setattr(margin_softmax, "_CHUNK", 1280)
    generator = torch.Generator().manual_seed(0)
    e, w = (torch.randn(n, 17, generator=generator, dtype=torch.float64) for n in (70, 300))
    labels = torch.randint(300, (70,), generator=generator)
    found = {}
    for name in ("emulated", "reference"):
        leaves = e.clone().requires_grad_(), w.clone().requires_grad_()
        with fk.backend(name):
            loss = ops.margin_cross_entropy(*leaves, labels, 8.0)
        with fk.backend("auto" if name == "reference" else name):
            found[name] = torch.autograd.grad(loss, leaves)
    for ours, expected in zip(found["emulated"], found["reference"], strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-10)


def test_margins_must_make_sense() -> None:
    e, w, labels = torch.randn(2, 3), torch.randn(4, 3), torch.tensor([0, 1])
    for margins in ((1.0, -0.5, 0.0), (1.0, 4.0, 0.0), (1.0, 0.0, float("inf"))):
        with pytest.raises(ValueError, match="margins must be finite, with 0 <= m2 <= pi"):
            ops.margin_cross_entropy(e, w, labels, margins=margins)


def test_the_sparse_gradient_owns_its_index() -> None:
    e, w = torch.randn(2, 3), torch.randn(6, 3, requires_grad=True)
    index = torch.tensor([0, 2, 5])
    ops.margin_cross_entropy(e, w, torch.tensor([2, 5]), sample_index=index).backward()
    index.fill_(1)
    assert w.grad is not None
    assert w.grad.coalesce().indices().tolist() == [[0, 2, 5]]


@pytest.mark.parametrize("transform", [False, True])
def test_the_plain_form_is_float32_for_16_bits_and_under_autocast(transform: bool) -> None:
    e, w, labels = torch.randn(4, 8), torch.randn(9, 8), torch.arange(4)
    expected = fk.reference.margin_cross_entropy(e.bfloat16().float(), w.bfloat16().float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        if transform:
            function = lambda x: ops.margin_cross_entropy(x, w.bfloat16(), labels)  # noqa: E731
            found = torch.func.vmap(function)(e.bfloat16()[None])[0]
        else:
            found = fk.reference.margin_cross_entropy(e.bfloat16(), w.bfloat16(), labels)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, expected)


def test_memory_does_not_grow_with_the_logits() -> None:
    """Of 512 rows and 40,000 classes the logits alone are 82 MB; the passes take 12 MB beside W and
    its gradient.
    """
    import subprocess
    import sys

    code = """
import sys, torch
from facekernels import backend, ops
from facekernels.systems.common.memory import peak_mb
torch.set_num_threads(1)
e, w = torch.randn(512, 16, requires_grad=True), torch.randn(40000, 16, requires_grad=True)
labels = torch.arange(512)
with backend(sys.argv[1]):
    for b in (8, 512):
        before = peak_mb()
        ops.margin_cross_entropy(e[:b], w, labels[:b]).backward()
print(peak_mb() - before)
"""
    grown = [
        float(subprocess.check_output([sys.executable, "-c", code, name], text=True))
        for name in ("auto", "reference")
    ]
    assert grown[0] < 20
    assert grown[1] > 82


# ---- Fake tensors, back ends, threads


def test_fake_tensors_give_shapes_without_values() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    e, w, labels = torch.randn(4, 6, requires_grad=True), torch.randn(9, 6), torch.arange(4)
    with FakeTensorMode() as mode:
        fake_e, fake_w, fake_labels = (mode.from_tensor(t) for t in (e, w, labels))
        rows = ops.margin_cross_entropy(fake_e, fake_w, fake_labels, reduction="none")
        assert rows.shape == (4,)
        assert torch.autograd.grad(rows.sum(), fake_e)[0].shape == (4, 6)
        some = ops.margin_cross_entropy(fake_e, fake_w, fake_labels, sample_index=fake_labels)
        assert some.shape == ()
    assert not margin_softmax._values_known(fake_labels)


@pytest.mark.skipif("emulated" not in BACKENDS, reason="the emulated kernels are not built")
@pytest.mark.parametrize(("first", "second"), [("auto", "emulated"), ("emulated", "auto")])
def test_another_back_end_in_the_backward_pass_is_refused(first: str, second: str) -> None:
    e, w = torch.randn(3, 5, requires_grad=True), torch.randn(7, 5)
    with fk.backend(first):
        loss = ops.margin_cross_entropy(e, w, torch.arange(3))
    with (
        fk.backend(second),
        pytest.raises(RuntimeError, match=f"changed between .* to '{second}'"),
    ):
        loss.backward()


@pytest.fixture
def threads() -> Iterator[None]:
    """The number of threads is as before afterwards."""
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("b", "v"), [(512, 1000), (64, 500), (200, 70)])
def test_the_number_of_threads_changes_no_bit(b: int, v: int) -> None:
    e, w = torch.randn(b, 512, requires_grad=True), torch.randn(v, 512, requires_grad=True)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        loss = ops.margin_cross_entropy(e, w, torch.arange(b) % v)
        results.append((loss, *torch.autograd.grad(loss, (e, w))))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("b", "v"), [(512, 1000), (64, 500)])
def test_few_classes_are_shared_by_the_threads(b: int, v: int) -> None:
    """The process computes for longer than this thread does, summed over many calls: the kernel
    adds up what a running thread has computed at its ticks only.
    """
    torch.set_num_threads(2)
    e, w = torch.randn(b, 512, requires_grad=True), torch.randn(v, 512, requires_grad=True)
    loss = ops.margin_cross_entropy(e, w, torch.arange(b) % v)
    own, of_all = time.thread_time(), time.process_time()
    for _ in range(40):
        torch.autograd.grad(loss, (e, w), retain_graph=True)
    own, of_all = time.thread_time() - own, time.process_time() - of_all
    assert of_all > 1.2 * own


# ---- Classes spread over a group


@pytest.fixture
def alone() -> Iterator[dist.ProcessGroup]:
    """A group of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.parametrize("name", [*BACKENDS, "reference"])
@pytest.mark.parametrize("gradient", ["exact", "straight_through"])
@pytest.mark.parametrize("sampled", [False, True])
def test_a_group_of_one(
    alone: dist.ProcessGroup, name: str, gradient: str, sampled: bool, monkeypatch: Any
) -> None:
    gen = torch.Generator().manual_seed(6)
    e, w = (torch.randn(n, 5, generator=gen, dtype=torch.float64).requires_grad_() for n in (4, 30))
    labels, index = torch.tensor([3, -1, 12, 29]), torch.tensor([0, 3, 12, 20, 29])
    launched: list[Any] = []
    monkeypatch.setattr(
        margin_softmax, "launch", lambda op, *a: launched.append(op) or _op.launch(op, *a)
    )

    def run(**options: Any) -> tuple[Tensor, ...]:
        rows = ops.margin_cross_entropy(
            e, w, labels, 9.0, ARCFACE, sample_index=index if sampled else None,
            gradient=gradient, reduction="none", **options,
        )  # fmt: skip
        return rows, *(g.to_dense() for g in torch.autograd.grad(rows.square().sum(), (e, w)))

    with fk.backend(name):
        got = run(group=alone)
    assert bool(launched) == (name != "reference")
    with fk.backend("reference"):
        want = run()
    for g, t in zip(got, want, strict=True):
        torch.testing.assert_close(g, t, rtol=1e-9, atol=1e-12)


def test_a_group_is_refused_where_it_cannot_be_differentiated(alone: dist.ProcessGroup) -> None:
    e, w, labels = torch.randn(2, 3), torch.randn(4, 3), torch.tensor([0, 1])
    with pytest.raises(NotImplementedError, match=r"with group is not there under torch\.func"):
        torch.func.grad(lambda x: ops.margin_cross_entropy(x, w, labels, group=alone))(e)
    e.requires_grad_()
    loss = ops.margin_cross_entropy(e, w, labels, group=alone)
    (gradient,) = torch.autograd.grad(loss, e, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# Classes of the first of two ranks, of all; a rank without classes, and one class in all.
SHARDS = [(3, 7), (7, 7), (1, 1)]


def _shards(first: int, classes: int) -> tuple[Tensor, Tensor, Tensor, tuple[slice, slice]]:
    gen = torch.Generator().manual_seed(first + classes)
    e, w = (torch.randn(n, 4, generator=gen, dtype=torch.float64) for n in (5, classes))
    labels = torch.tensor([0, 6, 3, -1, 2]) % classes
    labels[3] = -1
    return e, w, labels, (slice(0, first), slice(first, classes))


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    results = []
    for name in (*BACKENDS, "reference"):
        for sizes in SHARDS:
            e, w, labels, shards = _shards(*sizes)
            e, mine = e.requires_grad_(), w[shards[rank]].clone().requires_grad_()
            local = labels - shards[rank].start
            local = local.where((labels >= 0) & (local >= 0) & (local < len(mine)), -1)
            with fk.backend(name):
                rows = ops.margin_cross_entropy(
                    e, mine, local, 8.0, reduction="none", group=dist.group.WORLD
                )
                results.append((rows.detach(), *torch.autograd.grad(rows.sum(), (e, mine))))
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_shards_are_one_matrix(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for i, of_ranks in enumerate(zip(*parts, strict=True)):
        e, w, labels, _ = _shards(*SHARDS[i % len(SHARDS)])
        leaves = [t.requires_grad_() for t in (e, w)]
        want = reference.margin_cross_entropy(*leaves, labels, 8.0, reduction="none")
        d_e, d_w = torch.autograd.grad(want.sum(), leaves)
        for rows, of_embeddings, _ in of_ranks:
            torch.testing.assert_close(rows, want.detach(), rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(of_embeddings, d_e, rtol=1e-10, atol=1e-12)
        of_weights = torch.cat([part[2] for part in of_ranks])
        torch.testing.assert_close(of_weights, d_w, rtol=1e-10, atol=1e-12)


# ---- Errors


def call(**changes: Any) -> Tensor:
    arguments: dict[str, Any] = {
        "embeddings": torch.randn(3, 4),
        "class_weights": torch.randn(5, 4),
        "labels": torch.tensor([0, 4, -1]),
    }
    return ops.margin_cross_entropy(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"embeddings": [[1.0]]}, TypeError, "embeddings must be a torch.Tensor, got list"),
        (
            {"embeddings": torch.zeros(3, 4, dtype=torch.int32)},
            TypeError,
            "embeddings must be float32, float64, float16 or bfloat16, got int32",
        ),
        (
            {"class_weights": torch.zeros(5, 4).half()},
            TypeError,
            "class_weights must be float32 as embeddings, got float16",
        ),
        ({"labels": torch.zeros(3)}, TypeError, "labels must be int64, got float32"),
        (
            {"embeddings": torch.zeros(3)},
            ValueError,
            r"embeddings must be \[B, D\], got shape \(3\)",
        ),
        (
            {"class_weights": torch.zeros(5, 3)},
            ValueError,
            r"class_weights must be \[V, 4\], got shape \(5, 3\)",
        ),
        (
            {"labels": torch.zeros(2, dtype=torch.int64)},
            ValueError,
            r"labels must be \[B\] = \(3\), got shape \(2\)",
        ),
        (
            {"labels": torch.tensor([0, 5, 1])},
            ValueError,
            "labels must be between 0 and 4, or -1, got 5",
        ),
        (
            {"labels": torch.tensor([0, -2, 1])},
            ValueError,
            "labels must be between 0 and 4, or -1, got -2",
        ),
        ({"s": 0}, ValueError, "s must be above 0 and finite in float32, got 0.0"),
        ({"s": 1e39}, ValueError, r"s must be above 0 and finite in float32, got 1e\+39"),
        ({"s": "64"}, TypeError, "s must be a number"),
        ({"margins": (1, 0)}, ValueError, r"margins must be three numbers \(m1, m2, m3\)"),
        ({"margins": (1, 0, "a")}, TypeError, r"margins\[2\] must be a number"),
        (
            {"gradient": "autograd"},
            ValueError,
            "gradient must be one of 'exact', 'straight_through', got 'autograd'",
        ),
        (
            {"reduction": "max"},
            ValueError,
            "reduction must be one of 'mean', 'sum', 'none', got 'max'",
        ),
        (
            {"sample_index": torch.tensor([0.0])},
            TypeError,
            "sample_index must be int64, got float32",
        ),
        (
            {"sample_index": torch.tensor([[0, 4]])},
            ValueError,
            r"sample_index must be \[S\], got shape \(1, 2\)",
        ),
        (
            {"sample_index": torch.tensor([4, 0])},
            ValueError,
            "sample_index must be sorted and without repetitions",
        ),
        (
            {"sample_index": torch.tensor([0, 4, 5])},
            ValueError,
            "sample_index must be between 0 and 4, got 0 to 5",
        ),
        (
            {"sample_index": torch.tensor([0, 3])},
            ValueError,
            "labels must be among sample_index, or -1",
        ),
        ({"group": 1}, TypeError, "group must be a process group or None, got int"),
    ],
)
def test_errors(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(**changes)


def test_native_checks(backend: str) -> None:
    """The binding checks what the kernels rely on."""
    e, w = torch.randn(3, 4), torch.randn(5, 4)
    labels, rows = torch.zeros(3, dtype=torch.int64), torch.empty(3)
    other = None, torch.empty(8), torch.empty(1, 2, 3)
    forward = margin_softmax._FORWARD
    native = forward.emulated if backend == "emulated" else forward.native
    if backend != "emulated":  # CUDA kernels look themselves
        with pytest.raises(ValueError, match="index must be between 0 and 4, got 5"):
            native(e, w, torch.tensor([5]), labels, 1.0, rows, rows, *other)
    with pytest.raises(ValueError, match="scale must be above 0"):
        native(e, w, None, labels, 0.0, rows, rows, *other)
    with pytest.raises(ValueError, match="target must have shape"):
        native(e, w, None, labels, 1.0, rows, rows[:2], *other)
    kept = "kept must be None on CUDA" if backend == "emulated" else "kept must have shape"
    with pytest.raises(ValueError, match=kept):
        native(e, w, None, labels, 1.0, rows, rows, torch.empty(5, 3), *other[1:])


@pytest.mark.skipif("emulated" not in BACKENDS, reason="the emulated kernels are not built")
@pytest.mark.parametrize("chunk", [0, 5, 65])
def test_a_chunk_of_the_backward_pass_is_whole_tiles(chunk: int) -> None:
    e, w, labels = torch.randn(3, 4), torch.randn(5, 4), torch.zeros(3, dtype=torch.int64)
    rows, norms = torch.empty(3), torch.empty(8)
    with pytest.raises(ValueError, match=rf"multiple of 64, got shape \({chunk}, 3\)"):
        margin_softmax._BACKWARD.emulated(
            e, w, None, labels, 1.0, rows, rows, rows, None, norms, torch.empty(3, 4), None,
            torch.empty(chunk, 3), torch.empty(chunk), torch.empty(1, 3, 4),
        )  # fmt: skip
