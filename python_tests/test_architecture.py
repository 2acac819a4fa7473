"""Rules that keep the tree readable: who may include and import whom, and a family's files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import facekernels
from facekernels import nn, ops, reference

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
FAMILIES = sorted(
    re.search(r"set\(FACEKERNELS_FAMILIES ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())[
        1
    ].split()  # type: ignore[index]
)


def includes(path: Path) -> list[str]:
    return re.findall(r'#include [<"]([^>"]+)[>"]', path.read_text())


def test_families_are_listed() -> None:
    folders = {p.name for p in CSRC.iterdir() if p.is_dir()}
    assert folders == {"core", "binding", "emulation", *FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_its_files(family: str) -> None:
    folder = CSRC / family
    for suffix in (".h", "_math.h", "_cpu.cpp", "_cuda.cu", "_bind.cpp"):
        assert (folder / f"{family}{suffix}").is_file(), f"{family}{suffix}"
    assert (ROOT / "facekernels" / "ops" / f"{family}.py").is_file()
    assert (ROOT / "facekernels" / "reference" / f"{family}.py").is_file()


@pytest.mark.parametrize("family", FAMILIES)
def test_families_include_core_only(family: str) -> None:
    for path in (CSRC / family).iterdir():
        for name in includes(path):
            if "/" not in name or name.startswith(("sys/", "pybind11/")):
                continue
            allowed = ["core", family] + (["binding"] if path.name.endswith("_bind.cpp") else [])
            assert name.split("/")[0] in allowed, f"{path.name} includes {name}"


def test_pybind11_stays_in_the_binding() -> None:
    for path in CSRC.rglob("*"):
        if not path.is_file() or path.parent.name == "binding" or path.name.endswith("_bind.cpp"):
            continue
        assert not any("pybind11" in i or "torch" in i for i in includes(path)), path


def test_core_includes_nothing_above_it() -> None:
    for path in (CSRC / "core").iterdir():
        for name in includes(path):
            above = name.split("/")[0] in {"binding", *FAMILIES}
            assert not above, f"{path.name} includes {name}"


LAYERS = {
    # package: what it may import from facekernels
    "reference": {"reference"},
    "ops": {"_op", "_check", "_native", "reference", "ops"},
    "nn": {"_check", "ops", "nn"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("facekernels"):
            rest = (node.module or "").split(".")[1:]
            names |= {rest[0]} if rest else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("facekernels.")}
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_imports_upwards(layer: str) -> None:
    for path in (ROOT / "facekernels" / layer).rglob("*.py"):
        assert imported(path) <= LAYERS[layer], f"{path.name}: {imported(path) - LAYERS[layer]}"


def test_kernels_use_no_bare_shared_memory_or_assembly() -> None:
    for path in CSRC.rglob("*.cu"):
        if "emulation" in path.parts:
            continue
        text = path.read_text()
        assert not re.search(r"__shared__|\basm\b|__activemask|cooperative_groups", text), path
        kernels = len(re.findall(r"__global__", text))
        assert kernels == len(re.findall(r"__global__ void\s+__launch_bounds__", text)), path


@pytest.mark.parametrize("module", [ops, nn, reference], ids=lambda m: m.__name__)
def test_public_names_are_documented(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        assert getattr(module, name).__doc__, name


def test_every_op_has_a_reference_or_is_plain_pytorch() -> None:
    from opspecs import HOST_DRIVEN, PLAIN, SPECS

    covered = {spec.name for spec in SPECS} | set(PLAIN) | set(HOST_DRIVEN)
    types = {name for name in ops.__all__ if isinstance(getattr(ops, name), type)}
    assert covered == set(ops.__all__) - types


def test_import_needs_torch_and_numpy_only() -> None:
    import subprocess
    import sys

    code = (
        "import sys, facekernels as fk; fk.ops, fk.nn, fk.reference\n"
        "print(*sorted(set(m.split('.')[0] for m in sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    optional = {"skimage", "PIL", "rich", "cv2", "kornia", "matplotlib", "pytest", "lightning"}
    assert not loaded & optional
    assert facekernels.__version__
