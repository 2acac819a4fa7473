"""What a CUDA graph can capture: no op allocates in C++, waits for the device or reads back.

Found without a GPU: under the emulated back end every op runs its CUDA path, while torch's modes
see each call that would make the host wait. `-m cuda` captures real graphs (test_ops.py).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opspecs import HOST_DRIVEN, SPECS, OpSpec, Sample, as_tuple
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import facekernels as fk
from facekernels import ops

ROOT = Path(__file__).parents[1]

needs_emulation = pytest.mark.skipif(
    "emulated" not in fk.backends(), reason="built without the emulated back end"
)

# Why the host must know values of the device before these can go on. docs/design.md has the list.
READS_BACK = {
    "connected_components": "nodes are checked against num_nodes",
    "knn_graph": "rows are checked, and queries with too many near ties are searched again",
    "link_clusters": "how often the threshold rises depends on the clusters",
    "linkage_scores": "subgraphs have as many rows and edges as the graph gives them",
    "pivot_subgraphs": "subgraphs have as many rows and edges as the graph gives them",
    "threshold_clusters": "nodes are checked against num_nodes",
}

# Operators of torch whose result has a size, or is a value, that the host must wait for.
_OPERATORS = frozenset(
    {
        "_local_scalar_dense",
        "nonzero",
        "nonzero_numpy",
        "argwhere",
        "masked_select",
        "_unique",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "unique_dim_consecutive",
        "is_nonzero",
        "equal",
        "bincount",
        "_to_cpu",
    }
)
# Methods that read memory without an operator.
_METHODS = frozenset(
    {
        "tolist",
        "numpy",
        "item",
        "cpu",
        "__bool__",
        "__int__",
        "__float__",
        "__index__",
        "__array__",
    }
)


class _Operators(TorchDispatchMode):
    def __init__(self, found: set[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name.startswith(("index", "_index")) and any(
            isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8)
            for a in args[1:2]
            if isinstance(a, list | tuple)
            for i in a
        )
        sized = func is torch.ops.aten.repeat_interleave.Tensor and not (kwargs or {}).get(
            "output_size"
        )
        if name in _OPERATORS or masks or sized:
            self.found.add(name)
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, found: set[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _METHODS and args and isinstance(args[0], torch.Tensor):
            self.found.add(name)
        return func(*args, **(kwargs or {}))


def readbacks(call: Callable[[], Any], backend: str = "emulated") -> set[str]:
    """Names of what `call` did that the host must wait for."""
    found: set[str] = set()
    with fk.backend(backend), _Methods(found), _Operators(found):
        call()
    return found


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda t: t.sum().item(), "_local_scalar_dense"),
        (lambda t: bool(t.any()), "__bool__"),
        (lambda t: t.tolist(), "tolist"),
        (lambda t: t.numpy(), "numpy"),
        (lambda t: t.cpu(), "cpu"),
        (lambda t: t.nonzero(), "nonzero"),
        (lambda t: t[t > 0], "index"),
        (lambda t: torch.unique(t), "_unique2"),
        (lambda t: torch.repeat_interleave(t.long()), "repeat_interleave"),
        (lambda t: torch.zeros(int(t.max())), "_local_scalar_dense"),
    ],
)
@needs_emulation
def test_reading_back_is_noticed(call: Callable[[torch.Tensor], Any], name: str) -> None:
    assert name in readbacks(lambda: call(torch.arange(3.0)))


@needs_emulation
@pytest.mark.parametrize(
    ("spec", "sample"),
    [(spec, sample) for spec in SPECS for sample in spec.samples() if sample.small],
    ids=lambda p: p.name if isinstance(p, OpSpec | Sample) else None,
)
def test_no_op_reads_back(spec: OpSpec, sample: Sample) -> None:
    """Forward, and backward where there is one."""
    call = sample.to(torch.float32)
    assert not readbacks(lambda: spec(call))
    if not spec.differentiable:
        return
    args = [
        a.detach().clone().requires_grad_() if i in spec.differentiable else a
        for i, a in enumerate(call.args)
    ]

    def step() -> None:
        outputs = [o for o in as_tuple(spec.op(*args, **call.kwargs)) if o.requires_grad]
        torch.autograd.grad(
            outputs,
            [args[i] for i in spec.differentiable],
            [torch.ones_like(o) for o in outputs],
            allow_unused=True,
        )

    assert not readbacks(step)


def _host_driven() -> dict[str, Callable[[], Any]]:
    x = torch.nn.functional.normalize(
        torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    )
    knn = ops.knn_graph(x, 5).idx
    pivots = torch.arange(6)
    edges, scores = torch.tensor([[0, 1], [1, 2], [4, 3]]), torch.tensor([0.9, 0.2, 0.8])
    from test_subgraphs import network

    weights = ops.LinkageWeights(*(w.float() for w in network(8)))
    return {
        "connected_components": lambda: ops.connected_components(edges, 5),
        "knn_graph": lambda: ops.knn_graph(x, 5),
        "link_clusters": lambda: ops.link_clusters(edges, scores, num_nodes=5),
        "linkage_scores": lambda: ops.linkage_scores(
            x, knn, pivots, weights, k_at_hop=(4, 2), active_connection=2
        ),
        "pivot_subgraphs": lambda: ops.pivot_subgraphs(knn, pivots, (4, 2), 2),
        "threshold_clusters": lambda: ops.threshold_clusters(edges, scores, 0.5, num_nodes=5),
    }


def test_exceptions_are_the_host_driven_ops() -> None:
    assert set(READS_BACK) == set(HOST_DRIVEN)


@needs_emulation
@pytest.mark.parametrize("name", READS_BACK)
def test_exceptions_do_read_back(name: str) -> None:
    """One that no longer does leaves the list."""
    # Nodes in the memory of the host are checked by the kernel; the reference checks them as CUDA
    # tensors are checked.
    backend = "reference" if READS_BACK[name].startswith("nodes are checked") else "emulated"
    assert readbacks(_host_driven()[name], backend)


def test_exceptions_are_documented() -> None:
    page = (ROOT / "docs" / "design.md").read_text()
    for name, reason in READS_BACK.items():
        assert f"| `{name}` | {reason} |" in page


# ---- C++


def _launchers() -> list[Path]:
    return [
        p
        for p in (ROOT / "csrc").rglob("*")
        if p.suffix == ".cu" or p.name.endswith("_bind.cpp")
        if "emulation" not in p.parts
    ]


@pytest.mark.parametrize("path", _launchers(), ids=lambda p: p.name)
def test_launchers_call_nothing_of_the_runtime(path: Path) -> None:
    assert not re.findall(r"\bcu(?:da)?[A-Z]\w*\s*\(|<<<", path.read_text())


def test_launch_calls_what_a_capture_allows() -> None:
    text = (ROOT / "csrc" / "core" / "device_cuda.cuh").read_text()
    called = set(re.findall(r"\b(cuda[A-Z]\w*)\(", text))
    errors = {"cudaGetLastError", "cudaGetErrorName", "cudaGetErrorString"}
    on_errors = {"cudaGetDevice", "cudaGetDeviceProperties"}
    assert called == {"cudaFuncSetAttribute", "cudaLaunchKernelEx"} | errors | on_errors


@pytest.mark.parametrize("name", ["cudaMalloc", "cudaStreamSynchronize", "cudaMemcpyAsync"])
def test_the_emulation_refuses_what_a_capture_does(name: str, tmp_path: Path) -> None:
    from emulation import emulation_toolchain as toolchain

    if reason := toolchain.missing():
        pytest.skip(reason)
    source = tmp_path / "launcher.cu"
    source.write_text(f'#include "core/device.cuh"\nvoid launcher() {{ {name}(nullptr, 1); }}\n')
    flags = ["g++", *toolchain.COMMON_FLAGS, "-isystem", str(toolchain.cuda_include())]
    run = subprocess.run(
        [*flags, "-fsyntax-only", "-x", "c++", str(source)], capture_output=True, text=True
    )
    assert run.returncode != 0
    assert "use of deleted function" in run.stderr
    assert name in run.stderr
