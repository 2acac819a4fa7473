"""Every public op on the demo's own tensors: against its float64 reference, and against the clock.

`CHECKS` is the registry. A new op adds one entry; the demo's test fails while one is missing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import facekernels
from facekernels import ops
from facekernels.cli.demo import eager
from facekernels.cli.demo.detect import Detection
from facekernels.cli.demo.model import FaceScorer


@dataclass(frozen=True)
class Call:
    """Arguments of one op, taken from the demo's run."""

    args: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    op: str
    call: Callable[[FaceScorer, Detection], Call]
    tolerance: float
    """Largest absolute error allowed, forward and of every gradient divided by its own maximum."""
    backward: bool = False
    eager: Callable[..., Any] | None = None
    """What to time against; None for the reference."""

    @property
    def label(self) -> str:
        """What the table calls it."""
        return f"{self.op} + backward" if self.backward else self.op


@dataclass(frozen=True)
class Result:
    """A row with its measurements; times are medians in seconds."""

    label: str
    shape: tuple[int, ...]
    backend: str
    error: float
    tolerance: float
    ours: float
    eager: float

    @property
    def ok(self) -> bool:
        """Whether op and reference agree. NaN never does."""
        return self.error <= self.tolerance

    @property
    def speedup(self) -> float:
        """How many times faster than eager PyTorch."""
        return self.eager / self.ours


def _windows(model: FaceScorer, detection: Detection) -> Call:
    # Every fourth window: enough to measure, and a view that is not contiguous.
    return Call((detection.best.windows[:, ::4], *(w.detach() for w in model.gate)), {})


def _convolved(model: FaceScorer, detection: Detection) -> Call:
    """48 waves over 3 x 3 windows, enough outputs for the structured backward pass."""
    x = detection.best.windows[0, ::4]
    weight = torch.arange(48 * x.shape[1] * 9, dtype=x.dtype).cos().view(48, x.shape[1], 3, 3)
    return Call((x, weight / 3), {})


def _maps(model: FaceScorer, detection: Detection) -> Call:
    return Call((level_maps(detection),), {})


def _dark(model: FaceScorer, detection: Detection) -> Call:
    return Call((level_maps(detection),), {"method": "dark", "kernel": 3})


def _marginals(model: FaceScorer, detection: Detection) -> Call:
    """Largest value of each column and each row: the one-dimensional maps that SimCC decodes."""
    maps = level_maps(detection)
    return Call((maps.amax(2), maps.amax(3)), {"split": 1.0})


def _peaks(model: FaceScorer, detection: Detection) -> Call:
    return Call((level_maps(detection),), {"kernel": 5, "threshold": 0.05, "topk": 16})


def _batch(model: FaceScorer, detection: Detection) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The levels' maps as images, how they differ from their mean as gradients, and two states.

    Gradients are multiples of 1/256: their sums are exact, so that no sign depends on rounding.
    """
    images = level_maps(detection).clamp(0, 1)
    grad = ((images - images.mean(0)) * 256).round() / 256
    return images, grad, (grad[0] / 32).contiguous(), grad.sum(0)


_STEP = {"step": 1 / 255, "epsilon": 10 / 255}


def _perturbed(model: FaceScorer, detection: Detection) -> Call:
    images, _, delta, _ = _batch(model, detection)
    return Call((images, delta), {})


def _inner_step(model: FaceScorer, detection: Detection) -> Call:
    images, grad, delta, accumulator = _batch(model, detection)
    return Call((grad, images, delta, accumulator), _STEP)


def _outer_step(model: FaceScorer, detection: Detection) -> Call:
    _, grad, delta, accumulator = _batch(model, detection)
    return Call((delta, accumulator, grad[1].contiguous()), {**_STEP, "momentum": 0.9})


def _aggregated(model: FaceScorer, detection: Detection) -> Call:
    _, grad, delta, _ = _batch(model, detection)
    return Call((grad, delta), _STEP)


def _gradients(model: FaceScorer, detection: Detection) -> Call:
    """How each map differs from the mean of the levels, as a gradient; the maps as features."""
    maps = level_maps(detection)
    return Call((maps - maps.mean(0), maps), {"reduce": "gradcam", "size": (128, 128)})


def _regions(model: FaceScorer, detection: Detection) -> Call:
    """The levels' maps as images, their heatmap as the attention."""
    maps = level_maps(detection)
    rects = ops.sample_rects(len(maps), 3, 64, generator=torch.Generator().manual_seed(0))
    return Call((maps, maps[:, :1], rects), {})


def _top_n(model: FaceScorer, detection: Detection) -> Call:
    maps = level_maps(detection)
    return Call((maps, maps[:, :1]), {"n": 410})


def _consistency(model: FaceScorer, detection: Detection) -> Call:
    """The levels' maps as features, their mirror images a level further as the other view."""
    maps = level_maps(detection)
    weight = torch.linspace(-1, 1, 3 * maps.shape[1]).view(3, -1)
    return Call((maps, maps.roll(1, 0).flip(-1), weight), {"detach_weight": False})


_HOPS = {"k_at_hop": (12, 4), "active_connection": 4}


def _faces(model: FaceScorer, detection: Detection) -> Call:
    """What the windows of the best level look like to the model, one row each."""
    windows = detection.best.windows[:, ::4]
    return Call((windows.amax((3, 4)).transpose(0, 1).flatten(1).detach(), 12), {})


def _identities(model: FaceScorer, detection: Detection) -> Call:
    """The windows' rows as embeddings, every eighth of them as the centre of a class."""
    x = _faces(model, detection).args[0]
    centres = x[::8].contiguous()
    return Call((x, centres, torch.arange(len(x)) // 8, 16.0), {"reduction": "none"})


def _graph(model: FaceScorer, detection: Detection) -> tuple[Tensor, Tensor, Tensor]:
    """The windows' rows, their neighbours, and every eighth window as a pivot."""
    x = _faces(model, detection).args[0]
    return x, ops.knn_graph(x, 12).idx, torch.arange(0, len(x), 8)


def _means(model: FaceScorer, detection: Detection) -> Call:
    x, knn, _ = _graph(model, detection)
    return Call((x, torch.arange(len(x) + 1) * 12, knn.flatten()), {})


def _subgraphs(model: FaceScorer, detection: Detection) -> Call:
    _, knn, pivots = _graph(model, detection)
    return Call((knn, pivots), _HOPS)


def _linkage(model: FaceScorer, detection: Detection) -> Call:
    """A linkage network with random weights."""
    x, knn, pivots = _graph(model, detection)
    generator = torch.Generator().manual_seed(0)
    shapes: list[tuple[int, ...]] = [(x.shape[1],), (x.shape[1],)]
    for inputs, outputs in ((x.shape[1], 32), (32, 32), (32, 16), (16, 16)):
        shapes += [(2 * inputs, outputs), (outputs,)]
    shapes += [(16, 16), (16,), (16,), (2, 16), (2,)]
    weights = [torch.randn(s, generator=generator) / 5 for s in shapes]
    weights[1] = weights[1].square() + 1
    return Call((x, knn, pivots, ops.LinkageWeights(*weights)), _HOPS)


def _links(model: FaceScorer, detection: Detection) -> tuple[Tensor, Tensor, int]:
    x = _faces(model, detection).args[0]
    idx, sim = ops.knn_graph(x, 12)
    own = torch.arange(len(x)).repeat_interleave(12)
    return torch.stack((own, idx.flatten()), 1), sim.flatten(), len(x)


def _components(model: FaceScorer, detection: Detection) -> Call:
    edges, scores, nodes = _links(model, detection)
    return Call((edges[scores > scores.median()], nodes), {})


def _thresholded(model: FaceScorer, detection: Detection) -> Call:
    edges, scores, nodes = _links(model, detection)
    return Call((edges, scores, float(scores.median())), {"num_nodes": nodes})


def _rising(model: FaceScorer, detection: Detection) -> Call:
    edges, scores, nodes = _links(model, detection)
    pooled = ops.pool_edges(edges, scores.clamp(max=0.999))
    return Call(tuple(pooled), {"max_size": 20, "num_nodes": nodes})


def level_maps(detection: Detection) -> Tensor:
    """``[levels, 1 + G, 64, 64]``: each level's heatmap and its branches' votes, as one batch."""
    levels = [torch.cat([v.heatmap[None], v.votes.sigmoid()])[None] for v in detection.levels]
    return torch.cat([functional.interpolate(v, (64, 64), mode="bilinear") for v in levels])


CHECKS: tuple[Check, ...] = (
    Check("mlca_gate", _windows, 1e-5),
    Check("mlca_gate", _windows, 1e-4, backward=True),
    Check("channel_gate", _windows, 1e-5),
    Check("channel_gate", _windows, 1e-4, backward=True),
    Check("conv_mean_max", _convolved, 1e-4),
    Check("conv_mean_max", _convolved, 1e-4, backward=True),
    Check("margin_cross_entropy", _identities, 1e-4),
    Check("margin_cross_entropy", _identities, 1e-4, backward=True),
    Check("decode_heatmaps", _dark, 1e-3, eager=eager.decode_dark),
    Check("decode_simcc", _marginals, 1e-6),
    Check("heatmap_peaks", _peaks, 0.0, eager=eager.max_pool_peaks),
    Check("uap_apply", _perturbed, 1e-6),
    Check("sga_inner_step_", _inner_step, 1e-5),
    Check("sga_outer_step_", _outer_step, 1e-5),
    Check("sga_aggregate", _aggregated, 1e-6),
    Check("gradient_attention_map", _gradients, 1e-5),
    Check("gradient_attention_map", _gradients, 1e-4, backward=True),
    Check("cam_flip_consistency", _consistency, 1e-5),
    Check("cam_flip_consistency", _consistency, 1e-4, backward=True),
    Check("erase_regions", _regions, 0.0, eager=eager.erase_rounds),
    Check("erase_top_n", _top_n, 0.0, eager=eager.erase_topk),
    Check("soft_argmax", _maps, 1e-3),
    Check("soft_argmax", _maps, 1e-3, backward=True),
    Check("local_center_of_mass", _maps, 1e-4),
    Check("local_center_of_mass", _maps, 1e-4, backward=True),
    Check("knn_graph", _faces, 1e-6),
    Check("neighbor_mean", _means, 1e-5),
    Check("neighbor_mean", _means, 1e-5, backward=True),
    Check("pivot_subgraphs", _subgraphs, 0.0),
    Check("linkage_scores", _linkage, 1e-5),
    Check("connected_components", _components, 0.0),
    Check("threshold_clusters", _thresholded, 0.0),
    Check("link_clusters", _rising, 0.0),
)


def run_checks(
    model: FaceScorer, detection: Detection, seconds: float, checks: tuple[Check, ...]
) -> Iterator[Result]:
    """Run the registry one op at a time, with about `seconds` of timing for each."""
    for check in checks:
        call = check.call(model, detection)
        error = _error(check, call)
        ours, theirs = _times(check, call, seconds)
        first = next(a for a in call.args if isinstance(a, Tensor))
        yield Result(
            check.label, tuple(first.shape), first.device.type, error, check.tolerance, ours, theirs
        )


def _runner(
    check: Check, call: Call, dtype: torch.dtype | None = None, peer: bool = False
) -> Callable[[], Any]:
    """The op on leaf copies of its arguments; with gradients if the check asks for them."""
    op = check.eager if peer and check.eager is not None else getattr(ops, check.op)
    if check.op.endswith("_"):
        op = _on_copies(op)
    args = [_argument(a, dtype, check.backward) for a in call.args]
    if not check.backward:
        return lambda: op(*args, **call.options)
    leaves = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
    with torch.no_grad():
        shape = _joined(op(*args, **call.options)).shape
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.randn(shape, generator=generator).to(leaves[0].dtype)

    def forward_and_backward() -> tuple[Tensor, ...]:
        out = _joined(op(*args, **call.options))
        return (out.detach(), *torch.autograd.grad(out, leaves, cotangent))

    return forward_and_backward


def _joined(result: Any) -> Tensor:
    """Several outputs as one."""
    if isinstance(result, Tensor):
        return result
    return torch.cat([t.flatten() for t in result])


def _on_copies(op: Callable[..., None]) -> Callable[..., tuple[Tensor, ...]]:
    """An in-place op as a function: it works on copies of its arguments and returns them."""

    def function(*args: Tensor, **options: Any) -> tuple[Tensor, ...]:
        copies = tuple(a.clone() for a in args)
        op(*copies, **options)
        return copies

    return function


def _argument(a: Any, dtype: torch.dtype | None, backward: bool) -> Any:
    if isinstance(a, ops.LinkageWeights):
        return ops.LinkageWeights(*(w.to(dtype or w.dtype) for w in a))
    if not isinstance(a, Tensor) or not a.is_floating_point():
        return a
    return a.detach().to(dtype or a.dtype).requires_grad_(backward)


def _error(check: Check, call: Call) -> float:
    ours = _tensors(_runner(check, call)())
    with facekernels.backend("reference"):
        exact = _tensors(_runner(check, call, torch.float64)())
    if len(ours) != len(exact):
        return math.inf
    return max((_difference(a, b, check.backward) for a, b in zip(ours, exact, strict=True)),
               default=0.0)  # fmt: skip


def _tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for t in result if isinstance(t, Tensor)]


def _difference(a: Tensor, b: Tensor, relative: bool) -> float:
    if a.shape != b.shape:
        return math.inf
    if a.numel() == 0:
        return 0.0
    largest = (a.double() - b.double()).abs().max()  # NaN stays NaN, and fails
    return float(largest / b.double().abs().max().clamp_min(1) if relative else largest)


def _times(check: Check, call: Call, seconds: float) -> tuple[float, float]:
    """Medians of alternating runs, so that a busy moment slows both."""
    ours, peer = _runner(check, call), _runner(check, call, peer=True)
    samples: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(samples[1]) < 5 or (time.perf_counter() < end and len(samples[1]) < 200):
        samples[0].append(_time(ours))
        with facekernels.backend("reference"):
            samples[1].append(_time(peer))
    return median(samples[0][2:]), median(samples[1][2:])


def _time(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
