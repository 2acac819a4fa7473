"""What ptxas made of each kernel, read from an object or module with NVIDIA's cuobjdump."""

from __future__ import annotations

import heapq
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools.kernel_record.occupancy import MULTIPROCESSORS

SASS_ARCH = 90


@dataclass
class Sass:
    """Counted in the machine code of `SASS_ARCH`; subroutines left out."""

    instructions: int = 0
    memory: int = 0
    """Accesses of global and shared memory, atomics included."""
    path_instructions: int = 0
    path_memory: int = 0
    """On the shortest way through the kernel that writes something, loops left out."""
    loop_instructions: int = 0
    loop_memory: int = 0
    """In loops."""
    flops: int = 0
    """float32, per thread: 2 for a fused multiply-add."""
    mma_flops: int = 0
    """Of tensor cores, per warp."""
    load16: int = 0
    store16: int = 0
    shared16: int = 0
    """16-byte accesses: LDG.E.128, STG.E.128, LDS.128 and STS.128."""
    copy16: int = 0
    """Asynchronous 16-byte copies into shared memory (LDGSTS)."""
    spills: int = 0
    """LDL and STL."""
    loads_in_flight: int = 1
    """Most global loads that a thread issues before it needs one; within loops, if it has any."""


@dataclass
class Kernel:
    """One instantiation of a kernel."""

    name: str
    threads: int = 0
    registers: dict[int, int] = field(default_factory=dict)
    shared: int = 0
    """Static bytes of a block."""
    local: int = 0
    """Bytes of a thread's stack and local memory; the largest of the architectures."""
    sass: Sass = field(default_factory=Sass)


def cuobjdump() -> str | None:
    """The tool on PATH, of the toolkit, or of the wheel nvidia-cuda-cuobjdump."""
    wheels = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin"))
    folders = [os.environ.get("PATH", ""), "/usr/local/cuda/bin", *map(str, wheels)]
    return shutil.which("cuobjdump", path=os.pathsep.join(folders))


def read(path: Path, sass: bool = True) -> dict[str, Kernel]:
    """The kernels in `path` by name, e.g. `mlca::gate<float>`."""
    kernels: dict[str, Kernel] = {}
    _read_resources(_run(path, "--dump-resource-usage"), kernels)
    _read_threads(_run(path, "-elf"), kernels)
    if sass:
        _read_sass(_run(path, "-sass", "-arch", f"sm_{SASS_ARCH}"), kernels)
    return kernels


def _run(path: Path, *options: str) -> str:
    tool = cuobjdump()
    if tool is None:
        raise FileNotFoundError("cuobjdump: install the toolkit or nvidia-cuda-cuobjdump")
    # It calls nvdisasm, which lies beside it.
    environment = os.environ | {"PATH": f"{Path(tool).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [tool, *options, str(path)], capture_output=True, text=True, check=True, env=environment
    ).stdout


def demangled(symbols: list[str]) -> dict[str, str]:
    """Names as in the sources: no return type, package, unnamed namespace or parameters."""
    output = subprocess.run(
        ["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True
    ).stdout
    return dict(zip(symbols, map(_plain, output.splitlines()), strict=True))


def _plain(name: str) -> str:
    name = name.replace("(anonymous namespace)::", "").replace("facekernels::", "")
    name = name.removeprefix("void ")
    # Enumerators are casts here: the parenthesis that opens the parameters is outside of < >.
    depth = 0
    for at, character in enumerate(name):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0:
            return name[:at]
    return name


def _read_resources(text: str, kernels: dict[str, Kernel]) -> None:
    found = re.findall(
        r"arch = sm_(\d+)|Function (\w+):\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text
    )
    names = demangled([f[1] for f in found if f[1]])
    arch = 0
    for new_arch, symbol, registers, stack, shared, local in found:
        if new_arch:
            arch = int(new_arch)
            continue
        kernel = kernels.setdefault(names[symbol], Kernel(names[symbol]))
        kernel.registers[arch] = int(registers)
        kernel.shared = max(kernel.shared, int(shared) - MULTIPROCESSORS[arch].reserved)
        kernel.local = max(kernel.local, int(stack) + int(local))


def _read_threads(text: str, kernels: dict[str, Kernel]) -> None:
    found = re.findall(
        r"\.nv\.info\.(\w+)|EIATTR_MAX_THREADS\s+Format:\s+\w+\s+Value:\s+(\w+)", text
    )
    names = demangled([f[0] for f in found if f[0]])
    name = ""
    for symbol, threads in found:
        if symbol:
            name = names[symbol]
        else:
            kernels[name].threads = int(threads, 16)


# ---- SASS


@dataclass
class _Instruction:
    address: int
    opcode: str
    operands: str
    conditional: bool

    @property
    def kind(self) -> str:
        return self.opcode.split(".")[0]


def _read_sass(text: str, kernels: dict[str, Kernel]) -> None:
    parts = re.split(r"Function : (\w+)", text)
    names = demangled(parts[1::2])
    for symbol, body in zip(parts[1::2], parts[2::2], strict=True):
        kernels[names[symbol]].sass = analyse(list(_instructions(body)))


def _instructions(text: str) -> Iterator[_Instruction]:
    pattern = r"/\*([0-9a-f]{4,5})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);"
    for address, predicate, opcode, operands in re.findall(pattern, text):
        if opcode != "NOP":
            yield _Instruction(int(address, 16), opcode, operands, predicate != "")


def _target(instruction: _Instruction) -> int | None:
    found = re.search(r"0x([0-9a-f]+)\s*$", instruction.operands.rstrip())
    return int(found[1], 16) if found else None


def analyse(code: list[_Instruction]) -> Sass:
    """Counts of one kernel. Subroutines, the slow paths of divisions, lie behind it."""
    calls = [_target(i) for i in code if i.opcode.startswith("CALL")]
    end = min((t for t in calls if t), default=1 << 32)
    result = Sass(spills=sum(i.opcode.startswith(("LDL", "STL")) for i in code))
    code = [i for i in code if i.address < end]
    loops = _loops(code)
    for i in code:
        kind, wide = i.kind, ".128" in i.opcode
        looped = _inside(loops, i)
        result.instructions += 1
        result.memory += kind in _MEMORY
        result.loop_instructions += looped
        result.loop_memory += looped and kind in _MEMORY
        result.flops += {"FFMA": 2, "FADD": 1, "FMUL": 1}.get(kind, 0)
        result.mma_flops += _mma_flops(i)
        result.load16 += kind == "LDG" and wide
        result.store16 += kind == "STG" and wide
        result.shared16 += kind in ("LDS", "STS") and wide
        result.copy16 += kind == "LDGSTS" and wide
    result.path_instructions, result.path_memory = _shortest_path(code, loops)
    result.loads_in_flight = _loads_in_flight(code, loops)
    return result


def _mma_flops(i: _Instruction) -> int:
    """HMMA.16816: 16 x 8 outputs of 16 products; HGMMA.64x128x16: of four warps together."""
    if found := re.match(r"[HI]MMA\.16(8)(\d+)\b", i.opcode):
        return 2 * 16 * int(found[1]) * int(found[2])
    if found := re.match(r"[HIQ]GMMA\.(\d+)x(\d+)x(\d+)", i.opcode):
        return 2 * int(found[1]) * int(found[2]) * int(found[3]) // 4
    return 0


_WRITES = {"STG", "ST", "ATOMG", "ATOM", "RED"}
_MEMORY = _WRITES | {"LDG", "LDS", "STS", "LDGSTS", "ATOMS", "LDSM", "LD"}


def _jumps(code: list[_Instruction]) -> list[tuple[int, int]]:
    return [(i.address, t) for i in code if i.opcode.startswith("BRA") and (t := _target(i))]


def _loops(code: list[_Instruction]) -> list[tuple[int, int]]:
    """First and last address; the endless jump behind a kernel is none."""
    return [(to, at) for at, to in _jumps(code) if to < at]


def _inside(loops: list[tuple[int, int]], instruction: _Instruction) -> bool:
    return any(first <= instruction.address <= last for first, last in loops)


def _shortest_path(code: list[_Instruction], loops: list[tuple[int, int]]) -> tuple[int, int]:
    """Instructions and memory accesses outside of loops from the first instruction over some store
    to an exit.
    """
    index = {i.address: n for n, i in enumerate(code)}
    after: list[list[int]] = []
    for n, i in enumerate(code):
        leaves = i.kind in ("BRA", "EXIT", "RET") and not i.conditional
        following = [n + 1] if not leaves and n + 1 < len(code) else []
        target = _target(i) if i.kind == "BRA" else None
        after.append(following + ([index[target]] if target in index else []))
    before: list[list[int]] = [[] for _ in code]
    for n, targets in enumerate(after):
        for to in targets:
            before[to].append(n)
    cost = [(0, 0) if _inside(loops, i) else (1, int(i.kind in _MEMORY)) for i in code]

    def distances(starts: list[int], edges: list[list[int]]) -> dict[int, tuple[int, int]]:
        found: dict[int, tuple[int, int]] = {}
        queue = [(*cost[n], n) for n in starts]
        heapq.heapify(queue)
        while queue:
            instructions, memory, n = heapq.heappop(queue)
            if n in found:
                continue
            found[n] = instructions, memory
            for to in edges[n]:
                heapq.heappush(queue, (instructions + cost[to][0], memory + cost[to][1], to))
        return found

    exits = [n for n, i in enumerate(code) if i.kind == "EXIT" and not i.conditional]
    first, last = distances([0], after), distances(exits, before)
    ways = [
        (first[n][0] + last[n][0] - cost[n][0], first[n][1] + last[n][1] - cost[n][1])
        for n, i in enumerate(code)
        if i.kind in _WRITES and n in first and n in last
    ]
    return min(ways, default=(len(code), sum(c[1] for c in cost)))


def _loads_in_flight(code: list[_Instruction], loops: list[tuple[int, int]]) -> int:
    starts = {to for _, to in _jumps(code)}
    best = {True: 0, False: 0}  # by whether the load lies in a loop
    pending: set[int] = set()
    count = 0
    for i in code:
        registers = [int(r) for r in re.findall(r"\bR(\d+)", i.operands)]
        is_load = i.opcode.startswith(("LDG", "LDGSTS"))
        read = registers[1:] if not i.opcode.startswith(("ST", "RED")) else registers
        if i.address in starts or pending & set(read):
            pending, count = set(), 0
        if is_load:
            width = 4 if ".128" in i.opcode else 2 if ".64" in i.opcode else 1
            count += 1
            if i.opcode.startswith("LDG.") and registers:
                pending |= set(range(registers[0], registers[0] + width))
            in_loop = _inside(loops, i)
            best[in_loop] = max(best[in_loop], count)
        if i.opcode.startswith(("BRA", "EXIT", "BAR")):
            pending, count = set(), 0
    return max(1, best[True] or best[False])
