"""How many warps of a kernel fit on a multiprocessor, from the limits in the CUDA programming guide
(table "Technical specifications per compute capability").
"""

from __future__ import annotations

from dataclasses import dataclass

_REGISTERS = 64 * 1024
_REGISTERS_PER_ALLOCATION = 256  # of a warp
_WARPS_PER_ALLOCATION = 4


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one compute capability."""

    warps: int
    blocks: int
    shared: int
    """Bytes, all blocks together."""
    reserved: int
    """Bytes that the system takes of every block."""
    shared_unit: int


MULTIPROCESSORS = {
    75: Multiprocessor(32, 16, 64 * 1024, 0, 256),
    80: Multiprocessor(64, 32, 164 * 1024, 1024, 128),
    86: Multiprocessor(48, 16, 100 * 1024, 1024, 128),
    89: Multiprocessor(48, 24, 100 * 1024, 1024, 128),
    90: Multiprocessor(64, 32, 228 * 1024, 1024, 128),
    100: Multiprocessor(64, 32, 228 * 1024, 1024, 128),
    120: Multiprocessor(48, 24, 100 * 1024, 1024, 128),
}


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def blocks_per_multiprocessor(arch: int, threads: int, registers: int, shared: int) -> int:
    """Resident blocks; 0 where not even one fits. `shared` without the reserved bytes."""
    m = MULTIPROCESSORS[arch]
    warps = -(-threads // 32)
    of_warp = _up(32 * registers, _REGISTERS_PER_ALLOCATION)
    by_registers = _REGISTERS // of_warp // _WARPS_PER_ALLOCATION * _WARPS_PER_ALLOCATION // warps
    of_block = _up(shared + m.reserved, m.shared_unit)
    by_shared = m.shared // of_block if of_block else m.blocks
    return min(m.blocks, m.warps // warps, by_registers, by_shared)


def occupancy(arch: int, threads: int, registers: int, shared: int) -> float:
    """Resident warps over the most that the multiprocessor holds."""
    blocks = blocks_per_multiprocessor(arch, threads, registers, shared)
    return blocks * -(-threads // 32) / MULTIPROCESSORS[arch].warps
