from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from facekernels.systems.sga import (
    UniversalPerturbation,
    fooling_per_class,
    fooling_ratio,
    targeted_success,
    transfer_matrix,
)
from facekernels.systems.sga.deepfool import fit_deepfool
from facekernels.systems.sga.eager import fit_eager

LEVELS = torch.tensor([0, 102, 120, 126, 250], dtype=torch.uint8)
IMAGES = LEVELS[:, None, None, None].expand(5, 1, 2, 2)
DELTA = torch.full((1, 2, 2), 0.05)  # crosses one half for 120 and 126 only


class Bright(nn.Module):
    """Class 1 where the mean passes a threshold."""

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([torch.full_like(mean, self.threshold), mean], 1)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 99])
def test_fooling_ratio_counts_changed_images(batch_size: int) -> None:
    for images in (IMAGES, IMAGES / 255):
        assert fooling_ratio(Bright(), images, DELTA, batch_size=batch_size) == 2 / 5


def test_images_are_normalised_after_the_clamp() -> None:
    # (x - 0.2) / 0.6 passes 0.5 where x passes 0.5, so nothing changes but the threshold's scale.
    assert fooling_ratio(Bright(), IMAGES, DELTA, mean=[0.2], std=[0.6]) == 2 / 5
    assert fooling_ratio(Bright(0.0), IMAGES, DELTA, mean=[0.5]) == 2 / 5


def test_per_class_and_targeted() -> None:
    per_class = fooling_per_class(Bright(), IMAGES, DELTA, 3)
    assert per_class[:2].tolist() == [2 / 4, 0]
    assert per_class[2].isnan()
    assert targeted_success(Bright(), IMAGES, DELTA, 1) == 2 / 4
    assert targeted_success(Bright(), IMAGES, DELTA, 0) == 0


def test_transfer_matrix_rows_are_perturbations() -> None:
    models = {"half": Bright(), "never": Bright(2.0)}
    matrix = transfer_matrix({"up": DELTA, "none": 0 * DELTA}, models, IMAGES, batch_size=2)
    assert matrix.tolist() == [[2 / 5, 0], [0, 0]]
    row = UniversalPerturbation(DELTA, 0.05).transfer_matrix(models, IMAGES)
    assert row == {"half": 2 / 5, "never": 0}


def test_model_is_judged_in_evaluation_mode_and_given_back() -> None:
    class Modes(Bright):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.BatchNorm2d(1).eval()
            self.seen: list[bool] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(self.training)
            return super().forward(x)

    model = Modes().train()
    model.frozen.eval()
    fooling_ratio(model, IMAGES, DELTA)
    assert model.seen == [False, False]
    assert model.training
    assert not model.frozen.training


@pytest.mark.parametrize(
    ("images", "delta", "batch_size", "message"),
    [
        (torch.rand(3, 1, 2, 2), torch.zeros(2, 2), 1, r"one image, \(1, 2, 2\), got \(2, 2\)"),
        (torch.rand(0, 1, 2, 2), DELTA, 1, r"N >= 1, C, H, W\], got shape \(0, 1, 2, 2\)"),
        (torch.rand(3, 1, 2, 2), DELTA, 0, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments(images: Tensor, delta: Tensor, batch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fooling_ratio(Bright(), images, delta, batch_size=batch_size)


def linear() -> tuple[nn.Module, Tensor]:
    """A linear classifier of three classes, and images that it tells apart by a little."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).requires_grad_(False)
    model[1].weight.copy_(torch.randn(3, 16, generator=generator))
    model[1].bias.zero_()
    return model, torch.rand(60, 1, 4, 4, generator=generator)


@pytest.mark.parametrize("method", ["sga", "spgd"])
def test_gradient_attacks_pass_random_signs_and_count_their_cost(method: str) -> None:
    model, images = linear()
    epsilon = 0.1
    fit = fit_eager(model, images, method=method, epochs=10, large_batch=25, epsilon=epsilon)
    assert float(fit.delta.abs().max()) <= epsilon + 1e-7
    generator = torch.Generator().manual_seed(1)
    noise = epsilon * torch.randn(20, 1, 4, 4, generator=generator).sign()
    mean = sum(fooling_ratio(model, images, n) for n in noise) / len(noise)
    assert fooling_ratio(model, images, fit.delta) > 1.5 * mean
    # Large batches of 25, 25 and 10: 10 + 10 + 4 inner steps of 10 images.
    expected = {"sga": (10 * 240, 10 * 27), "spgd": (10 * 60, 10 * 3)}
    assert (fit.gradients, fit.updates) == expected[method]


def test_spgd_step_is_the_sign_of_the_gradient() -> None:
    model, images = linear()
    fit = fit_eager(model, images, method="spgd", epochs=1, large_batch=60, epsilon=0.1)
    delta = torch.zeros(1, 4, 4, requires_grad=True)
    logits = model((images + delta).clamp(0, 1))
    nn.functional.cross_entropy(logits, model(images).argmax(1)).backward()
    assert torch.equal(fit.delta, 0.01 * delta.grad.sign())  # type: ignore[union-attr]


def test_deepfool_crosses_the_boundary_of_one_image() -> None:
    model, images = linear()
    image = 0.5 + 0.1 * (images[:1] - 0.5)
    fit = fit_deepfool(model, image, gradients=1, epsilon=0.5, batch_size=1, candidates=3)
    assert fooling_ratio(model, image, fit.delta) == 1
    # A linear model's nearest boundary is known: the step is at most a little longer.
    logits, weight = model(image)[0], model[1].weight
    own = int(logits.argmax())
    distances = [
        float((logits[own] - logits[c]) / (weight[own] - weight[c]).norm())
        for c in range(3) if c != own
    ]  # fmt: skip
    assert min(distances) < float(fit.delta.norm()) < 1.03 * min(distances) + 1e-3
