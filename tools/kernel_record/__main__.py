"""Check a build against the record of its kernels, or write the record anew.

python -m tools.kernel_record check [FILE ...]       objects or modules; the installed module
python -m tools.kernel_record update [FAMILY ...]    compile for every architecture, and read
python -m tools.kernel_record count [TEXT]           launches of the cases whose name has TEXT,
                                                     after tools/count_accesses.sh
python -m tools.kernel_record page                   docs/kernels.md from what is recorded
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.kernel_record import binary, page, record
from tools.kernel_record.binary import Kernel

ARCHS = re.search(  # type: ignore[index]
    r"FK_RELEASE_ARCHS ([\d ]+)", (record.ROOT / "cmake" / "cuda.cmake").read_text()
)[1].split()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="kernel_record", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="fail where a kernel is worse than its record")
    check.add_argument("files", nargs="*", type=Path, help="default: the installed module")
    update = commands.add_parser("update", help="read the kernels of all architectures again")
    update.add_argument("families", nargs="*", help="folders of csrc; default: all")
    update.add_argument("--objects", type=Path, help="folder of objects compiled before")
    count = commands.add_parser("count", help="run benchmark cases and count their accesses again")
    count.add_argument("text", nargs="?", default="", help="part of the cases' names; default: all")
    commands.add_parser("page", help="write the page")
    arguments = parser.parse_args()
    if arguments.command == "check":
        return _check(arguments.files or [_installed_module()])
    if arguments.command == "update":
        _update(arguments.families, arguments.objects)
    elif arguments.command == "count":
        from tools.kernel_record import counts

        record.save(record.LAUNCHES, counts.run_cases(arguments.text, record.load_launches()))
    page.write()
    print(f"wrote {record.PAGE}")
    return 0


def _check(files: list[Path]) -> int:
    recorded = record.load_kernels()
    now: dict[str, Kernel] = {}
    for path in files:
        now |= binary.read(path)
    if not now:
        print(f"no kernels in {', '.join(map(str, files))}", file=sys.stderr)
        return 2
    problems = record.worse(recorded, now, with_sass=True) + record.slower(recorded, now)
    print("\n".join(problems) or f"{len(now)} kernels, none worse than recorded")
    return 1 if problems else 0


def _update(families: list[str], objects: Path | None) -> None:
    kernels: dict[str, Kernel] = {}
    if families:  # the others as they are
        kernels = {
            name: kernel
            for name, kernel in record.load_kernels().items()
            if name.split("::")[0] not in families
        }
    with tempfile.TemporaryDirectory() as folder:
        sources = [
            path
            for path in sorted((record.ROOT / "csrc").glob("*/*_cuda.cu"))
            if not families or path.parent.name in families
        ]
        for source in sources:
            path = (objects or Path(folder)) / f"{source.stem}.o"
            if objects is None:
                _compile(source, path)
            kernels |= binary.read(path)
    record.save(record.KERNELS, {name: record.entry(k) for name, k in kernels.items()})
    print(f"{len(kernels)} kernels")


def _compile(source: Path, target: Path) -> None:
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        raise FileNotFoundError("nvcc was not found")
    print(f"nvcc {source.name}", flush=True)
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHS]
    options = ["-std=c++20", "-O3", f"-I{record.ROOT / 'csrc'}", "--threads=2", *targets]
    subprocess.run([nvcc, *options, "-c", str(source), "-o", str(target)], check=True)


def _installed_module() -> Path:
    from facekernels import _native

    return Path(_native.require(_native.C, "_C").__file__ or "")


if __name__ == "__main__":
    sys.exit(main())
