"""A trained universal perturbation: apply, judge, save, look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facekernels.data.files import replacing
from facekernels.systems.sga import evaluate
from facekernels.systems.sga.evaluate import Statistics

_FORMAT = "facekernels universal perturbation 1"


class UniversalPerturbation:
    """One perturbation for all images.

    Args:
        delta: ``[C, H, W]`` float, in units of [0, 1].
        epsilon: bound of ``|delta|``, in the same units, above 0.
        mean: per channel, of the normalisation that the models expect; None for 0.
        std: per channel, above 0; None for 1.
        metadata: settings to keep with it, of types that JSON has.

    Raises:
        ValueError: another shape, epsilon <= 0, values that are not finite or pass epsilon.
    """

    def __init__(
        self,
        delta: Tensor,
        epsilon: float,
        mean: Statistics = None,
        std: Statistics = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        if delta.ndim != 3 or not delta.dtype.is_floating_point:
            raise ValueError(
                f"delta must be [C, H, W] floats, got shape {tuple(delta.shape)} of {delta.dtype}"
            )
        if not epsilon > 0:
            raise ValueError(f"epsilon must be above 0, got {epsilon}")
        largest = float(delta.detach().abs().max()) if delta.numel() else 0.0
        if not largest <= epsilon * (1 + 1e-6):  # float32 rounding of epsilon; NaN fails too
            raise ValueError(f"delta must lie within epsilon = {epsilon}, its largest is {largest}")
        self.delta = delta.detach()
        self.epsilon = float(epsilon)
        self.mean = _statistics("mean", mean, delta.shape[0])
        self.std = _statistics("std", std, delta.shape[0])
        self.metadata: dict[str, Any] = dict(metadata or {})

    def __call__(self, images: Tensor) -> Tensor:
        """``clamp(images + delta, 0, 1)``, float; images ``[..., C, H, W]`` uint8 or in [0, 1]."""
        return evaluate.perturb(images, self.delta.to(images.device))

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.delta.shape))
        return f"UniversalPerturbation({shape}, epsilon={255 * self.epsilon:.4g}/255)"

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically; the settings are JSON in its header."""
        from safetensors.torch import save_file

        tensors = {"delta": self.delta, "mean": self.mean, "std": self.std}
        kept = {k: v.contiguous().cpu() for k, v in tensors.items() if v is not None}
        header = {"format": _FORMAT, "epsilon": repr(self.epsilon),
                  "metadata": json.dumps(self.metadata, sort_keys=True)}  # fmt: skip
        with replacing(path) as temporary:
            save_file(kept, temporary, header)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> UniversalPerturbation:
        """What `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a safetensors file, or one of something else.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} is not a file")
        try:
            with safe_open(path, "pt", device=str(device)) as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
        if header.get("format") != _FORMAT or "delta" not in tensors:
            raise ValueError(f"{path} must hold a {_FORMAT!r}, got format {header.get('format')!r}")
        return cls(tensors["delta"], float(header["epsilon"]), tensors.get("mean"),
                   tensors.get("std"), json.loads(header["metadata"]))  # fmt: skip

    def picture(self) -> Tensor:
        """``[H, W, C]`` uint8: 128 is no change, 1 and 255 are -epsilon and +epsilon."""
        levels = (128 + 127 * self.delta / self.epsilon).round().clamp(0, 255)
        return levels.byte().permute(1, 2, 0).contiguous().cpu()

    def fooling_ratio(self, model: nn.Module, images: Tensor, batch_size: int = 250) -> float:
        """Share of the images whose argmax changes; see `evaluate.fooling_ratio`."""
        return evaluate.fooling_ratio(model, images, self.delta, mean=self.mean, std=self.std,
                                      batch_size=batch_size)  # fmt: skip

    def fooling_per_class(
        self, model: nn.Module, images: Tensor, classes: int, batch_size: int = 250
    ) -> Tensor:
        """Fooling ratio of each clean prediction; see `evaluate.fooling_per_class`."""
        return evaluate.fooling_per_class(model, images, self.delta, classes, mean=self.mean,
                                          std=self.std, batch_size=batch_size)  # fmt: skip

    def targeted_success(
        self, model: nn.Module, images: Tensor, target: int, batch_size: int = 250
    ) -> float:
        """Share moved to `target`; see `evaluate.targeted_success`."""
        return evaluate.targeted_success(model, images, self.delta, target, mean=self.mean,
                                         std=self.std, batch_size=batch_size)  # fmt: skip

    def transfer_matrix(
        self, models: Mapping[str, nn.Module], images: Tensor, batch_size: int = 250
    ) -> dict[str, float]:
        """Fooling ratio of every model by its name: this perturbation's row of the matrix."""
        row = evaluate.transfer_matrix({"": self.delta}, models, images, mean=self.mean,
                                       std=self.std, batch_size=batch_size)[0]  # fmt: skip
        return dict(zip(models, row.tolist(), strict=True))


def _statistics(name: str, value: Statistics, channels: int) -> Tensor | None:
    if value is None:
        return None
    tensor = torch.as_tensor(value, dtype=torch.float32).detach()
    if tensor.shape != (channels,):
        raise ValueError(f"{name} must be [{channels}], got shape {tuple(tensor.shape)}")
    if name == "std" and not bool((tensor > 0).all()):
        raise ValueError(f"std must be above 0, got {tensor.tolist()}")
    return tensor
