"""docs/kernels.md from the record and page.md."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any

from tools.kernel_record import model, record
from tools.kernel_record.binary import Kernel
from tools.kernel_record.occupancy import MULTIPROCESSORS, occupancy

WANTED_SHARE = 0.7

# Why a case stays below WANTED_SHARE although its data exceed the cache, by the beginning of its
# name. A case without a reason, and a reason without a case, are errors.
REASONS = {
    "cam_flip_consistency: 32x512x7x7, forward+backward": "rows of 49 values allow no 16-byte "
    "stores: the backward kernel writes value by value and is bound by its instructions; the "
    "forward kernel is at the floor",
    "cam_flip_consistency: 64x512x7x7, forward+backward": "as 32x512x7x7",
    "connected_components": "every edge reads the parents of two nodes, a sector each, through the "
    "L2; the floor counts the list of edges alone. PyTorch's numbering of the components adds five "
    "kernels",
    "decode_heatmaps: 32x17x64x48 channels_last": "neighbouring cells of a map lie 17 values "
    "apart, and every one costs a sector of 32 bytes through the L2; a block per map shares none "
    "of them with the other maps",
    "erase_top_n": "the radix select goes over the keys five times, one block per image, and is "
    "bound by its instructions; the erasing itself is at the floor",
    "heatmap_peaks": "one block per map, so that no lists need merging: large maps wait for their "
    "loads, of small ones every cell costs its coordinates and comparisons",
    "margin_cross_entropy": "products on CUDA cores, with loads of single values: a tile of 64 "
    "rows is half empty at 32, cosines are computed twice, and the loops are bound by their "
    "instructions and wait for their loads",
    "mlca_gate: G11 B32 C512 7x7, forward+backward": "the map is read and written at the floor; "
    "the gate, its gradient and that of its weights are products of few rows on CUDA cores",
    "mlca_gate: G11 B32 C512 7x7 channels_last, forward+backward": "as NCHW",
    "mlca_gate: G1 B16 C512 14x14, forward+backward": "as 7x7",
    "mlca_gate: G1 B2 C512 56x56, forward+backward": "as 7x7",
    "sga_outer_step_": "the benchmark clones three tensors first, so that the step can be "
    "repeated; the kernels alone are at the floor",
}


def text() -> str:
    """The page."""
    kernels, cases = record.load_kernels(), record.load_launches()
    gone = {x["kernel"] for case in cases for x in case["launches"]} - set(kernels)
    if gone:
        raise ValueError(
            f"launches of kernels that are not recorded: {', '.join(sorted(gone))}; count again"
        )
    predictions, low = _predictions(kernels, cases)
    m = model.H200
    archs = list(MULTIPROCESSORS)
    return Template((Path(__file__).parent / "page.md").read_text()).substitute(
        predictions="\n".join(predictions),
        low="\n".join(low),
        launches="\n".join(_launches(kernels, cases)),
        kernels="\n".join(_kernel(k, archs) for _, k in sorted(kernels.items())),
        count=len(kernels),
        archs=" | ".join(f"sm_{a}" for a in archs),
        arch_columns="--:|" * len(archs),
        wanted=WANTED_SHARE,
        memory=f"{m.memory / 1e12:.1f}",
        flops=f"{m.flops / 1e12:.0f}",
        tensor_flops=f"{m.tensor_flops / 1e12:.0f}",
        launch=f"{m.launch * 1e6:.0f}",
        l2=f"{m.l2 / 1e12:.1f}",
        l2_size=f"{m.l2_size / 1e6:.0f}",
        l1_bytes=m.l1_bytes,
        issues=m.issues,
        l1_latency=f"{m.l1_latency * 1e9:.0f}",
        l2_latency=f"{m.l2_latency * 1e9:.0f}",
        memory_latency=f"{m.memory_latency * 1e9:.0f}",
        barrier=f"{m.barrier * 1e9:.0f}",
        multiprocessors=m.multiprocessors,
        clock=f"{m.clock / 1e9:.3f}",
    )


def write() -> None:
    """Replace the page."""
    record.PAGE.write_text(text())


def _plain(name: str) -> str:
    return name.replace("__nv_bfloat16", "bfloat16").replace("__half", "half")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _predictions(
    kernels: dict[str, Kernel], cases: list[dict[str, Any]]
) -> tuple[list[str], list[str]]:
    """Rows of all predictions, and of those that are too low."""
    rows, low, used = [], [], set()
    for case in cases:
        for scale in sorted({1, record.scale_beyond_cache(case)}):
            p = model.predict(case, kernels, scale)
            slowest = max(p["launches"], key=lambda x: x["seconds"])
            name = case["case"] + (f", **× {scale}**" if scale > 1 else "")
            rows.append(
                _row(
                    name,
                    _number(scale * case["bytes"] / 1e6),
                    _number(1e6 * p["floor"]),
                    _number(1e6 * p["predicted"]),
                    f"{p['share']:.2f}",
                    f"{len(p['launches'])} + {p['torch_launches']}",
                    f"`{_plain(slowest['kernel'])}`: {_number(1e6 * slowest['seconds'])}, "
                    f"{slowest['bound']}",
                )
            )
            if case["bytes"] * scale < record.BEYOND_CACHE or p["share"] >= WANTED_SHARE:
                continue
            reason = next((r for r in REASONS if case["case"].startswith(r)), None)
            if reason is None:
                raise ValueError(
                    f"{name} is at {p['share']:.2f} of the floor: REASONS must say why"
                )
            used.add(reason)
            low.append(_row(name, f"{p['share']:.2f}", REASONS[reason]))
    if used != set(REASONS):
        raise ValueError(f"REASONS without a case: {sorted(set(REASONS) - used)}")
    return rows, low


def _launches(kernels: dict[str, Kernel], cases: list[dict[str, Any]]) -> list[str]:
    rows: dict[tuple[Any, ...], str] = {}
    for case in cases:
        for launch in case["launches"]:
            load, store, kernel = launch["load"], launch["store"], kernels[launch["kernel"]]
            threads = model.threads_of(launch)
            shared = kernel.shared + launch["dynamic_shared"]
            sectors = (
                load["unique_sectors"],
                store["unique_sectors"],
                load["block_sectors"] + store["sectors"],
                load["sectors"] + store["sectors"],
            )
            row = _row(
                case["case"],
                f"`{_plain(kernel.name)}`",
                f"{'×'.join(str(g) for g in launch['grid'] if g > 1) or '1'} × {threads}",
                f"{shared:,}",
                f"{100 * occupancy(90, threads, kernel.registers[90], shared):.0f}",
                *(_number(s * model.SECTOR / 1e6) for s in sectors),
                _number(128 * launch["shared"]["passes"] / 1e6),
                _number(model.operations(launch, kernel) / 1e6),
            )
            rows.setdefault((case["case"], kernel.name, *launch["grid"]), row)
    return list(rows.values())


def _kernel(k: Kernel, archs: list[int]) -> str:
    per_arch = (
        f"{k.registers[a]}, {100 * occupancy(a, k.threads, k.registers[a], k.shared):.0f}"
        for a in archs
    )
    s = k.sass
    return _row(
        f"`{_plain(k.name)}`",
        k.threads,
        *per_arch,
        f"{k.shared:,}",
        "none" if k.local == s.spills == 0 else f"{k.local} B",
        s.load16 + s.copy16,
        s.store16,
        s.shared16,
        s.loads_in_flight,
        f"{s.instructions:,}",
    )
