"""conv_mean_max and nn.MLCA with it: known numbers, ties, NaN, the choice, errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from facekernels import ops
from facekernels.nn import MLCA
from facekernels.ops import conv_pools


def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the native ops of conv_pools.py that run from here on."""
    names: list[str] = []
    original = conv_pools.launch
    monkeypatch.setattr(
        conv_pools, "launch", lambda op, *args: (names.append(op.name), original(op, *args))
    )
    return names


def test_known_numbers() -> None:
    """A centre tap of 1: the pools of x; the gradient is 1/P everywhere, 1 at the maximum."""
    x = torch.tensor([[[[1.0, 5.0], [2.0, 4.0]]]], requires_grad=True)
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 1] = 1
    weight.requires_grad_()
    pools = ops.conv_mean_max(x, weight, structured_backward=True)
    assert (pools.mean.item(), pools.max.item()) == (3.0, 5.0)
    d_x, d_weight = torch.autograd.grad(pools.mean + 10 * pools.max, (x, weight))
    assert torch.equal(d_x, torch.tensor([[[[0.25, 10.25], [0.25, 0.25]]]]))
    # Sums over the positions that a tap reaches, by 4, plus ten times what it sees from the 5.
    means = torch.tensor([[1.0, 6.0, 5.0], [3.0, 12.0, 9.0], [2.0, 6.0, 4.0]]) / 4
    at_max = torch.tensor([[0.0, 0.0, 0.0], [1.0, 5.0, 0.0], [2.0, 4.0, 0.0]])
    assert torch.equal(d_weight[0, 0], means + 10 * at_max)


def test_gradient_goes_to_the_first_of_equal_maxima() -> None:
    x = torch.ones(1, 1, 3, 3, requires_grad=True)
    weight = torch.ones(1, 1, 1, 1)
    (d_x,) = torch.autograd.grad(
        ops.conv_mean_max(x, weight, structured_backward=True).max.sum(), x
    )
    assert d_x.flatten().tolist() == [1.0] + [0.0] * 8


def test_nan_reaches_the_mean_and_the_gradients_of_its_sample() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 5)
    x[1, 2, 3, 3] = float("nan")
    x.requires_grad_()
    weight = torch.randn(6, 4, 3, 3, requires_grad=True)
    mean, _ = ops.conv_mean_max(x, weight, structured_backward=True)
    assert mean[1].isnan().all()
    assert not mean[0].isnan().any()
    d_x, d_weight = torch.autograd.grad(mean.square().sum(), (x, weight))
    assert d_x[1].isnan().all()
    assert not d_x[0].isnan().any()
    assert d_weight.isnan().all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 40), st.integers(1, 20), st.integers(1, 9),
    st.integers(1, 9), st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 7]), st.booleans(),
)  # fmt: skip
def test_both_backward_passes_agree(
    b: int, i: int, o: int, h: int, w: int, kh: int, kw: int, channels_last: bool
) -> None:
    gen = torch.Generator().manual_seed(b * i * o * h * w)
    x = torch.randn(b, i, h, w, generator=gen)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    weight = torch.randn(o, i, kh, kw, generator=gen) / (i * kh * kw) ** 0.5
    inputs = x.requires_grad_(), weight.requires_grad_()
    out = torch.randn(2, b, o, generator=gen)
    structured, dense = (
        torch.autograd.grad(ops.conv_mean_max(*inputs, structured_backward=how), inputs, list(out))
        for how in (True, False)
    )
    for got, want in zip(structured, dense, strict=True):
        torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)


def test_threads_do_not_change_the_bits() -> None:
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(3, 70, 7, 7, generator=gen, requires_grad=True)
    weight = torch.randn(60, 70, 3, 3, generator=gen, requires_grad=True)
    mean, maximum = ops.conv_mean_max(x, weight)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            total = (mean * maximum).sum()
            results.append(torch.autograd.grad(total, (x, weight), retain_graph=True))
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


def test_only_the_wanted_gradients_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = launched(monkeypatch)
    x, weight = torch.randn(2, 3, 7, 7), torch.randn(4, 3, 3, 3)
    for leaf, expected in ((x, "conv_pools_d_input"), (weight, "conv_pools_d_weight")):
        leaf.requires_grad_()
        ops.conv_mean_max(x, weight, structured_backward=True).max.sum().backward()
        leaf.requires_grad_(False)
        assert names == [expected]
        names.clear()


def test_the_map_is_not_kept() -> None:
    """What is saved for the backward pass: x, the weights and one position per channel."""
    saved: list[torch.Size] = []

    def pack(t: Tensor) -> Tensor:
        saved.append(t.shape)
        return t

    x, weight = torch.randn(2, 3, 9, 9), torch.randn(4, 3, 3, 3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        ops.conv_mean_max(x, weight)
    assert saved == [(2, 4), x.shape, weight.shape]


GOOD = {"x": torch.zeros(2, 3, 4, 4), "weight": torch.zeros(5, 3, 3, 3)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(3, 4, 4)}, ValueError, r"x must be \[B, I, H, W\].*\(3, 4, 4\)"),
        ({"x": torch.zeros(2, 3, 0, 4)}, ValueError, r"at least 1 x 1, got shape \(2, 3, 0, 4\)"),
        ({"x": torch.zeros(2, 3, 4, 4, dtype=torch.int64)}, TypeError, "x must be float32.*int64"),
        ({"x": None}, TypeError, "x must be a torch.Tensor, got NoneType"),
        ({"weight": torch.zeros(5, 3, 2, 3)}, ValueError, r"odd kh and kw, got.*\(5, 3, 2, 3\)"),
        ({"weight": torch.zeros(5, 4, 3, 3)}, ValueError, r"weight must be \[O, 3, kh, kw\]"),
        ({"weight": torch.zeros(0, 3, 3, 3)}, ValueError, r"at least 1.*got shape \(0, 3, 3, 3\)"),
        ({"weight": torch.zeros(5, 3)}, ValueError, r"weight must be .*got shape \(5, 3\)"),
        (
            {"weight": GOOD["weight"].double()},
            TypeError,
            "weight must be float32 as x, got float64",
        ),
        ({"weight": GOOD["weight"].to("meta")}, ValueError, "weight must be on the CPU"),
    ],
)
def test_bad_input(change: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ops.conv_mean_max(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("outputs", "side", "structured"), [(40, 3, True), (39, 3, False), (40, 2, False)]
)
def test_automatic_choice(
    outputs: int, side: int, structured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = launched(monkeypatch)
    x = torch.randn(2, 3, side, side, requires_grad=True)
    ops.conv_mean_max(x, torch.randn(outputs, 3, 3, 3)).mean.sum().backward()
    assert names == (["conv_pools_d_input"] if structured else [])


def module_and_input(batch: int = 4, **kwargs: object) -> tuple[MLCA, Tensor]:
    torch.manual_seed(0)
    module = MLCA((6, 8), (40, 44), branches=3, reduction=4, **kwargs).double()  # type: ignore[arg-type]
    return module, torch.randn(batch, 14, 7, 7, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("batch", "convolutions"), [(4, 2), (3, 6)], ids=["merged", "separate"])
def test_module_gives_the_same_gradients_either_way(
    batch: int, convolutions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = launched(monkeypatch)
    results = []
    for structured in (None, True, False):
        module, x = module_and_input(batch, structured_backward=structured)
        out = module(x)
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        (out * weights).sum().backward()
        results.append([out, x.grad, *(p.grad for p in module.parameters())])
        assert len(names) == (0 if structured is False else 2 * convolutions)  # x and weights
        names.clear()
    for a, b, c in zip(*results, strict=True):
        assert torch.equal(a, b)
        assert torch.allclose(b, c, atol=1e-12)


@pytest.mark.parametrize("kwargs", [{"pool": "avg"}, {"spatial": "cbam"}, {"spatial": "lanet"}])
def test_module_needs_the_map_for_other_options(
    kwargs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = launched(monkeypatch)
    module, x = module_and_input(**kwargs)
    module(x).sum().backward()
    assert names == []
    with pytest.raises(ValueError, match="structured_backward=True needs pool='max' and spatial"):
        module_and_input(structured_backward=True, **kwargs)


def test_module_under_autocast_convolves_in_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """The automatic choice leaves autocast what it is there for."""
    names = launched(monkeypatch)
    x = torch.randn(4, 14, 7, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        automatic, dense = (
            module_and_input(structured_backward=how)[0].float()(x) for how in (None, False)
        )
    automatic.sum().backward()
    assert names == []
    assert automatic.dtype == torch.bfloat16
    assert torch.equal(automatic, dense)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_module_compiles(dynamic: bool) -> None:
    torch._dynamo.reset()
    module, x = module_and_input()
    compiled = torch.compile(module, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    want = module(x)
    (want_grad,) = torch.autograd.grad(want.square().sum(), x)
    out = compiled(x)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    assert torch.allclose(out, want, atol=1e-12)
    assert torch.allclose(grad, want_grad, atol=1e-11)
