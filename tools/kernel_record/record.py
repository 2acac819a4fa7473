"""The stored record, and what counts as worse than it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.kernel_record import model
from tools.kernel_record.binary import Kernel, Sass
from tools.kernel_record.occupancy import occupancy

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "docs" / "results" / "kernels" / "kernels.json"
LAUNCHES = ROOT / "docs" / "results" / "kernels" / "launches.json"
PAGE = ROOT / "docs" / "kernels.md"

# How much of a predicted share may be lost before the check fails.
SHARE_TOLERANCE = 0.02
# A case counts as larger than the cache from four times its size on.
BEYOND_CACHE = 4 * model.H200.l2_size


def entry(kernel: Kernel) -> dict[str, Any]:
    """A kernel as JSON."""
    return {
        "threads": kernel.threads,
        "registers": {str(a): r for a, r in sorted(kernel.registers.items())},
        "occupancy": {
            str(a): round(occupancy(a, kernel.threads, r, kernel.shared), 4)
            for a, r in sorted(kernel.registers.items())
        },
        "shared": kernel.shared,
        "local": kernel.local,
        "sass": asdict(kernel.sass),
    }


def kernel_of(name: str, stored: dict[str, Any]) -> Kernel:
    """The kernel that `entry` was made of."""
    return Kernel(
        name,
        stored["threads"],
        {int(a): r for a, r in stored["registers"].items()},
        stored["shared"],
        stored["local"],
        Sass(**stored["sass"]),
    )


def load_kernels() -> dict[str, Kernel]:
    """The recorded kernels by name."""
    return {n: kernel_of(n, k) for n, k in json.loads(KERNELS.read_text()).items()}


def load_launches() -> list[dict[str, Any]]:
    """The recorded launches by case."""
    if not LAUNCHES.is_file():
        return []
    launches: list[dict[str, Any]] = json.loads(LAUNCHES.read_text())
    return launches


def save(path: Path, items: dict[str, Any] | list[Any]) -> None:
    """JSON with a line per item, so that a change shows as the lines it is."""
    if isinstance(items, dict):
        lines = [f"{json.dumps(n)}: {json.dumps(k)}" for n, k in sorted(items.items())]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
    else:
        text = "[\n" + ",\n".join(map(json.dumps, items)) + "\n]\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def scale_beyond_cache(case: dict[str, Any]) -> int:
    """How many times the batch makes a case's data larger than the cache.

    1 where the benchmark names no bytes, or the work grows faster than the data.
    """
    if not case["bytes"] or case["case"].startswith("knn_graph"):
        return 1
    return max(1, -(-BEYOND_CACHE // case["bytes"]))


def worse(recorded: dict[str, Kernel], now: dict[str, Kernel], with_sass: bool) -> list[str]:
    """What the kernels of a build do worse than the record says, as sentences."""
    found = []
    for name, kernel in sorted(now.items()):
        if name not in recorded:
            found.append(f"{name}: not in the record")
            continue
        before, after = entry(recorded[name]), entry(kernel)
        for arch, registers in after["registers"].items():
            if registers > before["registers"][arch]:
                found.append(
                    f"{name}: {registers} registers on sm_{arch}, were {before['registers'][arch]}"
                )
            if after["occupancy"][arch] < before["occupancy"][arch]:
                found.append(
                    f"{name}: occupancy {after['occupancy'][arch]} on sm_{arch}, "
                    f"was {before['occupancy'][arch]}"
                )
        for key in ("shared", "local"):
            if after[key] > before[key]:
                found.append(f"{name}: {after[key]} bytes of {key} memory, were {before[key]}")
        if not with_sass:
            continue
        for key in ("load16", "store16", "shared16", "copy16", "loads_in_flight"):
            if after["sass"][key] < before["sass"][key]:
                found.append(f"{name}: {key} is {after['sass'][key]}, was {before['sass'][key]}")
        if after["sass"]["spills"]:
            found.append(f"{name}: spills registers")
    return found


def slower(recorded: dict[str, Kernel], now: dict[str, Kernel]) -> list[str]:
    """Cases whose predicted share falls with the machine code of `now`."""
    found = []
    for case in load_launches():
        for scale in {1, scale_beyond_cache(case)}:
            before = model.predict(case, recorded, scale)["share"]
            after = model.predict(case, recorded | now, scale)["share"]
            if after < before - SHARE_TOLERANCE:
                found.append(f"{case['case']}: predicted share {after:.2f}, was {before:.2f}")
    return found
