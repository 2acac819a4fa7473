"""The record of the kernels: that it is read and computed rightly, and that no build is worse."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from facekernels import _native
from tools.kernel_record import binary, model, page, record
from tools.kernel_record.binary import Kernel, Sass
from tools.kernel_record.occupancy import MULTIPROCESSORS, blocks_per_multiprocessor, occupancy

needs_cuobjdump = pytest.mark.skipif(
    binary.cuobjdump() is None, reason="needs cuobjdump (nvidia-cuda-cuobjdump, or a toolkit)"
)


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "blocks"),
    [
        (90, 256, 32, 0, 8),  # all 64 warps
        (90, 256, 33, 0, 6),  # 40 registers are allocated: 51 warps, in fours 48
        (90, 1024, 64, 0, 1),
        (90, 32, 16, 0, 32),  # blocks
        (90, 256, 32, 100 * 1024, 2),  # shared memory
        (90, 256, 32, 113 * 1024, 2),  # with the reserved KiB exactly half
        (90, 256, 32, 113 * 1024 + 1, 1),
        (75, 256, 32, 0, 4),
        (75, 256, 32, 32 * 1024, 2),  # nothing is reserved
        (86, 256, 40, 0, 6),
        (120, 512, 64, 0, 2),
        (75, 256, 32, 65 * 1024, 0),
    ],
)
def test_occupancy(arch: int, threads: int, registers: int, shared: int, blocks: int) -> None:
    assert blocks_per_multiprocessor(arch, threads, registers, shared) == blocks
    warps = MULTIPROCESSORS[arch].warps
    assert occupancy(arch, threads, registers, shared) == blocks * threads / 32 / warps


_LOOP = """
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/              @P0 EXIT ;
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0030*/                   LDG.E.128.CONSTANT R8, desc[UR4][R2.64+0x10] ;
        /*0040*/                   FFMA R12, R4, R8, R12 ;
        /*0050*/                   LDG.E R16, desc[UR4][R2.64+0x20] ;
        /*0060*/                   FADD R12, R12, R16 ;
        /*0070*/              @!P1 BRA 0x20 ;
        /*0080*/               @P2 BRA 0xb0 ;
        /*0090*/                   LDS.128 R4, [R1] ;
        /*00a0*/                   FMUL R12, R12, R4 ;
        /*00b0*/                   STG.E desc[UR4][R2.64], R12 ;
        /*00c0*/                   CALL.REL.NOINC 0xf0 ;
        /*00d0*/                   EXIT ;
        /*00e0*/                   BRA 0xe0;
        /*00f0*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0100*/                   NOP ;
"""


def test_machine_code_is_read() -> None:
    sass = binary.analyse(list(binary._instructions(_LOOP)))
    assert sass == Sass(
        instructions=15,
        memory=5,
        path_instructions=6,  # S2R, EXIT that is not taken, BRA to b0, STG, CALL, EXIT
        path_memory=1,
        loop_instructions=6,  # 20 to 70; the endless jump behind the kernel is no loop
        loop_memory=3,
        flops=4,
        load16=2,
        store16=0,
        shared16=1,
        spills=0,
        loads_in_flight=2,  # the third waits for the first two
    )


@pytest.mark.parametrize(
    ("opcode", "flops"),
    [
        ("HMMA.16816.F32.BF16", 4096),
        ("HMMA.1688.F32", 2048),
        ("IMMA.16832.S8.S8", 8192),
        ("HGMMA.64x128x16.F32", 65536),
        ("FFMA", 0),
    ],
)
def test_products_of_tensor_cores(opcode: str, flops: int) -> None:
    text = f"/*0000*/ {opcode} R0, R4, R8, R0 ;\n/*0010*/ EXIT ;"
    assert binary.analyse(list(binary._instructions(text))).mma_flops == flops


def test_spills_are_seen() -> None:
    text = "/*0000*/ STL [R1], R0 ;\n/*0010*/ LDL R0, [R1] ;\n/*0020*/ EXIT ;"
    assert binary.analyse(list(binary._instructions(text))).spills == 2


def _copy(megabytes: float, waste: int = 1) -> tuple[dict, Kernel]:
    """A launch that copies, 16 bytes a thread; `waste`: sectors touched per sector used."""
    sectors = int(megabytes * 1e6 / 2 / 32)
    instructions = sectors // 16
    counts = {
        "bytes": sectors * 32,
        "instructions": instructions,
        "sectors": sectors * waste,
        "block_sectors": sectors * waste,
        "unique_sectors": sectors * waste,
    }
    blocks = instructions // 8
    launch = {
        "kernel": "copy",
        "grid": [blocks, 1, 1],
        "block": [256, 1, 1],
        "dynamic_shared": 0,
        "load": counts,
        "store": dict(counts),
        "shared": {"bytes": 0, "instructions": 0, "passes": 0},
        "thread_loads": {"most": 1, "sum": blocks},
        "barriers": {"most": 0, "sum": 0},
    }
    sass = Sass(20, 2, 20, 2, load16=1, store16=1)
    return launch, Kernel("copy", 256, {90: 16}, sass=sass)


def _share(launch: dict, kernel: Kernel, megabytes: float) -> float:
    case = {"bytes": int(megabytes * 1e6), "flops": 0, "launches": [launch], "torch": []}
    return model.predict(case, {"copy": kernel})["share"]


def test_a_good_copy_reaches_the_floor() -> None:
    launch, kernel = _copy(430)
    assert _share(launch, kernel, 430) == pytest.approx(1, abs=0.01)
    assert model.floor(430_000_000, 0) == pytest.approx(103e-6, abs=0.1e-6)
    assert model.floor(0, 67_000_000_000) == pytest.approx(1003e-6, abs=0.1e-6)
    assert model.floor(0, 790_000_000_000, tensor=True) == pytest.approx(1003e-6, abs=0.1e-6)


def test_the_model_can_call_a_kernel_bad() -> None:
    """Each way of being bad costs what it should."""
    launch, kernel = _copy(430, waste=4)
    assert _share(launch, kernel, 430) < 0.3  # uncoalesced

    launch, kernel = _copy(430)
    kernel.sass.load16 = kernel.sass.store16 = 0  # ptxas splits the accesses
    assert _share(launch, kernel, 430) < 0.6

    launch, kernel = _copy(430)
    kernel.sass.path_instructions = 1000  # arithmetic
    assert _share(launch, kernel, 430) < 0.3

    launch, kernel = _copy(430)
    launch["grid"] = [16, 1, 1]  # few blocks, each with a long chain of loads
    launch["thread_loads"] = {"most": 1000, "sum": 16_000}
    assert _share(launch, kernel, 430) < 0.3

    launch, kernel = _copy(430)
    launch["dynamic_shared"] = 200 * 1024  # one block at a time
    assert _share(launch, kernel, 430) < 0.7

    launch, kernel = _copy(430)
    launch["shared"] = {"bytes": 0, "instructions": 0, "passes": 60_000_000}  # bank conflicts
    assert _share(launch, kernel, 430) < 0.5


def test_a_larger_batch_takes_longer_in_proportion() -> None:
    launch, kernel = _copy(430)
    once, thrice = (model.terms(launch, kernel, scale) for scale in (1, 3))
    for name in once:
        assert thrice[name] == pytest.approx(3 * once[name])


def test_what_got_worse_is_told() -> None:
    recorded = {"copy": _copy(430)[1]}
    assert record.worse(recorded, copy.deepcopy(recorded), with_sass=True) == []
    now = copy.deepcopy(recorded)
    kernel = now["copy"]
    kernel.registers[90], kernel.shared, kernel.local = 64, 128, 8
    kernel.sass.load16, kernel.sass.spills = 0, 2
    assert record.worse(recorded, now, with_sass=True) == [
        "copy: 64 registers on sm_90, were 16",
        "copy: occupancy 0.5 on sm_90, was 1.0",
        "copy: 128 bytes of shared memory, were 0",
        "copy: 8 bytes of local memory, were 0",
        "copy: load16 is 0, was 1",
        "copy: spills registers",
    ]
    now["other"] = kernel
    assert "other: not in the record" in record.worse(recorded, now, with_sass=True)


def test_a_fallen_share_is_told() -> None:
    recorded = record.load_kernels()
    now = copy.deepcopy(recorded)
    assert record.slower(recorded, now) == []
    now["soft_argmax::soft_backward<float, 4>"].sass.path_instructions *= 4
    assert [line.split(",")[0] for line in record.slower(recorded, now)] == [
        "soft_argmax: 32x17x64x48"
    ] * len(record.slower(recorded, now))
    assert record.slower(recorded, now)


def test_the_record_is_complete() -> None:
    """Every __global__ function of the sources is in it, for every architecture, without spills."""
    import re

    recorded = record.load_kernels()
    names = {name.split("<")[0] for name in recorded}
    sources = (record.ROOT / "csrc").glob("*/*.cu*")
    kernel = r"__global__ void\s+__launch_bounds__\([^)]*\)(?:\s*//.*)?\s+(\w+)\("
    assert names == {
        f"{path.parent.name}::{name}"
        for path in sources
        for name in re.findall(kernel, path.read_text())
    }
    for entry in recorded.values():
        assert set(entry.registers) == set(MULTIPROCESSORS)
        assert entry.local == entry.sass.spills == 0
        assert entry.threads > 0


def test_launches_are_of_recorded_kernels() -> None:
    recorded = record.load_kernels()
    for case in record.load_launches():
        for launch in case["launches"]:
            kernel = recorded[launch["kernel"]]
            assert launch["block"][0] * launch["block"][1] * launch["block"][2] <= kernel.threads


def test_the_page_agrees_with_the_record() -> None:
    assert record.PAGE.read_text() == page.text(), "run python -m tools.kernel_record page"


@needs_cuobjdump
@pytest.mark.slow
def test_the_installed_module_is_not_worse() -> None:
    """Machine code included; CI builds sm_90."""
    if binary.SASS_ARCH not in _native.built_archs():
        pytest.skip(f"the module was not built for sm_{binary.SASS_ARCH}")
    recorded, now = record.load_kernels(), binary.read(Path(_native.C.__file__))
    assert set(now) == set(recorded)
    assert record.worse(recorded, now, with_sass=True) == []
    assert record.slower(recorded, now) == []
