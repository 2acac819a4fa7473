"""What is built and shipped: the module's libraries, the stub, the source archive, the wheel."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from facekernels import _native

ROOT = Path(__file__).parents[1]
# What every manylinux system has, and libgomp, which torch has loaded before.
SYSTEM = {"libgomp.so.1", "libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6",
          "libpthread.so.0", "libdl.so.2", "librt.so.1"}  # fmt: skip


def modules() -> list[Path]:
    return [Path(m.__file__) for m in (_native.C, _native.emulated) if m is not None]


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.name)
def test_needs_neither_torch_nor_cudart(path: Path) -> None:
    listing = subprocess.run(
        ["readelf", "--dynamic", str(path)], capture_output=True, text=True, check=True
    ).stdout
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", listing))
    assert {n for n in needed if not n.startswith("ld-linux")} <= SYSTEM
    assert "libgomp.so.1" in needed


def test_imports_without_a_gpu_or_driver() -> None:
    code = "import facekernels._C as c; print(c.cuda_devices())"
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


def test_stub_lists_exactly_the_functions() -> None:
    stub = ast.parse((ROOT / "facekernels" / "_C.pyi").read_text())
    declared = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    assert declared == {n for n in dir(_native.C) if not n.startswith("_")}


def build(kind: str, folder: Path, **env: str) -> Path:
    subprocess.run(
        [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(folder)],
        cwd=ROOT, env={**os.environ, **env}, capture_output=True, check=True,
    )  # fmt: skip
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", tmp_path_factory.mktemp("sdist"))


def test_sdist_holds_every_source(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*") if p.is_file()}
    sources |= {str(p.relative_to(ROOT)) for p in (ROOT / "cmake").rglob("*") if p.is_file()}
    sources |= {"CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "facekernels/_C.pyi"}
    assert sources <= names
    assert not [n for n in names if n.endswith(".so") or n.startswith((".venv", "build/"))]


@pytest.mark.slow
def test_wheel_from_the_sdist(sdist: Path, tmp_path: Path) -> None:
    """The wheel is built from the archive alone, and holds the package and nothing else."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "src", filter="data")
    (source,) = (tmp_path / "src").iterdir()
    out = tmp_path / "wheel"
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", str(out),
         str(source)],
        env={**os.environ, "FACEKERNELS_CUDA": "OFF"}, capture_output=True, check=True,
    )  # fmt: skip
    (wheel,) = out.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert any(re.match(r"facekernels/_C\..*\.so", n) for n in names)
    assert {"facekernels/py.typed", "facekernels/_C.pyi"} <= set(names)
    outside = [n for n in names if not n.startswith(("facekernels/", "facekernels-"))]
    assert not outside
    assert not [n for n in names if re.search(r"test|bench_|\.cu$|\.cpp$|CMakeLists", n)]
    assert wheel.stat().st_size < 20e6
