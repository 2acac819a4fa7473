"""Verification of IJB-B and IJB-C: templates of several images and video frames are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from facekernels.metrics.verification import tar_at_far

FALSE_ACCEPT_RATES: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Those that are reported."""

_CHUNK = 1 << 18
_KINDS = {np.int64: "integers", np.float64: "numbers", np.str_: "names"}


class TemplateImages(NamedTuple):
    """Images of templates, and where their faces are."""

    names: tuple[str, ...]
    """File names."""
    landmarks: Tensor
    """``[N, 5, 2]`` float64, x and y in pixels: eyes, nose, corners of the mouth."""
    scores: Tensor
    """``[N]`` float64, of the face detector."""


class TemplatePairs(NamedTuple):
    """Pairs of templates to compare."""

    first: Tensor
    """``[P]`` int64 template."""
    second: Tensor
    """``[P]`` int64 template."""
    same: Tensor
    """``[P]`` bool: one person."""


class Templates(NamedTuple):
    """Pooled features."""

    features: Tensor
    """``[T, D]`` float32, of length 1."""
    ids: Tensor
    """``[T]`` int64, ascending."""


def read_template_images(path: str | Path) -> TemplateImages:
    """Names, landmarks and scores of the images: ``ijbc_name_5pts_score.txt``.

    Lines are a file name, five times x and y, and the detector's score.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line of another form, by its number; numbers that are not finite; no line.
    """
    names = _read_table(path, (0,), np.str_)[:, 0]
    table = torch.from_numpy(_read_table(path, range(1, 12), np.float64))
    finite = table.isfinite().all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise ValueError(f"{path}: image {row + 1} must have finite landmarks and score")
    landmarks = table[:, :10].unflatten(1, (5, 2))
    return TemplateImages(tuple(names.tolist()), landmarks, table[:, 10])


def read_template_media(path: str | Path) -> tuple[Tensor, Tensor]:
    """Template and medium of every image: ``ijbc_face_tid_mid.txt``, lines ``name tid mid``.

    Returns:
        Both ``[N]`` int64, in the order of the file, which is that of the images.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line of another form, by its number; no line.
    """
    table = _read_integers(path, (1, 2))
    return table[:, 0], table[:, 1]


def read_template_pairs(path: str | Path) -> TemplatePairs:
    """Pairs to compare: ``ijbc_template_pair_label.txt``, lines ``tid tid 0|1``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line of another form, by its number; a label that is not 0 or 1; no line.
    """
    table = _read_integers(path, (0, 1, 2))
    wrong = (table[:, 2] < 0) | (table[:, 2] > 1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{path}: pair {row + 1} must have the label 0 or 1, got {int(table[row, 2])}"
        )
    return TemplatePairs(table[:, 0], table[:, 1], table[:, 2] == 1)


def pool_templates(features: Tensor, templates: Tensor, media: Tensor) -> Templates:
    """One feature per template: mean over each medium, sum over the media, length 1.

    A medium is a photograph or all frames of a video, so that a long video counts as one image.
    The published evaluations add the features of an image and its mirror before, and weigh them by
    the detector's score: multiply `features` by it.

    Args:
        features: ``[N, D]`` of images.
        templates: ``[N]`` integers: the template an image belongs to.
        media: ``[N]`` integers: the medium; a number counts within its template.

    Raises:
        ValueError: shapes that do not fit, or no image.

    Source: Maze et al., IARPA Janus Benchmark C, ICB 2018; the pooling is that of Crosswhite et
    al., Template Adaptation for Face Verification and Identification, FG 2017.
    """
    if features.ndim != 2 or not len(features):
        raise ValueError(f"features must be [N, D], N >= 1, got shape {tuple(features.shape)}")
    for name, values in (("templates", templates), ("media", media)):
        if values.shape != features.shape[:1]:
            raise ValueError(f"{name} must be [{len(features)}], got shape {tuple(values.shape)}")
    keys, medium = torch.stack([templates, media], 1).unique(dim=0, return_inverse=True)
    sizes = torch.bincount(medium)
    sums = features.new_zeros(len(keys), features.shape[1], dtype=torch.float64)
    means = sums.index_add_(0, medium, features.double()) / sizes[:, None]
    ids, template = keys[:, 0].unique(return_inverse=True)
    pooled = means.new_zeros(len(ids), features.shape[1]).index_add_(0, template, means)
    return Templates(F.normalize(pooled).float(), ids)


def pair_scores(templates: Templates, pairs: TemplatePairs) -> Tensor:
    """``[P]`` float32 cosine similarities, in chunks: IJB-C has 15.7 million pairs.

    Raises:
        ValueError: a pair names a template without a feature.
    """
    first, second = (_rows(templates.ids, side) for side in (pairs.first, pairs.second))
    scores = [
        (templates.features[a] * templates.features[b]).sum(1)
        for a, b in zip(first.split(_CHUNK), second.split(_CHUNK), strict=True)
    ]
    return torch.cat(scores)


def template_verification(
    features: Tensor,
    templates: Tensor,
    media: Tensor,
    pairs: TemplatePairs,
    fars: Sequence[float] = FALSE_ACCEPT_RATES,
) -> list[float]:
    """True accept rate at each false accept rate: the 1:1 protocol of IJB-B and IJB-C.

    The threshold is the exact one of `tar_at_far`, with at most the given rate; the published
    script takes the point of the ROC curve that is nearest to the rate, on either side.

    Args:
        features: ``[N, D]`` of images.
        templates: ``[N]``, as for `pool_templates`.
        media: ``[N]``, as for `pool_templates`.
        pairs: from `read_template_pairs`.
        fars: false accept rates.

    Raises:
        ValueError: as the steps do.
    """
    scores = pair_scores(pool_templates(features, templates, media), pairs)
    return tar_at_far(scores, pairs.same, fars)


def _rows(ids: Tensor, wanted: Tensor) -> Tensor:
    rows = torch.searchsorted(ids, wanted).clamp(max=len(ids) - 1)
    missing = ids[rows] != wanted
    if bool(missing.any()):
        name = int(wanted[missing][0])
        raise ValueError(f"pairs must name templates that have images, got template {name}")
    return rows


def _read_integers(path: str | Path, columns: Sequence[int]) -> Tensor:
    return torch.from_numpy(_read_table(path, columns, np.int64))


def _read_table(path: str | Path, columns: Sequence[int], kind: type[np.generic]) -> NDArray[Any]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not a file")
    if not Path(path).stat().st_size:
        raise ValueError(f"{path} is empty")
    try:
        return np.loadtxt(path, kind, usecols=columns, ndmin=2, comments=None, encoding="utf-8")
    except ValueError as error:
        what = _KINDS[kind]
        raise ValueError(f"{path} must hold {what} in columns {tuple(columns)}: {error}") from error
