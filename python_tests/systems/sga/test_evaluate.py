import pytest
import torch

from facekernels.systems.sga import fooling_ratio


class Bright(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([torch.full_like(mean, 0.5), mean], 1)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 99])
def test_fooling_ratio_counts_changed_images(batch_size: int) -> None:
    levels = torch.tensor([0, 102, 120, 126, 250], dtype=torch.uint8)
    images = levels[:, None, None, None].expand(5, 1, 2, 2)
    delta = torch.full((1, 2, 2), 0.05)  # crosses one half for 120 and 126 only
    assert fooling_ratio(Bright(), images, delta, batch_size=batch_size) == 2 / 5
    assert fooling_ratio(Bright(), images / 255, delta, batch_size=batch_size) == 2 / 5


def test_bad_delta_is_named() -> None:
    with pytest.raises(ValueError, match=r"shape of one image, \(1, 2, 2\), got \(2, 2\)"):
        fooling_ratio(Bright(), torch.rand(3, 1, 2, 2), torch.zeros(2, 2))
