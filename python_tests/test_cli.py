"""The `facekernels` command and the environment report, also with a broken installation."""

import json
import subprocess
import sys
import textwrap

import pytest

import facekernels
from facekernels import _native, _support, collect_env, ops
from facekernels.cli import bench, main


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )


BLOCKED = """
    import runpy, sys

    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name in {names}:
                raise ImportError(f"{{name}}: undefined symbol: planted")

    sys.meta_path.insert(0, Broken())
    sys.argv = ["collect_env", *{arguments}]
    runpy.run_module("facekernels.collect_env", run_name="__main__")
"""


def test_no_arguments_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("info", "demo", "bench"))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"facekernels {facekernels.__version__}\n"


@pytest.mark.parametrize(
    "argv", [["nonsense"], ["info", "--nonsense"], ["bench", "--threads", "0"]], ids=str
)
def test_wrong_use_exits_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(argv)
    assert "usage: facekernels" in capsys.readouterr().err


def test_info_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    info = _native.require(_native.C, "_C").build_info()
    assert f"variant {info['cpu_variant']}" in out
    assert info["compiler"] in out
    for name in ops.__all__:
        if isinstance(getattr(ops, name), type):
            continue  # what an op returns
        assert any(line.startswith(name + " ") for line in out.splitlines()), name


def test_info_json() -> None:
    # In a process of its own: other tests load scikit-learn, which brings a second libgomp.
    run = subprocess.run(
        [sys.executable, "-m", "facekernels", "info", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    data = json.loads(run.stdout)
    assert data["extension"]["loaded"] is True
    assert [int(a) for a in data["extension"]["cuda_archs"]] == _native.built_archs()
    assert data["ops"]["mlca_gate"]["CPU"] == "yes"
    assert len(data["openmp"]) == 1, "two OpenMP pools in one process"


def test_every_public_op_is_listed() -> None:
    functions = [name for name in ops.__all__ if not isinstance(getattr(ops, name), type)]
    assert sorted(_support.OPS) == sorted(functions)


@pytest.mark.parametrize("name", sorted(_support.OPS))
def test_listed_kernels_exist(name: str) -> None:
    missing = [k for k in _support.OPS[name].kernels if not hasattr(_native.C, k)]
    assert missing == []


def test_report_with_a_broken_extension() -> None:
    names = {"facekernels._C", "facekernels._emulated"}
    result = run_python(BLOCKED.format(names=names, arguments=[]))
    assert result.returncode == 0, result.stderr
    assert "facekernels._C does not load: ImportError: facekernels._C: undefined" in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.startswith("mlca_gate"))
    assert row.split()[1:3] == ["no", "[1]"]
    assert "[1] the module does not load: ImportError: facekernels._C" in result.stdout


def test_report_without_torch() -> None:
    result = run_python(BLOCKED.format(names={"torch"}, arguments=["--json"]))
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert "torch: undefined symbol: planted" in data["packages"]["torch"]
    assert data["packages"]["numpy"][0].isdigit()


def test_two_openmp_libraries_are_reported() -> None:
    text = collect_env._openmp_text(["/a/libgomp.so.1", "/b/libgomp-1f2e.so.1"])
    assert "WARNING: two thread pools" in text
    assert "WARNING" not in collect_env._openmp_text(["/a/libgomp.so.1"])


def test_missing_extra_names_the_module() -> None:
    result = run_python("""
        import sys

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name == "facekernels.cli.demo":
                    raise ModuleNotFoundError("No module named 'skimage'", name="skimage")

        sys.meta_path.insert(0, Missing())
        from facekernels.cli import main
        sys.exit(main(["demo"]))
    """)
    assert result.returncode == 2
    assert "needs the Python module skimage" in result.stderr
    assert "pip install 'facekernels[demo]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_bench_without_a_checkout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "find_checkout", lambda: None)
    assert main(["bench"]) == 2
    assert "runs from a source checkout" in capsys.readouterr().err


def test_import_is_cheap() -> None:
    result = run_python("import facekernels, sys; print('torch' in sys.modules)")
    assert result.stdout == "False\n"
