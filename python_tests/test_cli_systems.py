"""`facekernels fit|validate|test|predict` of the trained systems."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekernels.cli import main
from facekernels.cli.systems import SYSTEMS, configuration

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

QUICK = [
    "--data.largest", "6", "--data.test_per_class", "2", "--data.image_size", "32",
    "--model.image_size", "32",
    "--data.batch_size", "8", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2",
    "--trainer.callbacks", "[{class_path: ModelCheckpoint, init_args: {save_last: true}}]",
    "--trainer.enable_progress_bar", "false",
]  # fmt: skip


def test_fit_test_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "balanced_fer", "--config", "small", *QUICK]) == 0
    (checkpoint,) = tmp_path.glob("runs/**/last.ckpt")
    metrics = next(tmp_path.glob("runs/**/metrics.csv")).read_text()
    assert "val/mean_accuracy" in metrics
    assert next(tmp_path.glob("runs/**/config.yaml")).is_file()
    assert main(["test", "balanced_fer", "--config", "small", *QUICK,
                 "--ckpt_path", str(checkpoint)]) == 0  # fmt: skip
    assert next(tmp_path.glob("runs/**/confusion.png")).is_file()

    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("face.png")
    Path("broken.png").write_bytes(b"no image")
    capsys.readouterr()
    code = main(["predict", "balanced_fer", "face.png", "broken.png", "--checkpoint",
                 str(checkpoint), "--output", "drawn"])  # fmt: skip
    out, err = capsys.readouterr()
    assert code == 1
    assert out.startswith("face.png: ")
    assert out.count("%") == 7
    assert "broken.png: cannot be read as an image" in err
    assert Image.open("drawn/face.png").width > 320
    assert main(["predict", "balanced_fer", "face.png", "--checkpoint", "none.ckpt"]) == 1
    assert "checkpoint not found: none.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_configuration_can_be_printed(
    system: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(p.stem for p in configuration(system, "small").parent.glob("*.yaml"))
    assert {"paper", "small"} <= set(names)
    for name in names:
        root = ["--data.root", "somewhere"] if system == "balanced_fer" else []
        with pytest.raises(SystemExit) as stop:
            main(["fit", system, "--config", name, *root, "--print_config"])
        assert stop.value.code == 0
        printed = capsys.readouterr().out
        assert "optimization:" in printed
        assert "max_steps:" in printed


def test_a_typo_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, key in (
        (["--model.epsilom", "0.2"], "epsilom"),
        (["--config", str(tmp_path / "typo.yaml")], "consistenzy"),
    ):
        (tmp_path / "typo.yaml").write_text("model: {consistenzy: 1.0}\n")
        with pytest.raises(SystemExit) as stop:
            main(["fit", "balanced_fer", "--config", "small", *arguments])
        assert stop.value.code == 2
        assert key in capsys.readouterr().err


def test_wrong_names_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "swinfaze"]) == 2
    assert "SYSTEM must be one of balanced_fer, swinface: got 'swinfaze'" in capsys.readouterr().err
    assert main(["fit"]) == 2
    with pytest.raises(ValueError, match=r"balanced_fer has the configurations .*, got 'big'"):
        configuration("balanced_fer", "big")


def test_two_processes_from_the_command_line(tmp_path: Path) -> None:
    """DDP with gloo: the command runs itself again for the second process, and writes one log."""
    command = [
        sys.executable, "-m", "facekernels", "fit", "balanced_fer", "--config", "small", *QUICK,
        "--model.backbone", "swin_t", "--model.backbone_options",
        "{window_size: 4, embed_dim: 12, depths: [1, 1], num_heads: [2, 2], "
        "drop_path_rate: 0.0}",
        "--trainer.log_every_n_steps", "1",
    ]  # fmt: skip
    curves = []
    for name, more in (
        ("one", ["--trainer.devices", "1"]),
        ("two", ["--trainer.devices", "2", "--trainer.strategy", "ddp"]),
    ):
        (tmp_path / name).mkdir()
        out = subprocess.run(
            [*command, *more], cwd=tmp_path / name, capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert out.returncode == 0, out.stderr[-2000:]
        (log,) = (tmp_path / name).glob("runs/**/metrics.csv")
        rows = list(csv.DictReader(log.open()))
        curves.append([float(r["train/total"]) for r in rows if r.get("train/total")])
    assert len(curves[0]) == 2
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
