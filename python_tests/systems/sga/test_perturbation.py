from __future__ import annotations

from pathlib import Path

import pytest
import torch

from facekernels.systems.sga import UniversalPerturbation

EPSILON = 10 / 255


def example() -> UniversalPerturbation:
    delta = EPSILON * (2 * torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)) - 1)
    return UniversalPerturbation(delta, EPSILON, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4], {"k": 4})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_call_adds_and_clamps(dtype: torch.dtype) -> None:
    levels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 4, 5)
    images = levels if dtype is torch.uint8 else levels / 255
    uap = example()
    assert torch.equal(uap(images), (levels / 255 + uap.delta).clamp(0, 1))
    assert float(uap(images).min()) == 0
    assert float(uap(images).max()) == 1


def test_file_gives_everything_back(tmp_path: Path) -> None:
    uap, path = example(), tmp_path / "deep" / "uap.safetensors"
    uap.save(path)
    found = UniversalPerturbation.load(path)
    assert torch.equal(found.delta, uap.delta)
    assert found.epsilon == EPSILON
    assert found.metadata == {"k": 4}
    assert found.mean is not None
    assert found.std is not None
    assert found.mean.tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert found.std.tolist() == pytest.approx([0.2, 0.3, 0.4])
    assert [p.name for p in path.parent.iterdir()] == ["uap.safetensors"]


def test_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    uap, path = example(), tmp_path / "uap.safetensors"
    uap.save(path)

    def fails(tensors: object, file: Path, header: object) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        uap.save(path)
    assert torch.equal(UniversalPerturbation.load(path).delta, uap.delta)
    assert [p.name for p in tmp_path.iterdir()] == ["uap.safetensors"]


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match=r"x.safetensors"):
        UniversalPerturbation.load(path)
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match="not a safetensors file"):
        UniversalPerturbation.load(path)
    save_file({"delta": torch.zeros(1, 2, 2)}, path)
    with pytest.raises(ValueError, match="got format None"):
        UniversalPerturbation.load(path)


def test_picture_is_centred_and_scaled() -> None:
    delta = EPSILON * torch.tensor([[[-1.0, 0.0, 1.0]]])
    picture = UniversalPerturbation(delta, EPSILON).picture()
    assert picture.dtype is torch.uint8
    assert picture.tolist() == [[[1], [128], [255]]]


@pytest.mark.parametrize(
    ("delta", "epsilon", "options", "message"),
    [
        (torch.zeros(2, 2), 0.1, {}, r"delta must be \[C, H, W\] floats, got shape \(2, 2\)"),
        (torch.zeros(1, 2, 2), 0.0, {}, "epsilon must be above 0, got 0.0"),
        (torch.full((1, 2, 2), 0.2), 0.1, {}, "within epsilon = 0.1"),
        (torch.full((1, 2, 2), torch.nan), 0.1, {}, "its largest is nan"),
        (torch.zeros(3, 2, 2), 0.1, {"mean": [0.5]}, r"mean must be \[3\], got shape \(1,\)"),
        (torch.zeros(1, 2, 2), 0.1, {"std": [0.0]}, "std must be above 0"),
    ],
)
def test_bad_arguments(
    delta: torch.Tensor, epsilon: float, options: dict[str, list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        UniversalPerturbation(delta, epsilon, **options)
