"""How a case is measured.

Ours and its peers run in turn, in one process, after warm-up: a disturbance of the machine meets
all of them alike. Reported are median, quartiles and minimum of the rounds. A copy that moves the
least possible traffic of the case runs in the same rounds, so that a row can say which share of the
machine's ceiling was reached, for the cache level where its data live.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from benchmarks import cuda_timing

OURS = "facekernels"
CEILING = "copy of the same bytes"
# Yardsticks that do less than the op: shown, but no peers.
FLOORS = frozenset({CEILING, "torch.mul (floor)"})

_SLOW = 10.0  # seconds of a call, which then is warmed up once and not three times

Inputs = tuple[Any, ...]
Implementation = Callable[..., Any]  # called with one Inputs
CPU_CLOCK, WALL_CLOCK = time.process_time, time.perf_counter


@dataclass
class Workload:
    """One case, ready to run on a device."""

    make_inputs: Callable[[], Inputs]
    implementations: dict[str, Implementation]
    """By name; `OURS` must be there."""
    bytes: int
    """Least memory traffic: every input read once, every output written once."""
    flops: int = 0
    reference: Implementation | None = None
    """Called with float64 inputs; returns what the implementations return."""
    error_unit: str = "relative"
    """"relative" (to the reference's largest magnitude) or a unit such as "px" (absolute)."""
    unavailable: dict[str, str] = field(default_factory=dict)
    """Peers that cannot run here, and why."""


@dataclass(frozen=True)
class Case:
    """A named workload; `setup` allocates nothing before it is called."""

    family: str
    size: str
    mode: str
    setup: Callable[[torch.device], Workload]
    quick: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda")
    min_rounds: int = 7
    """Fewer where one call takes many seconds."""

    @property
    def name(self) -> str:
        """`family: size, mode`."""
        return f"{self.family}: {self.size}, {self.mode}"


@dataclass
class Timing:
    """Statistics of one implementation, in seconds per call."""

    median: float
    q1: float
    q3: float
    min: float
    rounds: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """Median and quartiles (inclusive method) of the rounds."""
        if not samples:
            raise ValueError("samples must hold at least one time, got none")
        q1, _, q3 = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
        return cls(median(samples), q1, q3, min(samples), len(samples))


def interleave(
    functions: Mapping[str, Callable[[], Any]],
    clock: Callable[[], float] = CPU_CLOCK,
    seconds: float = 3.0,
    min_rounds: int = 7,
    sample_seconds: float = 1e-3,
) -> dict[str, Timing]:
    """Time the functions in turn until `seconds` are spent, at least `min_rounds` times each.

    A sample holds as many calls as take `sample_seconds`; every round starts with another function,
    so that none always follows the same neighbour.
    """
    names = list(functions)
    calls = {}
    for name, function in functions.items():
        start = clock()
        function()  # compiles, allocates
        once = clock() - start
        if once < _SLOW:
            function()
            start = clock()
            function()
            once = clock() - start
        once = max(once, 1e-7)
        calls[name] = max(1, round(sample_seconds / once))

    samples: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.disable()
    try:
        deadline = time.perf_counter() + seconds
        turn = 0
        while turn < min_rounds or time.perf_counter() < deadline:
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                function, repeat = functions[name], range(calls[name])
                start = clock()
                for _ in repeat:
                    function()
                samples[name].append((clock() - start) / calls[name])
            turn += 1
    finally:
        if collecting:
            gc.enable()
    return {name: Timing.of(values) for name, values in samples.items()}


def run_case(
    case: Case,
    device: torch.device,
    clock: Callable[[], float] = CPU_CLOCK,
    seconds: float = 3.0,
    ceilings: Mapping[str, float] | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Measure one case; the result is a row of the JSON file.

    With another `dtype` the float32 inputs are cast to it; peers that refuse it are noted.

    Raises:
        Unsupported: facekernels itself refuses the dtype in this case.
    """
    torch.compiler.reset()  # or the recompilation limit turns compiled peers into eager ones
    workload = case.setup(device)
    if dtype != torch.float32:
        workload = cast_workload(workload, dtype)
    torch.manual_seed(0)
    inputs = workload.make_inputs()
    errors = {
        name: _error(function, workload, inputs)
        for name, function in workload.implementations.items()
        if name not in FLOORS
    }
    functions = dict(workload.implementations)
    if workload.bytes:
        half = max(1, workload.bytes // 2)
        source, target = (torch.zeros(half, dtype=torch.uint8, device=device) for _ in range(2))
        functions[CEILING] = lambda *_: target.copy_(source)
    if device.type == "cuda":
        timings, notes = cuda_timing.interleave(functions, workload.make_inputs, seconds)
    else:
        bound = {name: partial(function, *inputs) for name, function in functions.items()}
        timings, notes = interleave(bound, clock, seconds, case.min_rounds), {}
    return {
        "family": case.family,
        "size": case.size,
        "mode": case.mode,
        "device": device.type,
        "bytes": workload.bytes,
        "flops": workload.flops,
        "timings_us": {name: _microseconds(t) for name, t in timings.items()},
        "max_error": errors,
        "error_unit": workload.error_unit,
        "ceiling_share": _ceiling_share(timings, workload, ceilings or {}),
        "unavailable": workload.unavailable | notes,
    }


class Unsupported(Exception):
    """A case that facekernels has not in this dtype."""


def cast_workload(workload: Workload, dtype: torch.dtype) -> Workload:
    """The workload with float32 inputs cast, without the implementations that refuse them."""

    def make_inputs() -> Inputs:
        return tuple(_cast(t, dtype) for t in workload.make_inputs())

    inputs, implementations, refused = make_inputs(), {}, {}
    for name, function in workload.implementations.items():
        try:
            function(*inputs)
            implementations[name] = function
        except Exception as error:  # each library has its own
            refused[name] = str(error).splitlines()[0] if str(error) else type(error).__name__
    if OURS in refused:
        raise Unsupported(refused[OURS])
    return replace(
        workload,
        make_inputs=make_inputs,
        implementations=implementations,
        bytes=workload.bytes * dtype.itemsize // 4,
        unavailable=workload.unavailable | refused,
    )


def _cast(t: Any, dtype: torch.dtype) -> Any:
    if not isinstance(t, Tensor) or t.dtype != torch.float32:
        return t
    return t.detach().to(dtype).requires_grad_(t.requires_grad)


def measure_ceilings(
    device: torch.device, clock: Callable[[], float] = CPU_CLOCK, seconds: float = 1.0
) -> dict[str, float]:
    """What these threads can do: large copy and triad in GB/s, sgemm in GFLOP/s."""
    # Beyond any cache: 3 x 128 MiB on a CPU, 3 x 1 GiB on a GPU.
    n = 1 << (28 if device.type == "cuda" else 25)
    m = 8192 if device.type == "cuda" else 1024
    a, b, c = (torch.zeros(n, device=device) for _ in range(3))
    p, q, r = (torch.ones(m, m, device=device) for _ in range(3))
    functions: dict[str, Implementation] = {
        "copy": lambda *_: c.copy_(a),
        "triad": lambda *_: torch.add(a, b, alpha=2.0, out=c),
        "sgemm": lambda *_: torch.mm(p, q, out=r),
    }
    if device.type == "cuda":
        best, _ = cuda_timing.interleave(functions, lambda: (), seconds, graphs=False)
    else:
        best = interleave(functions, clock, seconds)
    return {
        "copy_gb_s": 8 * n / best["copy"].min / 1e9,
        "triad_gb_s": 12 * n / best["triad"].min / 1e9,
        "sgemm_gflop_s": 2 * m**3 / best["sgemm"].min / 1e9,
    }


def forward_backward(function: Implementation, needs_grad: Sequence[int]) -> Implementation:
    """`function`, then gradients of its output for the inputs at `needs_grad`.

    The last input is the gradient of the output. Returns (output, *gradients).
    """

    def step(*inputs: Tensor) -> tuple[Tensor, ...]:
        *arguments, grad = inputs
        leaves = [arguments[i] for i in needs_grad]
        out = function(*arguments)
        return (out.detach(), *torch.autograd.grad(out, leaves, grad))

    return step


def _microseconds(t: Timing) -> dict[str, float]:
    return {
        "median": 1e6 * t.median,
        "q1": 1e6 * t.q1,
        "q3": 1e6 * t.q3,
        "min": 1e6 * t.min,
        "rounds": t.rounds,
    }


def _ceiling_share(
    timings: Mapping[str, Timing], workload: Workload, ceilings: Mapping[str, float]
) -> float | None:
    """The later of the two floors, memory and arithmetic, over our time."""
    floors = []
    if CEILING in timings:
        floors.append(timings[CEILING].median)
    if workload.flops and "sgemm_gflop_s" in ceilings:
        floors.append(workload.flops / (1e9 * ceilings["sgemm_gflop_s"]))
    return max(floors) / timings[OURS].median if floors else None


def _error(function: Implementation, workload: Workload, inputs: Inputs) -> float | None:
    """Largest deviation from the float64 reference over all outputs."""
    if workload.reference is None:
        return None
    exact = [_as_double(t) for t in inputs]
    expected = _tensors(workload.reference(*exact))
    worst = 0.0
    for got, want in zip(_tensors(function(*inputs)), expected, strict=True):
        if want.numel() == 0:
            continue
        difference = (got.double().cpu() - want.double().cpu()).abs().max().item()
        scale = want.abs().max().item() if workload.error_unit == "relative" else 1.0
        worst = max(worst, difference / (scale or 1.0))
    return worst


def _as_double(t: Any) -> Any:
    if not isinstance(t, Tensor) or not t.is_floating_point():
        return t
    return t.detach().double().requires_grad_(t.requires_grad)


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, tuple | list):
        return [t for part in output for t in _tensors(part)]
    return [torch.as_tensor(output)]
