"""The benchmarks' own maths, report and command."""

import importlib.util
import itertools
import json
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from facekernels.cli import main

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import harness, report, run  # noqa: E402


def test_timing_statistics() -> None:
    timing = harness.Timing.of([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (timing.median, timing.q1, timing.q3) == (3.0, 2.0, 4.0)
    assert (timing.min, timing.rounds) == (1.0, 5)
    assert harness.Timing.of([2.0]) == harness.Timing(2.0, 2.0, 2.0, 2.0, 1)
    with pytest.raises(ValueError, match="at least one time"):
        harness.Timing.of([])


def test_interleave_times_and_alternates() -> None:
    now = 0.0
    order = []

    def work(name: str, cost: float) -> None:
        nonlocal now
        now += cost
        order.append(name)

    functions = {"a": partial(work, "a", 1.0), "b": partial(work, "b", 3.0)}
    timings = harness.interleave(functions, lambda: now, seconds=0.0, min_rounds=4)
    assert timings["a"].median == 1.0
    assert timings["b"].median == 3.0
    assert "".join(order[6:]) == "abbaabba"  # after three warm-up calls of each


def test_a_sample_holds_enough_calls() -> None:
    now, calls = 0.0, itertools.count()

    def work() -> None:
        nonlocal now
        now += 0.25
        next(calls)

    timing = harness.interleave({"w": work}, lambda: now, 0.0, min_rounds=2, sample_seconds=1.0)
    assert timing["w"].median == 0.25
    assert next(calls) == 3 + 2 * 4


def test_error_is_measured_against_float64() -> None:
    inputs = (torch.tensor([1.0, -4.0]),)
    workload = harness.Workload(lambda: inputs, {}, 0, reference=lambda x: 2 * x)
    assert harness._error(lambda x: 2 * x + 1, workload, inputs) == 1 / 8
    workload.error_unit = "px"
    assert harness._error(lambda x: 2 * x + 1, workload, inputs) == 1.0


def test_forward_backward_returns_gradients() -> None:
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    out, grad = harness.forward_backward(torch.square, [0])(x, torch.tensor([1.0, 10.0]))
    assert out.tolist() == [4.0, 9.0]
    assert not out.requires_grad
    assert grad.tolist() == [4.0, 60.0]


def test_another_dtype_casts_inputs_and_drops_peers_that_refuse_it() -> None:
    def refuses(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        if x.dtype is not torch.float32:
            raise TypeError("only float32\nand more")
        return x

    functions = {harness.OURS: lambda x, index: x, "strict": refuses}
    inputs = (torch.zeros(8, requires_grad=True), torch.zeros(8, dtype=torch.int64))
    workload = harness.Workload(lambda: inputs, functions, bytes=400)
    half = harness.cast_workload(workload, torch.bfloat16)
    x, index = half.make_inputs()
    assert (x.dtype, x.requires_grad, index.dtype) == (torch.bfloat16, True, torch.int64)
    assert half.bytes == 200
    assert list(half.implementations) == [harness.OURS]
    assert half.unavailable == {"strict": "only float32"}
    workload.implementations = {harness.OURS: refuses}
    with pytest.raises(harness.Unsupported, match="only float32"):
        harness.cast_workload(workload, torch.float64)


def timing_us(median: float) -> dict[str, float]:
    return {"median": median, "q1": 0.9 * median, "q3": 1.1 * median, "min": median, "rounds": 7}


@pytest.fixture
def result() -> dict[str, Any]:
    return {
        "schema": 1, "date": "2026-01-02T03:04:05+00:00", "commit": "0123456789", "cpu": "Testium",
        "cpu_variant": "avx2", "gpu": None, "device": "cpu", "threads": 1, "timer": "cpu",
        "versions": {"torch": "9.9"}, "ceilings": {"copy_gb_s": 25.4, "sgemm_gflop_s": 98.6},
        "rows": [
            {
                "family": "mlca_gate", "size": "G1", "mode": "forward", "unavailable": {},
                "timings_us": {"facekernels": timing_us(100.0), "eager": timing_us(1230.0),
                               "compile": timing_us(80.0), harness.CEILING: timing_us(60.0)},
                "max_error": {"facekernels": 2e-7, "eager": 3e-6}, "error_unit": "relative",
                "ceiling_share": 0.6,
            }
        ],
    }  # fmt: skip


def test_report_holds_the_numbers_and_the_loss(tmp_path: Path, result: dict[str, Any]) -> None:
    run.write(result, tmp_path / "results" / "testium" / "cpu-1t.json")
    paths = report.write_all(tmp_path / "results", tmp_path / "docs")
    assert {p.suffix for p in paths} == {".svg", ".png", ".md"}
    assert all(p.stat().st_size > 500 for p in paths)
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    row = (
        "| G1, forward | 100 us | 20 % | 0.60 | 1.23 ms (12.3x) | 80.0 us (0.80x) | 2e-07 / 3e-06 |"
    )
    assert row in page
    assert "a peer is faster: mlca_gate G1, forward: compile takes 0.80x our time" in page
    assert "Testium (avx2 kernels), 1 thread" in page
    assert "| mlca_gate | 0.80x (0.80x) |" in page
    assert "copy 25 GB/s, sgemm 99 GFLOP/s" in page
    assert "(img/benchmarks-testium-cpu-1t.svg)" in page


def test_report_compares_threads(tmp_path: Path, result: dict[str, Any]) -> None:
    machine = tmp_path / "results" / "testium"
    run.write(result, machine / "cpu-1t.json")
    result["rows"][0]["timings_us"]["facekernels"] = timing_us(40.0)
    run.write(result | {"threads": 2}, machine / "cpu-2t.json")
    report.write_all(tmp_path / "results", tmp_path / "docs")
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "| family | 1 thread | 2 threads |" in page
    assert "| mlca_gate | 0.80x (0.80x) | 2.00x (2.00x) |" in page
    assert "| G1, forward | 40.0 us | 2.50x |" in page


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept() -> None:
    """A result as large as the last one brings no page faults, once warm.

    The first few may: glibc places an aligned block only where there is room to align it.
    """
    code = (
        "import resource, sys, torch\n"
        "from benchmarks import run\n"
        "if 'keep' in sys.argv: assert run.keep_freed_memory()\n"
        "for _ in range(10): torch.empty(1 << 26, dtype=torch.uint8).zero_()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(2): torch.empty(1 << 26, dtype=torch.uint8).zero_()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = [
        int(subprocess.check_output([sys.executable, "-c", code, *more], cwd=ROOT, text=True))
        for more in ([], ["keep"])
    ]
    assert faults[1] < faults[0] / 10


def test_filtered_and_superseded_runs_are_not_published(
    tmp_path: Path, result: dict[str, Any]
) -> None:
    for name in ("cpu-1t.json", "cpu-1t-quick.json", "cpu-1t-part.json", "cpu-2t-quick.json"):
        run.write(result, tmp_path / "m" / name)
    names = [p.name for p in report.result_files(tmp_path)]
    assert names == ["cpu-1t.json", "cpu-2t-quick.json"]


def test_graph_replays_are_compared_with_our_graph_replay(result: dict[str, Any]) -> None:
    row = result["rows"][0]
    row["timings_us"] |= {
        "facekernels (CUDA graph)": timing_us(10.0), "eager (CUDA graph)": timing_us(40.0),
    }  # fmt: skip
    assert report.ratios(row)["eager (CUDA graph)"] == 4.0
    assert report.ratios(row)["eager"] == 12.3


def test_slug() -> None:
    assert run.slug("Intel(R) Xeon(R) CPU @ 2.20GHz") == "intel-xeon-cpu-2-20ghz"


def test_case_names_are_unique_and_a_quick_set_exists() -> None:
    cases = run.all_cases()
    assert len({c.name for c in cases}) == len(cases)
    assert {c.family for c in cases if c.quick} == {c.family for c in cases}


def test_bench_command_measures_a_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def setup(device: torch.device) -> harness.Workload:
        def slow(x: torch.Tensor) -> torch.Tensor:
            for _ in range(50):
                x = x + 1
            return x

        functions = {harness.OURS: lambda x: x + 50, "slow": slow}
        return harness.Workload(
            lambda: (torch.zeros(64),), functions, bytes=512, reference=lambda x: x + 50
        )

    case = harness.Case("tiny", "64", "forward", setup, quick=True)
    monkeypatch.setattr(run, "all_cases", lambda: [case])
    monkeypatch.setattr(
        harness, "measure_ceilings", lambda *_: {"copy_gb_s": 10.0, "sgemm_gflop_s": 50.0}
    )
    monkeypatch.setattr(run, "set_threads", lambda _: None)
    monkeypatch.setattr(run, "keep_freed_memory", lambda: True)
    output = tmp_path / "out.json"
    argv = ["bench", "--quick", "--seconds", "0.05", "--device", "cpu", "--output", str(output)]
    assert main(argv) == 0
    assert "[1/1] tiny: 64, forward" in capsys.readouterr().out
    saved = json.loads(output.read_text())
    (row,) = saved["rows"]
    assert row["timings_us"]["slow"]["median"] > 3 * row["timings_us"]["facekernels"]["median"]
    assert row["max_error"] == {"facekernels": 0.0, "slow": 0.0}
    assert saved["threads"] == 1
    assert saved["versions"]["torch"]


def test_bench_command_refuses_an_unknown_filter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--filter", "no such case"]) == 2
    assert "no case of" in capsys.readouterr().err


def load_gpu_smoke() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_smoke", ROOT / "tools" / "gpu_smoke.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_slowest_kernels_are_read_from_a_profile() -> None:
    profile = "\n".join([
        "==PROF== Connected to process 1",
        '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"',
        '"0","void facekernels::mlca::gate<float>(Args)","gpu__time_duration.sum","ns","2,000"',
        '"1","void at::native::fill(Args)","gpu__time_duration.sum","ns","90,000"',
        '"2","void facekernels::mlca::stats<float>(Args)","gpu__time_duration.sum","ns","3,500"',
        '"3","void facekernels::heatmap::decode(Args)","gpu__time_duration.sum","ns","100"',
    ])  # fmt: skip
    assert load_gpu_smoke().slowest(profile) == ["stats", "gate"]
