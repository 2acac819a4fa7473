"""The gate and the binding: which path a call takes, and what reaches a kernel."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import facekernels as fk
from facekernels import _native, _op, _torch_private, ops
from facekernels.ops.mlca import _BACKWARD, _FORWARD

pytestmark = pytest.mark.skipif(_native.C is None, reason="the extension is not built")


def call_arguments() -> tuple[Tensor, ...]:
    gen = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 8, 4, 4), (2, 2, 8), (2, 2), (2, 8, 2), (2, 8)]
    return tuple(torch.randn(s, generator=gen) for s in shapes)


def backward_arguments() -> dict[str, Tensor]:
    zero = torch.zeros(2, 3, 8)
    return {
        "d_mean": zero, "d_max": zero, "argmax": zero.int(), "d_relu_mean": torch.empty(0),
        "x": torch.empty(0), "dx": torch.empty(2, 3, 8, 4, 4),
    }  # fmt: skip


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_plain_eager_calls_skip_the_dispatcher(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object) -> None:
        raise AssertionError("went through torch.ops")

    monkeypatch.setattr(_FORWARD, "dispatched", forbidden)
    ops.mlca_gate(*call_arguments())
    with pytest.raises(AssertionError, match="went through"), Recorder():
        ops.mlca_gate(*call_arguments())


def test_dispatch_modes_see_the_op() -> None:
    with Recorder() as recorder:
        inside = ops.mlca_gate(*call_arguments())
    assert "facekernels.mlca_forward.default" in recorder.seen
    assert torch.equal(inside, ops.mlca_gate(*call_arguments()))


def test_fake_tensors_give_shapes_without_computing() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        arguments = [mode.from_tensor(t) for t in call_arguments()]
        out = ops.mlca_gate(*arguments)
    assert out.shape == (2, 3, 8)
    given = {**backward_arguments(), "dx": arguments[0]}
    with pytest.raises(ValueError, match="without memory"):
        _native.C.mlca_backward(*given.values())  # type: ignore[union-attr]


def test_missing_private_names_mean_the_public_path() -> None:
    assert _torch_private._private("_no_such_name.at_all")() == 1


def test_threads_are_torch_threads() -> None:
    """torch.set_num_threads is obeyed."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert _native.C.num_threads() == 1  # type: ignore[union-attr]
    finally:
        torch.set_num_threads(threads)
    assert _native.C.num_threads() == threads  # type: ignore[union-attr]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_openmp_pool() -> None:
    """In a process of its own: libraries that other tests load bring pools."""
    code = (
        "import facekernels as fk, torch; fk.ops.soft_argmax(torch.rand(2, 3, 64, 64))\n"
        "maps = open('/proc/self/maps').read().splitlines()\n"
        "print(*{line.split()[-1] for line in maps if 'libgomp' in line}, sep='\\n')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(run.stdout.split()) == 1, run.stdout


def test_other_dlpack_producers() -> None:
    """NumPy arrays reach the kernels through __dlpack__, with the strides they have."""
    given = {k: v.numpy() for k, v in backward_arguments().items()}
    given["d_mean"] = np.full((2, 3, 8), 16, dtype=np.float32)
    given["d_max"] = np.ones((2, 3, 8), dtype=np.float32)
    _native.C.mlca_backward(*given.values())  # type: ignore[union-attr]
    expected = np.ones((2, 3, 8, 4, 4), dtype=np.float32)
    expected[:, :, :, 0, 0] = 2
    assert np.array_equal(given["dx"], expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"d_mean": [1.0]}, TypeError, "expected a tensor, got list"),
        ({"d_mean": torch.zeros(2, 3, 8).double()}, ValueError, "d_mean must be float32, got f"),
        ({"d_mean": torch.zeros(2, 3, 9)}, ValueError, r"d_mean must have shape \(2, 3, 8\), got"),
        ({"d_mean": torch.zeros(2, 8, 3).mT}, ValueError, "d_mean must be contiguous"),
        ({"argmax": torch.zeros(2, 3, 8).short()}, TypeError, "no kernel takes a tensor of"),
        ({"dx": torch.empty(8, 4, 4)}, ValueError, r"dx must be \[G, B, C, H, W\]"),
        ({"dx": torch.empty(2, 3, 8, 4, 9)[..., ::2]}, ValueError, "dx must be contiguous in"),
    ],
)  # fmt: skip
def test_the_binding_checks_for_itself(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    """A wrong call of the raw function is a readable error, never a crash or a dump of tensors."""
    with pytest.raises(error, match=message):
        _native.C.mlca_backward(*{**backward_arguments(), **change}.values())  # type: ignore[union-attr]


def test_backend_names() -> None:
    assert fk.current_backend() == "auto"
    with fk.backend("reference"):
        assert fk.current_backend() == "reference"
    assert fk.current_backend() == "auto"
    with (
        pytest.raises(ValueError, match="backend must be one of auto, reference, emulated, got 'g"),
        fk.backend("gpu"),
    ):
        pass


def test_emulation_runs_in_eager_mode_only() -> None:
    """Fullgraph refuses; otherwise torch.compile leaves the op to eager mode."""
    if "emulated" not in fk.backends():
        pytest.skip("built without the emulated back end")
    torch._dynamo.reset()
    arguments = call_arguments()
    with fk.backend("emulated"):
        with pytest.raises(Exception, match="eager mode only"):
            torch.compile(ops.mlca_gate, backend="eager", fullgraph=True)(*arguments)
        torch._dynamo.reset()
        broken = torch.compile(ops.mlca_gate, backend="eager")(*arguments)
    assert torch.allclose(broken, ops.mlca_gate(*arguments), atol=1e-6)


def test_environment_variable_chooses_the_backend() -> None:
    code = "import facekernels as fk; print(fk.current_backend())"
    for value, expected in (("reference", "reference"), ("", "")):
        env = {**os.environ, "FACEKERNELS_BACKEND": value} if value else dict(os.environ)
        run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert run.stdout.strip() == (expected or "auto")


def test_ops_without_the_extension() -> None:
    """A broken extension: import works, the reference works, an op names the cause."""
    code = """
import sys
sys.modules["facekernels._C"] = None
import torch, facekernels as fk
from facekernels import ops
args = [torch.ones(s) for s in [(1, 1, 2, 2, 2), (1, 1, 2), (1, 1), (1, 2, 1), (1, 2)]]
with fk.backend("reference"):
    assert ops.mlca_gate(*args).shape == (1, 1, 2)
try:
    ops.mlca_gate(*args)
except ImportError as error:
    assert "facekernels._C could not be loaded" in str(error), error
    print("explained")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "explained", run.stderr


def test_ops_are_registered_with_empty_fakes() -> None:
    for op in (_FORWARD, _BACKWARD):
        assert op.dispatched is getattr(torch.ops.facekernels, op.name).default
    assert _op._fake(1, 2) is None


def test_unknown_cpu_variant_is_an_error() -> None:
    """A mistyped FACEKERNELS_CPU_VARIANT must not silently test another instruction set."""
    code = (
        "import torch, facekernels as fk; from facekernels import _native\n"
        "print(_native.C.build_info()['cpu_variant'])\n"
        "fk.ops.soft_argmax(torch.zeros(1, 1, 2, 2))"
    )
    env = {**os.environ, "FACEKERNELS_CPU_VARIANT": "avx-2"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.returncode != 0
    assert "got avx-2" in run.stdout
    assert "ValueError: FACEKERNELS_CPU_VARIANT must be a variant this processor" in run.stderr
