"""`pytest benchmarks/` (add `-m quick` for the small set): the same cases as `facekernels bench`.

pytest-benchmark's own table shows the rounds of facekernels; the interleaved comparison with the
peers is in `extra_info` (kept by --benchmark-json) and printed at the end.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks import harness, report
from benchmarks.run import keep_freed_memory, set_threads

_ROWS = pytest.StashKey[list]()
_CEILINGS = pytest.StashKey[dict]()


def pytest_addoption(parser):
    parser.addoption("--threads", type=int, default=1, help="threads of every implementation")
    parser.addoption("--allocator", choices=("kept", "default"), default="kept")
    parser.addoption("--seconds", type=float, default=1.0, help="time for the rounds of a case")


def pytest_configure(config):
    config.stash[_ROWS] = []
    config.stash[_CEILINGS] = {}
    set_threads(config.getoption("threads"))
    if config.getoption("allocator") == "kept" and not torch.cuda.is_available():
        keep_freed_memory()


def pytest_generate_tests(metafunc):
    if "case" not in metafunc.fixturenames:
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = [c for c in metafunc.module.CASES if device in c.devices]
    metafunc.parametrize(
        "case",
        [pytest.param(c, id=c.name, marks=[pytest.mark.quick] if c.quick else []) for c in cases],
    )


@pytest.fixture
def compare(request, benchmark):
    """Measures a case, and lets pytest-benchmark record our implementation."""
    config = request.config
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    single = config.getoption("threads") == 1
    clock = harness.CPU_CLOCK if single else harness.WALL_CLOCK
    ceilings = config.stash[_CEILINGS]
    if not ceilings:
        ceilings.update(harness.measure_ceilings(device, clock))

    def run(case):
        row = harness.run_case(case, device, clock, config.getoption("seconds"), ceilings)
        config.stash[_ROWS].append(row)
        benchmark.group = case.family
        benchmark.extra_info.update(row, ceilings=ceilings)
        workload = case.setup(device)
        inputs = workload.make_inputs()
        function = workload.implementations[harness.OURS]
        if device.type == "cuda":
            benchmark.pedantic(_synchronised(function), inputs, rounds=20, warmup_rounds=3)
        else:
            benchmark.pedantic(function, inputs, rounds=20, warmup_rounds=3)

    return run


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[_ROWS]
    if rows:
        terminalreporter.section("comparison with the peers (interleaved)")
        terminalreporter.write_line(report.tables({"rows": rows}))


def _synchronised(function):
    def run(*inputs):
        function(*inputs)
        torch.cuda.synchronize()

    return run
