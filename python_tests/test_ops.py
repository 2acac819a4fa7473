"""Generated from opspecs: every op, every property."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opspecs import SPECS, OpSpec, Sample, as_tuple
from torch import Tensor

import facekernels as fk
from facekernels import _op

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ALL = [(spec, sample) for spec in SPECS for sample in spec.samples()]
SMALL = [(spec, sample) for spec, sample in ALL if sample.small]
# One representative call of each op for properties that do not depend on sizes.
FIRST = [(spec, next(spec.samples())) for spec in SPECS]
DIFFERENTIABLE = [(spec, sample) for spec, sample in FIRST if spec.differentiable]

needs_emulation = pytest.mark.skipif(
    "emulated" not in fk.backends(), reason="built without the emulated back end"
)


def ids(pair: Any) -> str | None:
    if isinstance(pair, OpSpec):
        return pair.name
    return pair.name if isinstance(pair, Sample) else None


def cases(pairs: list[tuple[OpSpec, Sample]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("spec", "sample"), pairs, ids=ids)


def worst(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> float:
    """Largest error relative to max(1, |want|); infinite where non-finite values differ."""
    assert len(got) == len(want)
    errors = [0.0]
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        g, w = g.detach().double().cpu(), w.detach().double().cpu()
        same = (g == w) | (g.isnan() & w.isnan())
        error = torch.where(same, 0.0, (g - w).abs() / w.abs().clamp(min=1))
        errors.append(error.nan_to_num(nan=torch.inf).max().item() if error.numel() else 0.0)
    return max(errors)


def gradients(
    function: Callable[..., Any], sample: Sample, wrt: tuple[int, ...], seed: int = 0
) -> tuple[Tensor, ...]:
    """Gradients of a fixed random projection of all floating-point outputs."""
    args = [
        a.detach().clone(memory_format=torch.preserve_format).requires_grad_() if i in wrt else a
        for i, a in enumerate(sample.args)
    ]
    gen = torch.Generator().manual_seed(seed)
    outputs = [o for o in as_tuple(function(*args, **sample.kwargs)) if o.requires_grad]
    projections = [torch.randn(o.shape, generator=gen, dtype=torch.float64).to(o) for o in outputs]
    return torch.autograd.grad(outputs, [args[i] for i in wrt], projections)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@cases(ALL)
def test_value(spec: OpSpec, sample: Sample, dtype: torch.dtype) -> None:
    """Close to the float64 reference; in 16 bits no worse than twice PyTorch's own error."""
    call = sample.to(dtype)
    want = spec.expected(call.to(torch.float64))
    error = worst(spec(call), want)
    if dtype is torch.float64:
        assert error <= 1e-12
    elif dtype is torch.float32:
        assert error <= spec.tolerance
    else:
        floor = 4 * torch.finfo(dtype).eps
        assert error <= 2 * worst(spec.expected(call), want) + floor


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@cases([(s, c) for s, c in ALL if s.differentiable])
def test_gradient(spec: OpSpec, sample: Sample, dtype: torch.dtype) -> None:
    call = sample.to(dtype)
    want = gradients(spec.reference, call.to(torch.float64), spec.differentiable)
    got = gradients(spec.op, call, spec.differentiable)
    for g, i in zip(got, spec.differentiable, strict=True):
        assert g.dtype == call.args[i].dtype
    scale = max([1.0, *(w.abs().max().item() for w in want if w.numel())])
    error = worst(tuple(g.double() / scale for g in got), tuple(w / scale for w in want))
    if dtype is torch.float64:
        assert error <= 1e-12
    elif dtype is torch.float32:
        assert error <= spec.tolerance
    else:
        eager = gradients(spec.reference, call, spec.differentiable)
        eager_error = worst(
            tuple(g.double() / scale for g in eager), tuple(w / scale for w in want)
        )
        assert error <= 2 * eager_error + 8 * torch.finfo(dtype).eps


@needs_emulation
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@cases(SMALL)
def test_emulated_cuda(spec: OpSpec, sample: Sample, dtype: torch.dtype) -> None:
    """The .cu sources, executed on the CPU, agree with the CPU kernels."""
    call = sample.to(dtype)
    want = spec(call)
    tolerance = 1e-12 if dtype is torch.float64 else spec.tolerance
    if dtype in (torch.float16, torch.bfloat16):
        tolerance = 2 * torch.finfo(dtype).eps
    with fk.backend("emulated"):
        assert worst(spec(call), want) <= tolerance
        if spec.differentiable:
            got = gradients(spec.op, call, spec.differentiable)
    if spec.differentiable:
        want = gradients(spec.op, call, spec.differentiable)
        scale = max([1.0, *(w.abs().max().item() for w in want if w.numel())])
        error = worst(
            tuple(g.double() / scale for g in got), tuple(w.double() / scale for w in want)
        )
        assert error <= 4 * tolerance


@cases([(s, c) for s, c in SMALL if s.differentiable and c.args[0].numel() < 200])
def test_gradcheck(spec: OpSpec, sample: Sample) -> None:
    """First and second derivatives against finite differences, in float64."""
    args = tuple(
        a.clone().requires_grad_() if i in spec.differentiable else a
        for i, a in enumerate(sample.args)
    )

    def function(*inputs: Any) -> Any:
        outputs = as_tuple(spec.op(*inputs, **sample.kwargs))
        return tuple(o for o in outputs if o.is_floating_point())

    assert torch.autograd.gradcheck(function, args)
    assert torch.autograd.gradgradcheck(function, args)


@cases(FIRST)
def test_opcheck(spec: OpSpec, sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every native op the call launches satisfies torch.library.opcheck."""
    launched: list[tuple[_op.Op, tuple[Any, ...]]] = []
    original = _op.launch

    def record(op: _op.Op, *args: Any) -> None:
        original(op, *args)
        launched.append((op, tuple(a.detach() if isinstance(a, Tensor) else a for a in args)))

    for module in list(sys.modules.values()):
        name = getattr(module, "__name__", "")
        if name.startswith("facekernels.ops.") and hasattr(module, "launch"):
            monkeypatch.setattr(module, "launch", record)
    call = sample.to(torch.float32)
    spec(call)
    if spec.differentiable:
        gradients(spec.op, call, spec.differentiable)
    assert launched
    for op, args in launched:
        results = torch.library.opcheck(op.dispatched, args)
        assert set(results.values()) == {"SUCCESS"}, (op, results)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@cases(FIRST)
def test_compile(spec: OpSpec, sample: Sample, dynamic: bool) -> None:
    """torch.compile(fullgraph=True) with the aot_eager back end: forward and backward."""
    torch._dynamo.reset()
    call = sample.to(torch.float32)
    compiled = torch.compile(
        lambda *a: spec.op(*a, **call.kwargs), fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    assert worst(as_tuple(compiled(*call.args)), spec(call)) <= 1e-6
    if spec.differentiable:
        got = gradients(lambda *a, **_: compiled(*a), call, spec.differentiable)
        assert worst(got, gradients(spec.op, call, spec.differentiable)) <= 1e-5


@cases(FIRST)
def test_inductor(spec: OpSpec, sample: Sample) -> None:
    torch._dynamo.reset()
    call = sample.to(torch.float32)
    compiled = torch.compile(lambda *a: spec.op(*a, **call.kwargs), fullgraph=True)
    assert worst(as_tuple(compiled(*call.args)), spec(call)) <= 1e-6


@cases(FIRST)
def test_export(spec: OpSpec, sample: Sample) -> None:
    call = sample.to(torch.float32)

    class Module(torch.nn.Module):
        def forward(self, *args: Any) -> Any:
            return spec.op(*args, **call.kwargs)

    program = torch.export.export(Module(), call.args)
    assert any("facekernels" in str(node.target) for node in program.graph.nodes)
    assert worst(as_tuple(program.module()(*call.args)), spec(call)) <= 1e-6


@cases(FIRST)
def test_autocast_changes_nothing(spec: OpSpec, sample: Sample) -> None:
    """Ops compute in the dtype they are given, with wide accumulation, also under autocast."""
    call = sample.to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = spec(call)
    assert [o.dtype for o in inside] == [o.dtype for o in spec(call)]
    assert worst(inside, spec(call)) == 0


@cases([(s, c) for s, c in FIRST if s.transforms])
def test_vmap(spec: OpSpec, sample: Sample) -> None:
    call = sample.to(torch.float64)
    first = torch.stack([call.args[0], 2 * call.args[0]])
    batched = as_tuple(torch.func.vmap(lambda x: spec.op(x, *call.args[1:], **call.kwargs))(first))
    for i in range(2):
        single = as_tuple(spec.op(first[i], *call.args[1:], **call.kwargs))
        assert worst(tuple(b[i] for b in batched), single) <= 1e-12


@cases([(s, c) for s, c in DIFFERENTIABLE if s.transforms])
def test_func_grad_and_jvp(spec: OpSpec, sample: Sample) -> None:
    call = sample.to(torch.float64)

    def total(x: Tensor) -> Tensor:
        return as_tuple(spec.op(x, *call.args[1:], **call.kwargs))[0].sum()

    x = call.args[0]
    gradient = torch.func.grad(total)(x)
    leaf = x.clone().requires_grad_()
    assert worst((gradient,), torch.autograd.grad(total(leaf), leaf)) <= 1e-12
    direction = torch.ones_like(x)
    _, tangent = torch.func.jvp(total, (x,), (direction,))
    assert torch.allclose(tangent, (gradient * direction).sum())


@cases(ALL)
def test_deterministic_and_input_unchanged(spec: OpSpec, sample: Sample) -> None:
    """Twice the same bits, with one thread and with two; arguments are only read."""
    call = sample.to(torch.float32)
    before = [call.args[i].clone() for i in call.tensors]
    once = spec(call)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        again = spec(call)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(once, again, strict=True):
        assert torch.equal(a, b) or (a.isnan() == b.isnan()).all()
    for i, b in zip(call.tensors, before, strict=True):
        assert torch.equal(call.args[i], b)


@cases(FIRST)
def test_negative_view(spec: OpSpec, sample: Sample) -> None:
    """A lazily negated view gives the result of the negated values, not of the memory."""
    call = sample.to(torch.float32)
    x = call.args[0]
    negated = torch._neg_view(-x)
    assert negated.is_neg()
    got = as_tuple(spec.op(negated, *call.args[1:], **call.kwargs))
    assert worst(got, spec(call)) == 0


@cases(FIRST)
def test_reference_backend(spec: OpSpec, sample: Sample) -> None:
    call = sample.to(torch.float64)
    with fk.backend("reference"):
        assert worst(spec(call), spec.expected(call)) <= 1e-12


@pytest.mark.parametrize("variant", ["baseline", "avx2"])
def test_cpu_variants(variant: str) -> None:
    """The value and gradient tests with each lower instruction set, in a process of its own."""
    here = Path(__file__)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", here.name,
         "-k", "(test_value or test_gradient) and float32"],
        cwd=here.parent, env={**os.environ, "FACEKERNELS_CPU_VARIANT": variant},
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@cases(ALL)
def test_cuda_value(spec: OpSpec, sample: Sample, dtype: torch.dtype) -> None:
    want = spec(sample.to(dtype))
    got = spec(sample.to(dtype, "cuda"))
    tolerance = {torch.float64: 1e-12, torch.float32: spec.tolerance}.get(
        dtype, 2 * torch.finfo(dtype).eps
    )
    assert worst(got, want) <= tolerance


@pytest.mark.cuda
@cases([(s, c) for s, c in ALL if s.differentiable])
def test_cuda_gradient(spec: OpSpec, sample: Sample) -> None:
    want = gradients(spec.op, sample.to(torch.float32), spec.differentiable)
    got = gradients(spec.op, sample.to(torch.float32, "cuda"), spec.differentiable)
    scale = max([1.0, *(w.abs().max().item() for w in want if w.numel())])
    assert worst(tuple(g / scale for g in got), tuple(w / scale for w in want)) <= 4e-5


@pytest.mark.cuda
@cases(FIRST)
def test_cuda_side_stream_and_graph(spec: OpSpec, sample: Sample) -> None:
    """Launches go to the caller's current stream, so a CUDA graph captures them."""
    call = sample.to(torch.float32, "cuda")
    want = spec(call)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        side = spec(call)
    stream.synchronize()
    assert worst(side, want) == 0
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = spec(call)
    for o in captured:
        o.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert worst(captured, want) == 0
