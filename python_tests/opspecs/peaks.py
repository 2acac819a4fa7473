"""Peaks of heatmaps."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from facekernels import ops, reference
from opspecs.soft_argmax import heatmap_samples
from opspecs.spec import OpSpec, Sample, channels_last, sliced


def _peak_samples() -> Iterator[Sample]:
    gen = torch.Generator().manual_seed(5)
    noise = torch.rand(2, 3, 21, 37, generator=gen, dtype=torch.float64).float().double()
    plateaus = (noise * 6).round() / 6
    for name, maps in {"noise": noise, "plateaus": plateaus}.items():
        for strict in (False, True):
            label = f"{name}-{'strict' if strict else 'ties'}"
            yield Sample(label, (maps,), {"topk": 9, "strict": strict})
    yield Sample("window_5", (plateaus,), {"kernel": 5, "topk": 200, "threshold": 0.5})
    yield Sample("channels_last", (channels_last(noise),), {"topk": 5})
    yield Sample("sliced", (sliced(noise),), {"topk": 5})
    yield Sample("window_exceeds_map", (noise[..., :2, :3],), {"kernel": 9, "topk": 8})
    yield Sample("no_peaks_wanted", (noise,), {"topk": 0})
    yield Sample("empty_batch", (noise[:0],), {"topk": 3})


SPECS: tuple[OpSpec, ...] = (
    OpSpec(
        "heatmap_peaks",
        ops.heatmap_peaks,
        reference.heatmap_peaks,
        _peak_samples,
        tolerance=0,
    ),
    OpSpec("heatmap_peaks", ops.heatmap_peaks, reference.heatmap_peaks, heatmap_samples),
)
