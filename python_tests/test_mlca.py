"""The MLCA family: known numbers, ties, NaN, the drop-in module, error messages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import facekernels as fk
from facekernels import _native, ops, reference
from facekernels.nn import MLCA, load_swinface_attention

BACKENDS = [b for b in fk.backends() if b != "reference"]


def weights(groups: int, channels: int, hidden: int, fill: tuple[float, ...]) -> list[Tensor]:
    shapes = [(groups, hidden, channels), (groups, hidden), (groups, channels, hidden),
              (groups, channels)]  # fmt: skip
    return [torch.full(s, f, dtype=torch.float64) for s, f in zip(shapes, fill, strict=True)]


def test_channel_gate_known_numbers() -> None:
    """CBAM gate of 32 channels and constant weights: the published layer gives these values."""
    x = torch.arange(128, dtype=torch.float64).reshape(1, 32, 2, 2) / 64
    out = ops.channel_gate(x, *[w[0] for w in weights(1, 32, 2, (0.1, 0.0, 0.5, -1.0))])
    assert torch.allclose(out, x * 0.9881674738673312, atol=1e-13)
    expected = torch.tensor([1.914574, 1.930015, 1.945455, 1.960895], dtype=torch.float64)
    assert torch.allclose(out[0, 31].flatten(), expected, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_goes_to_the_first_of_equal_maxima(layout: torch.memory_format) -> None:
    x = torch.ones(2, 3, 4, 4, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    gate = [w[0] for w in weights(1, 3, 1, (0.0, 0.0, 0.0, 0.0))]  # scale = 1/2, no path to x
    (grad,) = torch.autograd.grad(ops.mlca_gate(x, *gate).sum(), x)
    expected = torch.zeros(2, 3, 16, dtype=torch.float64)
    expected[:, :, 0] = 0.5
    assert torch.equal(grad.flatten(2), expected)


def test_nan_poisons_its_sample_and_no_other() -> None:
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 8, 5, 5, generator=gen)
    gate = [torch.randn(s, generator=gen) for s in [(2, 4, 8), (2, 4), (2, 8, 4), (2, 8)]]
    clean = ops.mlca_gate(x, *gate)
    x[1, 2, 3, 4, 4] = float("nan")
    out = ops.mlca_gate(x, *gate)
    assert out[1, 2].isnan().all()
    out[1, 2] = clean[1, 2]
    assert torch.equal(out, clean)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(ops.mlca_gate(x, *gate).sum(), x)
    assert grad[1, 2].isnan().all()
    assert not grad[0].isnan().any()


@pytest.mark.parametrize("wanted", [(0,), (1, 2), (4,), (0, 3), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("pool", ["max", "avg"])
def test_gradients_of_some_inputs(pool: str, wanted: tuple[int, ...]) -> None:
    """The map's and the weights' gradients are computed where wanted; the incoming one is lazy."""
    gen = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 8, 5, 5), (2, 4, 8), (2, 4), (2, 8, 4), (2, 8)]
    inputs = [torch.randn(s, generator=gen, dtype=torch.float64) for s in shapes]
    for i in wanted:
        inputs[i].requires_grad_()
    d_out = torch._neg_view(torch.randn(2, 3, 8, generator=gen, dtype=torch.float64))
    got, want = (
        torch.autograd.grad(gate(*inputs, pool=pool), [inputs[i] for i in wanted], d_out)
        for gate in (ops.mlca_gate, reference.mlca_gate)
    )
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("create_graph", [False, True])
def test_an_infinite_gradient_stops_at_dead_units(backend: str, create_graph: bool) -> None:
    """As after an overflow in half precision: ReLU gives 0 there, not infinity times 0."""
    x = -torch.rand(1, 1, 4, 2, 2, dtype=torch.float64) - 0.1
    gate = weights(1, 4, 3, (0.0, -1.0, 0.5, 0.0))  # no hidden unit is reached
    x.requires_grad_()
    with fk.backend(backend):
        out = ops.mlca_gate(x, *gate)
        (grad,) = torch.autograd.grad(
            out, x, torch.full_like(out, torch.inf), create_graph=create_graph
        )
    assert torch.equal(grad, torch.zeros_like(x))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.integers(0, 4),
    st.integers(1, 9), st.integers(1, 9), st.sampled_from(["max", "avg"]), st.booleans(),
)  # fmt: skip
def test_any_shape(
    g: int, b: int, c: int, r: int, h: int, w: int, pool: str, channels_last: bool
) -> None:
    gen = torch.Generator().manual_seed(g * b * c * h * w)
    x = torch.randn(g, b, h, w, c, generator=gen).movedim(-1, -3)
    if not channels_last:
        x = x.contiguous()
    gate = [torch.randn(s, generator=gen) for s in [(g, r, c), (g, r), (g, c, r), (g, c)]]
    want = reference.mlca_gate(x.double(), *[t.double() for t in gate], pool=pool)
    assert torch.allclose(ops.mlca_gate(x, *gate, pool=pool).double(), want, atol=1e-5, rtol=1e-5)


def gradients(
    gate: list[Tensor], out: Tensor, grad: Tensor, needs: tuple[int, ...] = (0, 1, 2, 3, 4)
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out, [gate[i] for i in needs], grad)


def wide_gate(dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    """More samples, channels and hidden units than a tile of any kernel holds, none a multiple."""
    gen = torch.Generator().manual_seed(3)
    shapes = [(2, 19, 270, 3, 3), (2, 37, 270), (2, 37), (2, 270, 37), (2, 270)]
    scales = [1.0, 270**-0.5, 0.1, 37**-0.5, 0.1]
    inputs = [
        (torch.randn(s, generator=gen, dtype=torch.float64) * f).to(dtype).requires_grad_()
        for s, f in zip(shapes, scales, strict=True)
    ]
    return inputs, torch.randn(2, 19, 270, generator=gen, dtype=torch.float64).to(dtype)


def reference_gradients(
    inputs: list[Tensor], grad: Tensor, pool: str, channel: bool = False
) -> tuple[Tensor, ...]:
    exact = [t.detach().double().requires_grad_() for t in inputs]
    out = reference.channel_gate(*exact) if channel else reference.mlca_gate(*exact, pool=pool)
    return gradients(exact, out, grad.double())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 2e-6), (torch.bfloat16, 1e-2)],
    ids=str,
)
def test_gradients_of_many_tiles(
    backend: str, pool: str, dtype: torch.dtype, tolerance: float
) -> None:
    inputs, grad = wide_gate(dtype)
    with fk.backend(backend):
        got = gradients(inputs, ops.mlca_gate(*inputs, pool=pool), grad)
    for a, b in zip(got, reference_gradients(inputs, grad, pool), strict=True):
        assert (a.double() - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("units", [36, 64])
@pytest.mark.parametrize("rows", [(7, 7), (6, 6)])
def test_whole_quads_of_weights_and_rows(backend: str, units: int, rows: tuple[int, int]) -> None:
    """Sizes whose rows the CUDA kernels read by 16 bytes."""
    gen = torch.Generator().manual_seed(4)
    shapes = [(1, 9, 72, *rows), (1, units, 72), (1, units), (1, 72, units), (1, 72)]
    inputs = [(torch.randn(s, generator=gen) * 0.3).requires_grad_() for s in shapes]
    grad = torch.randn(1, 9, 72, generator=gen)
    with fk.backend(backend):
        out = ops.mlca_gate(*inputs)
        got = gradients(inputs, out, grad)
    want = reference.mlca_gate(*[t.detach().double() for t in inputs])
    assert torch.allclose(out.double(), want, atol=1e-6)
    for a, b in zip(got, reference_gradients(inputs, grad, "max"), strict=True):
        assert (a.double() - b).abs().max() <= 2e-6 * b.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("needs", [(0,), (1, 2, 3, 4), (2,)], ids=str)
@pytest.mark.parametrize("pool", ["max", "avg"])
def test_only_the_gradients_that_are_asked_for(
    backend: str, needs: tuple[int, ...], pool: str
) -> None:
    inputs, grad = wide_gate()
    want = reference_gradients(inputs, grad, pool)
    inputs = [t.detach().requires_grad_(i in needs) for i, t in enumerate(inputs)]
    with fk.backend(backend):
        got = gradients(inputs, ops.mlca_gate(*inputs, pool=pool), grad, needs)
    for i, a in zip(needs, got, strict=True):
        assert torch.allclose(a, want[i], atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_channel_gate_of_many_tiles(backend: str) -> None:
    """Here the gradient comes through the scale alone."""
    inputs, _ = wide_gate()
    grad = torch.randn(inputs[0].shape, dtype=torch.float64)
    with fk.backend(backend):
        got = gradients(inputs, ops.channel_gate(*inputs), grad)
    want = reference_gradients(inputs, grad, "max", channel=True)
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, atol=1e-11)


def test_weight_gradients_do_not_depend_on_threads() -> None:
    inputs, grad = wide_gate(torch.float32)
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            runs.append(gradients(inputs, ops.mlca_gate(*inputs), grad))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_first_derivatives_are_two_native_calls() -> None:
    """No matrix product is left to PyTorch unless a second derivative is wanted."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    inputs, grad = wide_gate()
    out = ops.mlca_gate(*inputs)
    with Recorder():
        gradients(inputs, out, grad)
    computed = [name for name in seen if "empty" not in name and "detach" not in name]
    assert computed == [
        "facekernels.mlca_gate_backward.default",
        "facekernels.mlca_backward.default",
    ]


def huge_pages_on_request() -> bool:
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return path.exists() and "[madvise]" in path.read_text()


@pytest.mark.skipif(not huge_pages_on_request(), reason="needs transparent huge pages by madvise")
def test_a_large_gradient_does_not_fault_page_by_page() -> None:
    import resource

    dx = torch.empty(1, 32, 64, 72, 72)  # 42 MB: glibc maps it anew
    pages = dx.numel() * 4 // resource.getpagesize()
    pools = torch.zeros(1, 32, 64)
    none = torch.empty(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    _native.C.mlca_backward(pools, pools, pools.int(), none, none, dx)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert not dx.any()
    assert faults < pages / 4


def gate_backward_arguments() -> dict[str, Tensor]:
    channels, hidden, none = torch.zeros(2, 3, 8), torch.zeros(2, 3, 2, 4), torch.empty(0)
    w1, w2 = torch.zeros(2, 4, 8), torch.zeros(2, 8, 4)
    return {
        "d_out": channels, "d_scale": none, "w1": w1, "w2": w2, "scale": channels,
        "mean": channels, "max": channels, "relu_mean": none, "pre": hidden,
        "dz": torch.empty(2, 3, 8), "d_pre": torch.empty(2, 3, 2, 4),
        "d_mean": torch.empty(2, 3, 8), "d_max": torch.empty(2, 3, 8), "d_relu_mean": none,
        "dw1": torch.empty(2, 4, 8), "db1": torch.empty(2, 4), "dw2": torch.empty(2, 8, 4),
        "db2": torch.empty(2, 8),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": torch.zeros(3, 8)}, r"scale must be \[G, B, C\] and w1 .*got shapes \(3, 8\)"),
        ({"scale": torch.zeros(2, 3, 8).int()}, "scale must be float32 or float64, got int32"),
        ({"d_out": torch.zeros(2, 3, 7)}, r"d_out must have shape \(2, 3, 8\), got \(2, 3, 7\)"),
        ({"d_out": torch.zeros(2, 3, 8).double()}, "d_out must be of the dtype"),
        ({"pre": torch.zeros(2, 3, 4)}, r"pre must have shape \(2, 3, 2, 4\), got"),
        ({"d_max": torch.zeros(2, 3, 8).double()}, "d_max must be float32, got float64"),
        ({"dw2": torch.zeros(2, 4, 8).mT}, "dw2 must be contiguous"),
        ({"scale": torch.zeros(2, 0, 8), "d_out": torch.empty(0)}, "mean must have shape"),
    ],
)
def test_gate_backward_checks_for_itself(change: dict[str, Tensor], message: str) -> None:
    arguments = gate_backward_arguments()
    _native.C.mlca_gate_backward(*arguments.values())
    with pytest.raises(ValueError, match=message):
        _native.C.mlca_gate_backward(*{**arguments, **change}.values())


class PublishedBranch(nn.Module):
    """One SwinFace branch as published, layer by layer, with its parameter names."""

    def __init__(self, ins: tuple[int, ...], outs: tuple[int, ...], reduction: int) -> None:
        super().__init__()
        channels = sum(outs)
        self.ins = ins
        self.conv = nn.Module()
        self.conv.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in zip(ins, outs, strict=True)
        )
        self.channel_attention = nn.Module()
        self.channel_attention.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, channels // reduction), nn.ReLU(),
            nn.Linear(channels // reduction, channels),
        )  # fmt: skip
        self.norm = nn.BatchNorm1d(channels, eps=2e-5)

    def forward(self, x: Tensor, pool: str) -> Tensor:
        parts = zip(self.conv.convs, x.split(self.ins, 1), strict=True)
        c = torch.cat([conv(part) for conv, part in parts], 1)
        size = c.shape[-2:]
        mlp = self.channel_attention.mlp
        gate = mlp(nn.functional.avg_pool2d(c, size)) + mlp(nn.functional.max_pool2d(c, size))
        c = torch.relu(c * torch.sigmoid(gate)[..., None, None])
        pooling = nn.functional.max_pool2d if pool == "max" else nn.functional.avg_pool2d
        return self.norm(pooling(c, size).flatten(1))


class Published(nn.Module):
    def __init__(self, branches: int, ins: tuple[int, ...], outs: tuple[int, ...], r: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(PublishedBranch(ins, outs, r) for _ in range(branches))

    def forward(self, x: Tensor, pool: str) -> Tensor:
        return torch.stack([net(x, pool) for net in self.nets])


@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_module_is_a_drop_in(pool: str, layout: torch.memory_format) -> None:
    """Same state dict, outputs, parameter gradients and BatchNorm statistics as published."""
    torch.manual_seed(0)
    ins, outs = (6, 8, 10), (5, 7, 12)
    published = Published(3, ins, outs, 4).double()
    module = MLCA(ins, outs, branches=3, reduction=4, pool=pool).double()
    prefixed = {f"module.fam.{k}": v for k, v in published.state_dict().items()}
    load_swinface_attention(module, prefixed)
    assert list(module.state_dict()) == list(published.state_dict())

    x = torch.randn(4, 24, 7, 7, dtype=torch.float64).to(memory_format=layout)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    out, want = module(inputs[0]), published(inputs[1], pool)
    assert torch.allclose(out, want, atol=1e-12)
    projection = torch.randn_like(want)
    (out * projection).sum().backward()
    (want * projection).sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-11)
    for (name, p), q in zip(module.named_parameters(), published.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, atol=1e-10), name
    for a, b in zip(module.buffers(), published.buffers(), strict=True):
        assert torch.allclose(a, b)


def test_published_size_and_closed_form() -> None:
    """33,090,464 parameters; with centre-tap convolutions the output has a closed form."""
    module = MLCA().eval()
    assert sum(p.numel() for p in module.parameters()) == 33_090_464
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
        for net in module.nets:
            net.norm.weight.fill_(1)
            for conv in net.conv.convs:
                conv.weight[:, 0, 1, 1] = 1
        three = torch.full((1, 2112, 7, 7), 3.0)
        assert module(three).shape == (11, 1, 512)
        assert torch.allclose(module(three), torch.tensor(1.499985), atol=1e-6)
        assert (module(-three) == 0).all()
        for net in module.nets:
            net.channel_attention.mlp[1].weight.fill_(1 / 512)
            net.channel_attention.mlp[3].weight.fill_(1 / 32)
        assert torch.allclose(module(three), torch.tensor(2.9925522), atol=1e-6)


def test_branches_train_alone() -> None:
    """Per-branch parameters stay ordinary parameters: a frozen branch does not move."""
    module = MLCA((4,), (6,), branches=2, reduction=2)
    module.nets[0].requires_grad_(False)
    optimizer = torch.optim.SGD(module.nets[1].parameters(), lr=0.1)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    module(torch.randn(5, 4, 3, 3)).square().sum().backward()
    optimizer.step()
    after = module.state_dict()
    assert torch.equal(before["nets.0.conv.convs.0.weight"], after["nets.0.conv.convs.0.weight"])
    assert not torch.equal(
        before["nets.1.conv.convs.0.weight"], after["nets.1.conv.convs.0.weight"]
    )


@pytest.mark.parametrize("spatial", ["cbam", "lanet"])
def test_spatial_options(spatial: str) -> None:
    """Gate, spatial attention, ReLU, max, BatchNorm, written out; drops only in training."""
    torch.manual_seed(0)
    module = MLCA((4, 4), (3, 5), branches=2, reduction=2, spatial=spatial).double()
    x = torch.randn(6, 8, 5, 5, dtype=torch.float64)
    module.eval()
    for i, net in enumerate(module.nets):
        c = torch.cat([f(p) for f, p in zip(net.conv.convs, x.split(4, 1), strict=True)], 1)
        mlp = net.channel_attention.mlp
        c = c * torch.sigmoid(mlp(c.mean((2, 3))) + mlp(c.amax((2, 3))))[..., None, None]
        want = net.norm(torch.relu(net.spatial_attention(c)).amax((2, 3)))
        assert torch.allclose(module(x)[i], want)
    if spatial == "lanet":
        module.train()
        for net in module.nets:
            net.norm.eval()
        assert not torch.equal(module(x), module(x))


GOOD = {
    "x": torch.zeros(2, 1, 4, 3, 3),
    "w1": torch.zeros(2, 2, 4),
    "b1": torch.zeros(2, 2),
    "w2": torch.zeros(2, 4, 2),
    "b2": torch.zeros(2, 4),
}


@pytest.mark.parametrize("op", [ops.mlca_gate, ops.channel_gate])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(3, 3)}, ValueError, r"x must be \[G, B, C, H, W\].*got shape \(3, 3\)"),
        ({"x": torch.tensor(1.0)}, ValueError, r"x must be .*got shape \(\)"),
        ({"x": torch.zeros(2, 1, 4, 0, 3)}, ValueError, "map of at least 1 x 1, got 0 x 3"),
        (
            {"x": torch.zeros(2, 1, 4, 3, 3, dtype=torch.int32)},
            TypeError,
            "x must be float32.*int32",
        ),
        ({"x": [1.0]}, TypeError, "x must be a torch.Tensor, got list"),
        (
            {"x": torch.zeros(2, 1, 4, 3, 3, device="meta")},
            ValueError,
            "x must be on the CPU.*meta",
        ),
        (
            {"x": torch.zeros(2, 1, 4, 3, 3).to_sparse()},
            ValueError,
            "x must be a dense.*sparse_coo",
        ),
        (
            {"w1": torch.zeros(3, 2, 4)},
            ValueError,
            r"w1 must be \[G, R, C\] = \(2, R, 4\).*\(3, 2, 4\)",
        ),
        ({"w1": torch.zeros(2, 2, 5)}, ValueError, r"w1 must be .*got shape \(2, 2, 5\)"),
        (
            {"b1": torch.zeros(2, 3)},
            ValueError,
            r"b1 must be \[G, R\] = \(2, 2\), got shape \(2, 3\)",
        ),
        ({"w2": torch.zeros(2, 2, 4)}, ValueError, r"w2 must be \[G, C, R\] = \(2, 4, 2\)"),
        ({"b2": torch.zeros(2, 5)}, ValueError, r"b2 must be \[G, C\] = \(2, 4\)"),
        ({"b2": None}, TypeError, "b2 must be a torch.Tensor, got NoneType"),
        ({"w2": torch.zeros(2, 4, 2, device="meta")}, ValueError, "w2 must be on the CPU"),
    ],
)
def test_bad_input(op: object, change: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        op(**{**GOOD, **change})


def test_bad_pool() -> None:
    with pytest.raises(ValueError, match="pool must be one of 'max', 'avg', got 'sum'"):
        ops.mlca_gate(*GOOD.values(), pool="sum")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"out_channels": (3,)}, "in_channels and out_channels must be of equal length"),
        ({"pool": "sum"}, "pool must be one of"),
        ({"spatial": "x"}, "spatial must be None, 'cbam' or 'lanet', got 'x'"),
        ({"branches": 0}, "must be at least 1"),
        ({"lanet_drop": 2.0}, r"lanet_drop must be in \[0, 1\], got 2.0"),
    ],
)
def test_bad_module_arguments(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLCA(**{"in_channels": (4, 4), "out_channels": (2, 2), "branches": 1, **kwargs})


def test_bad_module_input() -> None:
    module = MLCA((4,), (6,), branches=1)
    with pytest.raises(ValueError, match=r"x must be \[B, 4, H, W\], got shape \(2, 5, 3, 3\)"):
        module(torch.zeros(2, 5, 3, 3))
