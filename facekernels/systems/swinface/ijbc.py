"""IJB-C in the layout of InsightFace: loose crops with landmarks, templates, pairs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from facekernels.data.image_sources import ImageFiles
from facekernels.data.label_files import existing
from facekernels.data.transforms import Normalise
from facekernels.metrics import (
    TemplatePairs,
    read_template_images,
    read_template_media,
    read_template_pairs,
)

# Where InsightFace puts eyes, nose and corners of the mouth in a crop of 112 pixels; the first
# pixel's centre is (0, 0).
_PLACES = torch.tensor(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655),
     (70.7299, 92.2041)], dtype=torch.float64,
)  # fmt: skip


class TemplateFaces(Dataset[dict[str, Tensor]]):
    """Faces of IJB-C, aligned, with their templates; `pairs` says which templates to compare.

    Items have ``"image"`` ``[3, S, S]``, ``"template"``, ``"medium"``, and the detector's
    ``"score"``.

    Args:
        root: holds ``loose_crop`` with the images, and ``meta`` with ``ijbc_name_5pts_score.txt``,
            ``ijbc_face_tid_mid.txt`` and ``ijbc_template_pair_label.txt``.
        size: S.

    Raises:
        FileNotFoundError: a file or folder is not there.
        ValueError: a malformed file, or two of different lengths.
    """

    def __init__(self, root: str, size: int) -> None:
        folder = existing(root, ["loose_crop"], "the images")
        meta = existing(root, ["meta"], "the lists")
        found = read_template_images(meta / "ijbc_name_5pts_score.txt")
        self.template, self.medium = read_template_media(meta / "ijbc_face_tid_mid.txt")
        if len(self.template) != len(found.names):
            raise ValueError(
                f"{meta}: ijbc_face_tid_mid.txt must have as many lines as "
                f"ijbc_name_5pts_score.txt, {len(found.names)}, got {len(self.template)}"
            )
        self.pairs: TemplatePairs = read_template_pairs(meta / "ijbc_template_pair_label.txt")
        self.images = ImageFiles([str(folder / name) for name in found.names])
        self.landmarks, self.score = found.landmarks, found.scores.float()
        self.size, self._normalise = size, Normalise()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        face = align(self.images.read(index), self.landmarks[index], self.size)
        return {
            "image": self._normalise(face), "template": self.template[index],
            "medium": self.medium[index], "score": self.score[index],
        }  # fmt: skip


def align(image: Tensor, landmarks: Tensor, size: int) -> Tensor:
    """The face in an image, turned, scaled and moved so that its landmarks come to their places.

    The similarity is that of least squares; pixels are sampled bilinearly, black outside of the
    image.

    Args:
        image: ``[3, H, W]`` uint8.
        landmarks: ``[5, 2]`` float64, x and y: eyes, nose, corners of the mouth.
        size: S.

    Returns:
        ``[3, S, S]`` uint8.

    Raises:
        ValueError: all landmarks are the same point.
    """
    places = torch.view_as_complex((_PLACES + 0.5) * size / 112 - 0.5)
    points = torch.complex(landmarks[:, 0], landmarks[:, 1])
    # In complex numbers a similarity is a product and a sum.
    away, centre = points - points.mean(), places.mean()
    spread = float(away.abs().square().sum())
    if spread == 0:
        raise ValueError(f"landmarks must be different points, got {landmarks.tolist()}")
    factor = (away.conj() * (places - centre)).sum() / spread
    y, x = torch.meshgrid(*2 * [torch.arange(size, dtype=torch.float64)], indexing="ij")
    sampled = torch.view_as_real((torch.complex(x, y) - centre) / factor + points.mean())
    grid = (2 * sampled + 1) / torch.tensor([image.shape[2], image.shape[1]]) - 1
    moved = F.grid_sample(image[None].float(), grid[None].float(), align_corners=False)[0]
    return moved.add(0.5).to(torch.uint8)
