"""Each planted bug is caught with kernel, block, thread and line; correct kernels run clean."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import emulation_toolchain as toolchain
import pytest

SOURCE = toolchain.SOURCES / "planted_bugs.cu"
SCHEDULES = ["forward", "reverse", "random:7"]
RIGHT, REPORTED, WRONG = 0, 3, 4  # exit codes of the program
TSAN_REPORT = 66


@dataclass(frozen=True)
class Run:
    code: int
    output: str


Runner = Callable[..., Run]


@pytest.fixture(scope="session")
def run(emulation_runtime: list[str], emulation_folder: Path) -> Runner:
    """Runs one case of a variant, with settings, in a process of its own.

    Programs are built when first asked for.
    """

    @functools.cache
    def program(variant: str) -> Path:
        if not toolchain.sanitizer_works(variant):
            pytest.skip(f"g++ has no working {variant} sanitizer here")
        target = emulation_folder / f"planted_bugs_{variant}"
        return toolchain.link(SOURCE, target, emulation_runtime, variant)

    def run_case(variant: str, case: str, **settings: str) -> Run:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FACEKERNELS_EMU_")}
        environment["ASAN_OPTIONS"] = "detect_leaks=0"
        environment["TSAN_OPTIONS"] = f"exitcode={TSAN_REPORT}"
        environment |= {f"FACEKERNELS_EMU_{key}": value for key, value in settings.items()}
        result = subprocess.run(
            [program(variant), case],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return Run(result.returncode, result.stdout)

    return run_case


def line_of(marker: str) -> int:
    """Line of planted_bugs.cu that carries `// report: marker`."""
    lines = SOURCE.read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if line.endswith(f"// report: {marker}")]
    return number


def assert_names(output: str, kernel: str, marker: str | None = None) -> None:
    """The report names kernel, block, thread and the marked source line."""
    assert re.search(rf"{kernel} block \(\d+,0,0\) thread \(\d+,0,0\)", output), output
    assert re.search(rf"planted_bugs\.cu:{line_of(marker or kernel)}\b", output), output


CORRECT = [
    "block_sum",
    "warp_reverse",
    "last_block_sum",
    "histogram",
    "disjoint_masks",
    "polite_spin",
    "indirect_initialisation",
    "pipelined_sum",
    "empty_grid",
]


@pytest.mark.parametrize("variant", toolchain.VARIANTS)
@pytest.mark.parametrize("case", CORRECT)
def test_correct_kernels_run_clean(run: Runner, variant: str, case: str) -> None:
    for schedule in SCHEDULES:
        result = run(variant, case, SCHEDULE=schedule)
        assert result == Run(RIGHT, "right result\n"), (schedule, result)


@pytest.mark.parametrize("copies", ["eager", "random"])
def test_correct_pipeline_whenever_copies_move(run: Runner, copies: str) -> None:
    assert run("plain", "pipelined_sum", ASYNC=copies).code == RIGHT


# What the emulation itself reports, in every kind of build.
RULES = {
    "divergent_barrier": r"divergent barrier: this thread waits in __syncthreads .* but thread \d+",
    "exit_before_barrier": r"thread \(100,0,0\).*divergent barrier: .*28 of 128 threads",
    "partial_warp_shuffle": r"this lane reads lane 16, which takes no part .*present 0x0000ffff",
    "partial_warp_matrix": r"mma\.sync at .*all 32 lanes must take part, present 0x0000ffff",
    "misaligned_matrix": r"ldmatrix: the row is not aligned to 16 bytes",
    "lane_not_in_mask": r"thread \(16,0,0\).*not in its own mask 0x0000ffff",
    "divergent_warp_function": r"divergent warp function: this lane is in __shfl_\*_sync",
    "trap": r"__trap\(\)",
    "too_much_static_shared": r"'tile' \(52000 bytes\).*at most 48 KiB",
    "copy_never_waited": r"exits without __pipeline_wait_prior",
    "copy_to_global": r"the destination is not shared memory",
}


@pytest.mark.parametrize("variant", toolchain.VARIANTS)
@pytest.mark.parametrize("case", RULES)
def test_broken_rules(run: Runner, variant: str, case: str) -> None:
    result = run(variant, case)
    assert result.code == REPORTED, result
    assert re.search(RULES[case], result.output), result.output
    assert_names(result.output, case)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("copy_misaligned", "8 bytes .* destination is misaligned"),
        ("copy_of_bad_size", "12 bytes .* must be 4, 8 or 16"),
    ],
)
def test_wrong_asynchronous_copies(run: Runner, case: str, reason: str) -> None:
    result = run("plain", case)
    assert result.code == REPORTED, result
    assert re.search(reason, result.output), result.output
    assert_names(result.output, case, "copy")


@pytest.mark.parametrize("variant", toolchain.VARIANTS)
def test_exception_in_a_kernel(run: Runner, variant: str) -> None:
    result = run(variant, "exception")
    assert result.code == REPORTED, result
    place = "kernel exception block (0,0,0) thread (7,0,0) warp 0 lane 7"
    assert f"{place}: exception: x is 1.000000" in result.output


def test_deadlock_lists_who_waits_where(run: Runner) -> None:
    result = run("plain", "deadlock")
    assert result.code == REPORTED, result
    line = line_of("deadlock")
    assert "kernel deadlock block (0,0,0): deadlock" in result.output
    assert (
        f"threads 0-15: waiting in __shfl_*_sync at planted_bugs.cu:{line}, warp 0, "
        "mask 0xffffffff, lanes not arrived 0xffff0000" in result.output
    )
    assert f"threads 16-31: waiting in __syncthreads at planted_bugs.cu:{line + 2}" in result.output


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("block_too_large", "the block (2048,1,1) is too large"),
        ("too_much_dynamic_shared", "307200 bytes of dynamic shared memory, at most 232448"),
    ],
)
def test_launch_limits(run: Runner, case: str, reason: str) -> None:
    result = run("plain", case)
    assert result.code == REPORTED, result
    assert f"launch of {case}: " in result.output
    assert reason in result.output


def test_shared_memory_limit_can_be_lowered(run: Runner) -> None:
    assert run("plain", "block_sum", MAX_SHARED="1024").code == RIGHT
    result = run("plain", "block_sum", MAX_SHARED="1023")
    assert result.code == REPORTED
    assert "add up to 1024 bytes, at most 1023" in result.output


# What shows as a wrong number under at least one schedule, without any sanitizer.
@pytest.mark.parametrize(
    "case",
    ["missing_barrier", "warp_synchronous_tail", "uninitialised_shared", "copy_read_before_wait"],
)
def test_wrong_results(run: Runner, case: str) -> None:
    codes = [run("plain", case, SCHEDULE=schedule).code for schedule in SCHEDULES]
    assert WRONG in codes
    assert set(codes) <= {RIGHT, WRONG}


RACES = [
    "missing_barrier",
    "warp_synchronous_tail",
    "shuffle_as_barrier",
    "race_between_blocks",
    "missing_barrier_in_pipeline",
    "copy_read_before_wait",
]


@pytest.mark.parametrize("case", RACES)
def test_thread_sanitizer_finds_races(run: Runner, case: str) -> None:
    result = run("thread", case)
    assert result.code == TSAN_REPORT, result
    assert "ThreadSanitizer: data race" in result.output
    assert_names(result.output, case)


# Found by the hooks in the address build, and reported by the emulation.
SHARED_ACCESSES = {
    "out_of_bounds_shared": "out of bounds read of 4 bytes .* byte 1024 of .*'tile' (1024 bytes)",
    "out_of_bounds_dynamic_shared": "out of bounds write of 4 bytes .* byte 256 of .* (256 bytes)",
    "uninitialised_shared": "uninitialised read of 4 bytes .* byte 252 of .*'tile' (256 bytes)",
    "copy_read_before_wait": "uninitialised read of 4 bytes .* of .*'tile' (128 bytes)",
}


@pytest.mark.parametrize("case", SHARED_ACCESSES)
def test_wrong_shared_memory_accesses(run: Runner, case: str) -> None:
    result = run("address", case)
    assert result.code == REPORTED, result
    pattern = SHARED_ACCESSES[case].replace("(", r"\(").replace(")", r"\)")
    assert re.search(pattern, result.output), result.output
    assert_names(result.output, case)


def test_asynchronous_copy_out_of_bounds(run: Runner) -> None:
    result = run("address", "copy_out_of_bounds")
    assert result.code == REPORTED, result
    assert "the source is out of bounds" in result.output
    assert_names(result.output, "copy_out_of_bounds", "copy")


# Found by the sanitizers, whose reports the emulation completes with kernel, block and thread.
SANITIZER_REPORTS = {
    "out_of_bounds_global": "AddressSanitizer: heap-buffer-overflow",
    "stack_overflow": "AddressSanitizer: stack-overflow",
    "out_of_bounds_index": "runtime error: index 256 out of bounds",
    "misaligned_vector": "runtime error: .* misaligned address .* requires 16 byte alignment",
}


@pytest.mark.parametrize("case", SANITIZER_REPORTS)
def test_sanitizer_reports_name_the_thread(run: Runner, case: str) -> None:
    result = run("address", case)
    assert result.code not in (RIGHT, REPORTED, WRONG), result
    assert re.search(SANITIZER_REPORTS[case], result.output), result.output
    assert_names(result.output, case)


def test_stack_overflow_hits_the_guard_page(run: Runner) -> None:
    assert run("plain", "stack_overflow").code == -signal.SIGSEGV
    assert run("plain", "stack_overflow", STACK=str(8 << 20)).code == RIGHT


def test_watchdog_names_a_spinning_thread(run: Runner) -> None:
    result = run("plain", "endless_spin", WATCHDOG="1")
    assert result.code == -signal.SIGABRT, result
    assert "kernel endless_spin block (0,0,0) thread (0,0,0)" in result.output
    assert "neither waited nor returned for 1 seconds" in result.output
    # The other order lets the writer run first.
    assert run("plain", "endless_spin", WATCHDOG="5", SCHEDULE="reverse").code == RIGHT


def test_one_worker_and_many_give_the_same(run: Runner) -> None:
    for workers in ("1", "3"):
        assert run("plain", "last_block_sum", WORKERS=workers, SCHEDULE="random:3").code == RIGHT


def test_relaxed_mode_lets_hardware_behaviour_pass(run: Runner) -> None:
    assert run("plain", "exit_before_barrier", STRICT="0").code == RIGHT
    assert run("plain", "divergent_barrier", STRICT="0").code == RIGHT
    assert run("plain", "lane_not_in_mask", STRICT="0").code == REPORTED


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"SCHEDULE": "backwards"},
            "FACEKERNELS_EMU_SCHEDULE must be forward, reverse or random:SEED, got 'backwards'",
        ),
        ({"ASYNC": "late"}, "FACEKERNELS_EMU_ASYNC must be lazy, eager or random, got 'late'"),
        ({"WORKERS": "-1"}, "FACEKERNELS_EMU_WORKERS must be a non-negative integer, got '-1'"),
        ({"STACK": "64k"}, "FACEKERNELS_EMU_STACK must be a non-negative integer, got '64k'"),
    ],
)
def test_bad_settings(run: Runner, settings: dict[str, str], message: str) -> None:
    result = run("plain", "block_sum", **settings)
    assert result.code == REPORTED
    assert message in result.output
