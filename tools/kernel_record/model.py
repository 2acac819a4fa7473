"""The least time that a launch can take on an H200, from its counts and its machine code.

Every term is a lower bound for what the launch does; the largest one is the prediction. A kernel
that this model calls slow is slow. One that it calls fast may still be slow: docs/kernels.md says
what is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tools.kernel_record.binary import Kernel
from tools.kernel_record.occupancy import blocks_per_multiprocessor

SECTOR = 32


@dataclass(frozen=True)
class Machine:
    """An H200. Bandwidths in B/s, times in s."""

    arch: int = 90
    multiprocessors: int = 132
    clock: float = 1.755e9
    memory: float = 4.3e12  # of a copy, reads and writes together
    l2: float = 5.5e12
    l2_size: int = 60_000_000
    flops: float = 67e12
    tensor_flops: float = 790e12  # bfloat16
    launch: float = 3e-6
    memory_latency: float = 600e-9  # under load
    l2_latency: float = 200e-9
    l1_latency: float = 25e-9
    barrier: float = 20e-9
    # of one multiprocessor and clock
    l1_bytes: int = 128
    issues: int = 4


H200 = Machine()


def floor(size: int, flops: int, tensor: bool = False, machine: Machine = H200) -> float:
    """The time no implementation beats: one launch and the larger of traffic and arithmetic."""
    peak = machine.tensor_flops if tensor else machine.flops
    return machine.launch + max(size / machine.memory, flops / peak)


def terms(
    launch: dict[str, Any], kernel: Kernel, scale: int = 1, machine: Machine = H200
) -> dict[str, float]:
    """Lower bounds of a launch by name, without the launch itself.

    `scale`: as many times the blocks, with the counts of each unchanged.
    """
    load, store, shared = (dict(launch[k]) for k in ("load", "store", "shared"))
    _split(load, kernel.sass.load16 + kernel.sass.copy16)
    _split(store, kernel.sass.store16)
    blocks = scale * launch["grid"][0] * launch["grid"][1] * launch["grid"][2]
    used = kernel.shared + launch["dynamic_shared"]
    resident = machine.multiprocessors * blocks_per_multiprocessor(
        machine.arch, threads_of(launch), kernel.registers[machine.arch], used
    )
    busy = min(blocks, machine.multiprocessors)  # multiprocessors with work
    per_second = busy * machine.clock

    unique = load["unique_sectors"] + store["unique_sectors"]
    through_l2 = load["block_sectors"] + store["sectors"]
    through_l1 = SECTOR * (load["sectors"] + store["sectors"]) + 128 * shared["passes"]
    accesses = load["instructions"] + store["instructions"] + shared["instructions"]
    issued = _issued(launch, kernel, accesses)

    # Mean wait of a load: in L1, in L2, in memory, by where its sectors come from.
    sectors = max(1, load["sectors"])
    from_memory = load["unique_sectors"] / sectors
    from_l2 = load["block_sectors"] / sectors - from_memory
    wait = (
        from_memory * machine.memory_latency
        + from_l2 * machine.l2_latency
        + max(0.0, 1 - from_memory - from_l2) * machine.l1_latency
    )

    def chain(of: str) -> float:
        loads = launch["thread_loads"][of] / kernel.sass.loads_in_flight
        return loads * wait + launch["barriers"][of] * machine.barrier

    return {
        "memory": scale * unique * SECTOR / machine.memory,
        "L2": scale * through_l2 * SECTOR / machine.l2,
        "L1": scale * through_l1 / (per_second * machine.l1_bytes),
        "issue": scale * issued / (per_second * machine.issues),
        "tensor": scale
        * issued
        * kernel.sass.mma_flops
        / max(1, kernel.sass.instructions)
        / (machine.tensor_flops * busy / machine.multiprocessors),
        "latency": max(chain("most"), scale * chain("sum") / resident),
    }


def _issued(launch: dict[str, Any], kernel: Kernel, accesses: int) -> float:
    """Instructions of all warps: the shortest way through the kernel, and the loops' mix for the
    accesses beyond it.
    """
    sass = kernel.sass
    warps = launch["grid"][0] * launch["grid"][1] * launch["grid"][2] * -(-threads_of(launch) // 32)
    looped = max(0, accesses - warps * sass.path_memory)
    per_access = sass.loop_instructions / sass.loop_memory if sass.loop_memory else 0
    return warps * sass.path_instructions + looped * per_access


def threads_of(launch: dict[str, Any]) -> int:
    x, y, z = launch["block"]
    return int(x * y * z)


def _split(counts: dict[str, int], wide: int) -> None:
    """Accesses written as 16 bytes that ptxas has split: four instructions touch what one would."""
    if wide or counts["bytes"] < 8.0 * 32 * counts["instructions"]:
        return
    for name in ("instructions", "sectors"):
        counts[name] *= 4


def operations(launch: dict[str, Any], kernel: Kernel) -> int:
    """Operations, from the accesses and the mix of the machine code."""
    accesses = sum(launch[k]["instructions"] for k in ("load", "store", "shared"))
    of_warp = 32 * kernel.sass.flops + kernel.sass.mma_flops
    return round(accesses * of_warp / max(1, kernel.sass.memory))


def predict(
    case: dict[str, Any], kernels: dict[str, Kernel], scale: int = 1, machine: Machine = H200
) -> dict[str, Any]:
    """Floor, predicted time and share of a case with `scale` times its batch."""
    of_launches = []
    for launch in case["launches"]:
        bounds = terms(launch, kernels[launch["kernel"]], scale, machine)
        bound = max(bounds, key=bounds.__getitem__)
        of_launches.append({"kernel": launch["kernel"], "bound": bound, "seconds": bounds[bound]})
    of_torch = sum(
        max(scale * op["bytes"] / machine.memory, scale * op["flops"] / machine.flops)
        for op in case["torch"]
    )
    count = len(case["launches"]) + len(case["torch"])
    total = sum(x["seconds"] for x in of_launches) + of_torch + count * machine.launch
    tensor = any(kernels[launch["kernel"]].sass.mma_flops for launch in case["launches"])
    least = floor(scale * case["bytes"], scale * case["flops"], tensor, machine)
    return {
        "floor": least,
        "predicted": total,
        "share": least / total,
        "launches": of_launches,
        "torch": of_torch,
        "torch_launches": len(case["torch"]),
    }
