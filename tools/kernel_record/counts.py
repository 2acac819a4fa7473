"""Runs benchmark cases on the emulation that counts accesses, and collects what every launch did.

The module is built by tools/count_accesses.sh. Times mean nothing there: only launches and counts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.kernel_record.binary import demangled

_ROOT = Path(__file__).resolve().parents[2]

# Case names that are run, by their beginnings; the others repeat a kernel at a similar size, or
# would take hours (kNN is quadratic: a smaller set of points stands for it).
CASES = (
    "mlca_gate: G11 B32 C512 7x7",
    "mlca_gate: G1 B16 C512 14x14",
    "mlca_gate: G1 B2 C512 56x56",
    "decode_heatmaps: 32x17x64x48",
    "decode_heatmaps: 4x133x96x72",
    "heatmap_peaks: 4x4x256x256 top 100, 25 peaks",
    "heatmap_peaks: 32x17x64x48 top 30, 3 peaks",
    "soft_argmax: 32x17x64x48",
    "gradient_attention_map: gradcam 256x512x7x7",
    "gradient_attention_map: gradcam 64x128x14x14, forward+backward",
    "gradient_attention_map: gradcam 64x128x56x56",
    "gradient_attention_map: absmax 64x3x224x224",
    "gradient_attention_map: absmax 32x3x112x112, forward+backward",
    "margin_cross_entropy: B32 V4,000 D512, forward+backward",
    "cam_flip_consistency: 32x512x7x7, forward",
    "cam_flip_consistency: 64x512x7x7, forward+backward",
    "cam_flip_consistency: 32x768x7x7 channels_last, forward+backward",
    "erase_regions: 32x3x224x224 N=3, zero, forward",
    "erase_regions: 32x3x112x112 N=3, zero, forward+backward",
    "erase_regions: 32x3x112x112 N=3, noise, forward",
    "erase_top_n: 32x3x112x112 N=1254, random",
    "erase_top_n: 16x3x224x224 N=5017, random",
    "uap_apply: 10x3x224x224",
    "sga_inner_step_: 10x3x224x224",
    "sga_inner_step_: 64x3x112x112",
    "sga_outer_step_: 3x224x224",
    "sga_aggregate: 100x3x224x224",
    "neighbor_mean: N 20,000, k 10, F 512",
    "neighbor_mean: N 20,000, k 80, F 256",
    "pivot_subgraphs: 32 pivots",
    "linkage_scores: 32 pivots",
    "connected_components: 1,000,000 nodes, 8,000,000 edges, within 70 nodes",
)


def load_counting_module(path: Path) -> None:
    """Make the package use this build of `_emulated`. Before facekernels is imported."""
    if "facekernels" in sys.modules:
        raise RuntimeError("facekernels is imported already; the counting module must come first")
    name = "facekernels._emulated"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def kernel_symbols(path: Path) -> dict[int, str]:
    """Names of the module's functions by their offset."""
    output = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in output.splitlines()]
    found = {
        int(a, 16): name for a, kind, name in (x for x in lines if len(x) == 3) if kind in "tTwW"
    }
    names = demangled(list(found.values()))
    return {offset: names[symbol] for offset, symbol in found.items()}


class TorchOps:
    """Kernels that PyTorch itself would launch: their tensors' bytes, products' operations."""

    # Launch nothing: memory, shapes, or data that the host already has.
    FREE = frozenset(
        {
            "empty",
            "empty_like",
            "empty_strided",
            "new_empty",
            "new_empty_strided",
            "as_strided",
            "view",
            "_unsafe_view",
            "expand",
            "slice",
            "select",
            "permute",
            "transpose",
            "t",
            "unsqueeze",
            "squeeze",
            "detach",
            "alias",
            "split",
            "unbind",
            "reshape",
            "_reshape_alias",
            "lift_fresh",
            "unfold",
            "split_with_sizes",
        }
    )

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def mode(self) -> Any:
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        seen = self.seen

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
                out = func(*args, **(kwargs or {}))
                name = func.overloadpacket.__name__
                if name in TorchOps.FREE:
                    return out
                tensors = [
                    t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)
                ]
                flops = 0
                if name in ("mm", "addmm", "bmm", "baddbmm"):
                    a, b = [t for t in tree_leaves(args) if isinstance(t, torch.Tensor)][-2:]
                    flops = 2 * a.numel() * b.shape[-1]
                size = sum(t.numel() * t.element_size() for t in tensors)
                seen.append({"op": name, "bytes": size, "flops": flops})
                return out

        return Mode()


def run(case: Any, symbols: dict[int, str]) -> dict[str, Any]:
    """Launches and PyTorch's kernels of one call of one case."""
    import torch

    import facekernels as fk
    from benchmarks.harness import OURS

    torch.manual_seed(0)
    workload = case.setup(torch.device("cpu"))
    inputs = workload.make_inputs()
    ops = TorchOps()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "launches"
        os.environ["FACEKERNELS_EMU_LAUNCH_LOG"] = str(log)
        try:
            with fk.backend("emulated"), ops.mode():
                workload.implementations[OURS](*inputs)
        finally:
            del os.environ["FACEKERNELS_EMU_LAUNCH_LOG"]
        launches = [json.loads(line) for line in log.read_text().splitlines()]
    for launch in launches:
        launch["kernel"] = symbols[launch.pop("symbol")]
    return {
        "case": case.name,
        "bytes": workload.bytes,
        "flops": workload.flops,
        "launches": launches,
        "torch": ops.seen,
    }


def chosen_cases() -> list[Any]:
    """The benchmark cases that `CASES` names, and a small kNN search."""
    from benchmarks import bench_knn
    from benchmarks.run import all_cases

    found = [c for c in all_cases() if c.name.startswith(CASES) and "cuda" in c.devices]
    return [*found, bench_knn._case(512, 256, 80)]


def run_cases(text: str, recorded: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chosen cases: those whose name has `text` are run, the others taken as recorded.

    On the module that tools/count_accesses.sh has built.
    """
    found = sorted((_ROOT / "build" / "count").glob("csrc/emulation/_emulated*.so"))
    if not found:
        raise FileNotFoundError("no counting module: run tools/count_accesses.sh first")
    load_counting_module(found[0])
    symbols = kernel_symbols(found[0])
    known = {case["case"]: case for case in recorded}
    results = []
    for case in chosen_cases():
        if text in case.name or case.name not in known:
            print(case.name, flush=True)
            results.append(run(case, symbols))
        else:
            results.append(known[case.name])
    return results
