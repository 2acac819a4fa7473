"""Environment report: `python -m facekernels.collect_env`, or `facekernels info`.

Standard library only, and every probe is guarded: the report is most needed where an import fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from facekernels._support import OPS, YES, Support
from facekernels._version import __version__

_CAPABILITIES = ("backward", "double_backward", "compile", "func")
_HEADERS = (
    "op",
    "CPU",
    "CUDA",
    "emulated",
    "backward",
    "double backward",
    "torch.compile",
    "torch.func",
)
_VARIABLES = ("FACEKERNELS_", "OMP_", "KMP_", "GOMP_", "CUDA_", "LD_LIBRARY_PATH", "LD_PRELOAD")


def collect() -> dict[str, Any]:
    """Everything the report shows, as plain data (what `--json` prints)."""
    torch, torch_error = _import("torch")
    numpy, numpy_error = _import("numpy")
    native, native_error = _import("facekernels._C")
    emulated, emulated_error = _import("facekernels._emulated")
    build = _guard(lambda: dict(native.build_info())) if native else {}
    build = build if isinstance(build, dict) else {"error": build}
    devices = _guard(lambda: native.cuda_devices()) if native else native_error
    modules = {
        "native": (native, native_error),
        "emulated": (emulated, emulated_error),
    }
    return {
        "facekernels": {"version": __version__, "path": str(Path(__file__).parent)},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": _guard(platform.platform),
        "cpu": _guard(cpu_model),
        "packages": {
            "torch": _version_of(torch, torch_error),
            "numpy": _version_of(numpy, numpy_error),
            "torch CUDA": _guard(lambda: torch.version.cuda or "CPU build") if torch else None,
        },
        "extension": {
            "loaded": native is not None,
            "error": native_error,
            "compiler": build.get("compiler"),
            "cpu_variant": build.get("cpu_variant"),
            "cuda_toolkit": _toolkit(build.get("cuda")),
            "cuda_archs": str(build.get("cuda_archs") or "").split(),
        },
        "emulated": {"loaded": emulated is not None, "error": emulated_error},
        "gpu": {
            "devices": [list(d) for d in devices] if isinstance(devices, list) else [],
            "reason": None if isinstance(devices, list) else devices,
            "driver": _guard(_driver),
        },
        "openmp": _guard(_openmp_libraries),
        "threads": {
            "torch": _guard(lambda: torch.get_num_threads()) if torch else None,
            "kernels": _guard(lambda: native.num_threads()) if native else None,
            "cpus": _guard(lambda: len(os.sched_getaffinity(0))),
        },
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_VARIABLES)},
        "ops": {name: _op_row(op, modules, build, devices) for name, op in OPS.items()},
    }


def report(data: Mapping[str, Any]) -> str:
    """`collect`'s result as text."""
    package, packages, extension = data["facekernels"], data["packages"], data["extension"]
    gpu, threads = data["gpu"], data["threads"]
    lines = [f"facekernels {package['version']} in {package['path']}", ""]
    archs = " ".join(f"sm_{a}" for a in extension["cuda_archs"])
    rows = [
        ("Python", f"{data['python']['version']} ({data['python']['executable']})"),
        ("platform", data["platform"]),
        ("CPU", data["cpu"]),
        ("torch", _with_note(packages["torch"], _cuda_note(packages["torch CUDA"]))),
        ("numpy", packages["numpy"]),
    ]
    if extension["loaded"]:
        cuda = (
            f"toolkit {extension['cuda_toolkit']}, {archs}" if archs else "no: built without nvcc"
        )
        rows += [
            ("compiler", extension["compiler"]),
            ("CPU kernels", f"yes, variant {extension['cpu_variant']}"),
            ("CUDA kernels", cuda),
        ]
    else:
        rows.append(("kernels", f"none: facekernels._C does not load: {extension['error']}"))
    emulated = data["emulated"]
    rows.append(("emulated", "yes" if emulated["loaded"] else f"no: {emulated['error']}"))
    devices = [f"{name} (sm_{capability})" for name, capability in gpu["devices"]]
    rows += [
        ("GPU", ", ".join(devices) or f"none: {gpu['reason'] or 'no device is visible'}"),
        ("driver", gpu["driver"]),
        ("OpenMP", _openmp_text(data["openmp"])),
        ("threads", ", ".join(f"{k} {v}" for k, v in threads.items() if v is not None)),
    ]
    rows += list(data["environment"].items())
    lines += [f"{key:<14}{value}" for key, value in rows]
    return "\n".join([*lines, "", *_op_table(data["ops"])])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; with ``--json`` as data."""
    parser = argparse.ArgumentParser(
        "facekernels info",
        description="Show versions, back ends, devices and what every op supports here.",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args(argv)
    data = collect()
    print(json.dumps(data, indent=2) if arguments.json else report(data))
    return 0


def cpu_model() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if match:
            return match.group(1).strip()
    return platform.processor() or platform.machine()


def _guard(probe: Callable[[], Any]) -> Any:
    """The probe's answer, or its error as text."""
    try:
        return probe()
    except Exception as error:
        return f"unknown ({type(error).__name__}: {error})"


def _import(name: str) -> tuple[ModuleType | None, str | None]:
    try:
        return import_module(name), None
    except Exception as error:  # a broken library raises OSError, RuntimeError, ...
        return None, f"{type(error).__name__}: {error}"


def _version_of(module: ModuleType | None, error: str | None) -> str:
    return str(getattr(module, "__version__", "unknown")) if module else f"not usable: {error}"


def _toolkit(cudart_version: Any) -> str | None:
    if not isinstance(cudart_version, int):
        return None
    return f"{cudart_version // 1000}.{cudart_version % 1000 // 10}"


def _driver() -> str:
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
        if result.returncode == 0 and result.stdout.strip():
            return result.stdout.split("\n")[0].strip()
    version = Path("/proc/driver/nvidia/version")
    return version.read_text().split("\n")[0] if version.exists() else "no NVIDIA driver"


def _openmp_libraries() -> list[str]:
    """OpenMP run times mapped into this process (after torch and the kernels were loaded)."""
    mapped = Path("/proc/self/maps").read_text().split("\n")
    paths = {line.split(maxsplit=5)[5] for line in mapped if len(line.split(maxsplit=5)) == 6}
    return sorted(p for p in paths if re.search(r"/lib(gomp|omp|iomp5)[^/]*\.so", p))


def _openmp_text(libraries: Any) -> str:
    if not isinstance(libraries, list):
        return str(libraries)
    text = ", ".join(libraries) or "none loaded"
    if len(libraries) > 1:
        text += "  WARNING: two thread pools compete; threads above 1 will be slow"
    return text


def _cuda_note(version: str | None) -> str | None:
    return version if version in (None, "CPU build") else f"CUDA {version}"


def _with_note(text: str, note: str | None) -> str:
    return f"{text} ({note})" if note else text


def _op_row(
    op: Support,
    modules: Mapping[str, tuple[ModuleType | None, str | None]],
    build: Mapping[str, Any],
    devices: Any,
) -> dict[str, str]:
    """Each capability of one op: "yes" or the reason why not."""

    def in_module(key: str) -> str:
        module, error = modules[key]
        if not op.kernels:
            return YES
        if module is None:
            return f"the module does not load: {error}"
        missing = [k for k in op.kernels if not hasattr(module, k)]
        return f"the module has no {missing[0]}; rebuild facekernels" if missing else YES

    cpu = in_module("native")
    cuda = cpu
    if op.kernels and cpu == YES:
        if not build.get("cuda_archs"):
            cuda = "built without CUDA"
        elif not isinstance(devices, list) or not devices:
            cuda = f"kernels are built, no GPU: {devices or 'no device is visible'}"
    row = {"CPU": cpu, "CUDA": cuda, "emulated": in_module("emulated") if op.kernels else "PyTorch"}
    return row | {key: getattr(op, key) for key in _CAPABILITIES}


def _op_table(ops: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Aligned rows; a reason appears once, as a numbered note under the table."""
    notes: dict[str, int] = {}

    def cell(value: str) -> str:
        return value if value == YES else f"no [{notes.setdefault(value, len(notes) + 1)}]"

    table = [_HEADERS, *((name, *map(cell, row.values())) for name, row in ops.items())]
    widths = [max(len(row[i]) for row in table) for i in range(len(_HEADERS))]
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in table]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return [line.rstrip() for line in lines] + [f"[{n}] {text}" for text, n in notes.items()]


if __name__ == "__main__":
    sys.exit(main())
