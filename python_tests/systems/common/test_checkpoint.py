"""Checkpoints survive a full disk, are never unpickled, and say whose they are."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from facekernels.systems.common.checkpoint import (
    build_network,
    check_checkpoint,
    model_of_checkpoint,
    read_checkpoint,
)
from facekernels.systems.common.checkpoint_io import SafeCheckpointIO

_ENTRY = {"system": "swinface", "format": 1, "version": "0.1.0", "settings": {"width": 2}}
_KEYS: dict[str, Any] = {
    "facekernels": _ENTRY, "state_dict": {}, "global_step": 1, "loops": {},
    "pytorch-lightning_version": "2.5.0",
}  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint({"a": torch.arange(3), "b": {"c": 1.5}} | _KEYS, path)
    loaded = SafeCheckpointIO().load_checkpoint(path)
    assert loaded["a"].tolist() == [0, 1, 2]
    assert loaded["b"] == {"c": 1.5}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """The limit on file sizes stands for the disk: a write beyond it fails half way."""
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint({"a": torch.tensor(7)}, path)
    code = (
        "import resource, signal, sys, torch\n"
        "from facekernels.systems.common.checkpoint_io import SafeCheckpointIO\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: SafeCheckpointIO().save_checkpoint({'a': torch.ones(10**6)}, sys.argv[1])\n"
        "except OSError as error: print(error)\n"
    )
    out = subprocess.check_output([sys.executable, "-c", code, str(path)], text=True)
    assert out.startswith(f"{path} cannot be written (is the disk full?): ")
    assert len(out.splitlines()) == 1
    assert read_checkpoint(path)["a"] == 7
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_objects_are_refused_not_executed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, write in (
        ("zip.ckpt", lambda p: torch.save({"a": _Runs()}, p)),
        ("pickle.ckpt", lambda p: p.write_bytes(pickle.dumps({"a": _Runs()}, protocol=2))),
    ):
        write(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} is not a checkpoint of tensors"):
            read_checkpoint(tmp_path / name)
    assert capsys.readouterr().out == ""


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    torch.save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cut\.ckpt is not a checkpoint"):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        read_checkpoint(tmp_path / "none.ckpt")
    torch.save(torch.ones(2), path)
    with pytest.raises(ValueError, match="must hold a dictionary, got Tensor"):
        read_checkpoint(path)
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"cut\.ckpt is not a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("key", _KEYS)
def test_a_file_of_no_training_is_named(tmp_path: Path, key: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save({k: v for k, v in _KEYS.items() if k != key}, path)
    with pytest.raises(ValueError, match=rf"weights\.pt is not .* of a training: it has no {key}"):
        SafeCheckpointIO().load_checkpoint(path)


def test_a_checkpoint_says_whose_it_is() -> None:
    state = {"network.w": torch.ones(1), "other": torch.ones(1)}
    settings, found = model_of_checkpoint(
        {"facekernels": _ENTRY, "state_dict": state}, "swinface", 1
    )
    assert settings == {"width": 2}
    assert list(found) == ["w"]
    for checkpoint, version, message in (
        ({"facekernels": _ENTRY | {"system": "sga"}}, 1, "one of swinface, got one of sga"),
        ({"facekernels": _ENTRY}, 2, "must have format 2, got format 1 written by facekernels"),
        ({"state_dict": {}}, 1, "does not name its system"),
    ):
        with pytest.raises(ValueError, match=message):
            check_checkpoint(checkpoint, "swinface", version)


class _Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)


def _damaged(**changes: Any) -> dict[str, Any]:
    state = {"network.layer.weight": torch.ones(1, 2), "network.layer.bias": torch.ones(1)}
    return {"facekernels": _ENTRY, "state_dict": state} | changes


def test_a_network_is_built_from_its_settings() -> None:
    network = build_network(_Network, _damaged(), "a.ckpt", "swinface", 1)
    assert network.layer.weight.tolist() == [[1, 1]]
    assert not network.training


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state_dict": {}}, r"Error\(s\) in loading state_dict for _Network: Missing key"),
        ({"state_dict": 1}, "has no attribute"),
        ({"state_dict": {"network.layer.weight": 1, "network.layer.bias": 2}}, "layer.weight"),
        ({"facekernels": _ENTRY | {"settings": {"depth": 2}}}, "unexpected keyword argument"),
        ({"facekernels": _ENTRY | {"settings": None}}, "must be a mapping"),
        ({"facekernels": {"system": "swinface", "format": 1}}, "it has no 'settings'"),
        ({"facekernels": _ENTRY | {"system": "sga"}}, "one of swinface, got one of sga"),
    ],
)
def test_what_does_not_fit_is_one_line(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.ckpt cannot be used: .*{reason}") as caught:
        build_network(_Network, _damaged(**changes), "a.ckpt", "swinface", 1)
    assert "\n" not in str(caught.value)
