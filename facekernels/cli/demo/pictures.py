"""The report's pictures: inline SVG over a few inlined PNG and JPEG images."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from facekernels.cli.demo.detect import Detection, Level
from facekernels.cli.demo.model import FaceScorer
from facekernels.cli.demo.train import Trained
from facekernels.cli.demo.weak_points import Crop, WeakPoints
from facekernels.reference.mlca import channel_scale

# Dark violet, red, orange, pale yellow: brightness rises evenly, so it reads in grey as well.
_STOPS = np.array([(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10),
                   (252, 255, 164)], dtype=np.float64)  # fmt: skip


def colors(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Values in [0, 1] of any shape -> RGB in a last dimension."""
    at = np.clip(values, 0, 1) * (len(_STOPS) - 1)
    rgb = [np.interp(at, np.arange(len(_STOPS)), _STOPS[:, c]) for c in range(3)]
    return np.stack(rgb, -1).round().astype(np.uint8)


def data_uri(array: NDArray[np.uint8], kind: str = "PNG") -> str:
    """An image as a data URI; kind "PNG" or "JPEG"."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, optimize=True, quality=90)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{encoded}"


def photo_definition(photo: Tensor) -> str:
    """The photograph, stored once; the other pictures refer to `#photo`."""
    height, width = photo.shape[1:]
    uri = data_uri(photo.permute(1, 2, 0).numpy(), "JPEG")
    return (
        '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
        f'<image id="photo" width="{width}" height="{height}" href="{uri}"/></defs></svg>'
    )


def box_picture(detection: Detection, photo: Tensor) -> str:
    """The photograph with the detected box and its centre."""
    left, top, right, bottom = detection.box
    x, y = detection.center.tolist()
    label = f"face {detection.best.score:.2f}"
    return _svg(photo.shape[2], photo.shape[1], "The photograph with a box around the face", [
        '<use href="#photo"/>',
        f'<rect class="halo" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{bottom - top:.1f}" rx="6"/>',
        f'<rect class="box" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{bottom - top:.1f}" rx="6"/>',
        f'<path class="box" d="M{x - 6:.1f} {y:.1f}h12M{x:.1f} {y - 6:.1f}v12"/>',
        f'<rect class="tag" x="{left:.1f}" y="{bottom + 5:.1f}" width="78" height="21" rx="5"/>',
        f'<text class="tagtext" x="{left + 39:.1f}" y="{bottom + 20:.1f}">{label}</text>',
    ])  # fmt: skip


def heatmap_picture(detection: Detection, photo: Tensor) -> str:
    """Face probability over the photograph, with the numbered peaks and the decoded point."""
    level = detection.best
    parts = ['<use href="#photo" class="dim"/>', _overlay(level, level.heatmap)]
    for number, cell in enumerate(detection.peaks, 1):
        x, y = level.to_photo(cell).tolist()
        side = 15 if number == 1 else 0
        parts.append(f'<circle class="peak" cx="{x + side:.1f}" cy="{y - side:.1f}" r="9"/>')
        parts.append(
            f'<text class="number" x="{x + side:.1f}" y="{y - side + 4:.1f}">{number}</text>'
        )
    x, y = detection.center.tolist()
    parts.append(f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    return _svg(photo.shape[2], photo.shape[1], "Face probability over the photograph", parts)


def branch_pictures(detection: Detection, photo: Tensor) -> list[str]:
    """What each branch votes, from its median to its highest vote."""
    level, pictures = detection.best, []
    for branch, votes in enumerate(level.votes, 1):
        low, high = votes.quantile(0.5), votes.max()
        scaled = ((votes - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
        parts = ['<use href="#photo" class="dim"/>', _overlay(level, scaled)]
        pictures.append(_svg(photo.shape[2], photo.shape[1], f"Votes of branch {branch}", parts))
    return pictures


def patch_picture(detection: Detection) -> str:
    """The cells around the peak: the highest cell against the refined point."""
    heatmap, radius, size = detection.best.heatmap, 3, 60
    height, width = heatmap.shape
    row, column = divmod(int(heatmap.argmax()), width)
    highest = float(heatmap.max())
    parts = []
    for y in range(max(row - radius, 0), min(row + radius + 1, height)):
        for x in range(max(column - radius, 0), min(column + radius + 1, width)):
            value = float(heatmap[y, x])
            red, green, blue = colors(np.array(value / highest)).tolist()
            left, top = (x - column + radius) * size, (y - row + radius) * size
            ink = "dark" if value > 0.6 * highest else "light"
            parts.append(f'<rect x="{left}" y="{top}" width="{size}" height="{size}" '
                         f'fill="rgb({red},{green},{blue})"/>'
                         f'<text class="cell {ink}" x="{left + size / 2}" y="{top + size - 7}">'
                         f'{value:.2f}</text>')  # fmt: skip
    middle = (radius + 0.5) * size
    x, y = ((detection.best.cell - torch.tensor([column, row])) * size + middle).tolist()
    parts.append(f'<rect class="argmax" x="{radius * size}" y="{radius * size}" width="{size}" '
                 f'height="{size}"/><circle class="integer" cx="{middle}" cy="{middle}" r="5"/>'
                 f'<path class="shift" d="M{middle} {middle}L{x:.1f} {y:.1f}"/>'
                 f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="7"/>')  # fmt: skip
    side = (2 * radius + 1) * size
    return _svg(side, side, "Heatmap cells around the peak with the refined point", parts)


def level_picture(detection: Detection) -> str:
    """The best score at every face size."""
    width, height, left, base, step = 480, 200, 8, 160, 58
    parts = []
    for i, level in enumerate(detection.levels):
        bar = level.score * 125
        kind = "bar best" if level is detection.best else "bar"
        x = left + i * step
        parts.append(f'<rect class="{kind}" x="{x}" y="{base - bar:.1f}" width="44" '
                     f'height="{bar:.1f}" rx="4"/>'
                     f'<text class="value" x="{x + 22}" y="{base - bar - 7:.1f}">'
                     f'{level.score:.2f}</text>'
                     f'<text class="axis" x="{x + 22}" y="{base + 19}">'
                     f'{level.face_size:.0f}</text>')  # fmt: skip
    parts.append(f'<path class="rule" d="M0 {base}.5h{width}"/>')
    parts.append(f'<text class="axis" x="{width / 2}" y="{height - 3}">'
                 'face size in pixels of the photograph</text>')  # fmt: skip
    return _svg(width, height, "Best score at each face size", parts)


def attention_picture(model: FaceScorer, detection: Detection) -> str:
    """The gate of every channel: in the face's window against the mean over all windows."""
    windows = detection.best.windows
    scale = channel_scale(windows, *model.gate)
    in_face = scale[:, int(detection.best.heatmap.argmax())]
    on_average = scale.mean(1)
    branches, channels = in_face.shape
    width, row, name = 960, 108, 76
    slot = (width - name) / channels
    parts = []
    for g in range(branches):
        base = g * row + 86
        parts.append(f'<text class="left" x="0" y="{base - 34}">branch {g + 1}</text>'
                     f'<path class="rule" d="M{name} {base}.5H{width}"/>')  # fmt: skip
        for c in range(channels):
            x, face, mean = name + c * slot, float(in_face[g, c]) * 76, float(on_average[g, c]) * 76
            parts.append(f'<rect class="bar best" x="{x + 6:.1f}" y="{base - face:.1f}" '
                         f'width="{slot - 12:.1f}" height="{face:.1f}" rx="3"/>'
                         f'<path class="mean" d="M{x + 2:.1f} {base - mean:.1f}'
                         f'h{slot - 4:.1f}"/>')  # fmt: skip
    parts.append(f'<text class="axis" x="{(width + name) / 2}" y="{branches * row + 12}">'
                 f'channels 1 to {channels}; height is the gate, from 0 to 1</text>')  # fmt: skip
    return _svg(width, branches * row + 18, "Channel attention of the four branches", parts)


def crop_gallery(trained: Trained) -> str:
    """The validation crops with their scores; wrong ones are framed."""
    figures = []
    for crop, label, score in zip(
        trained.crops, trained.labels.tolist(), trained.scores.tolist(), strict=True
    ):
        wrong = (score > 0.5) != bool(label)
        uri = data_uri((crop[0] * 255).round().byte().numpy())
        what = f"{'face' if label else 'background'}, score {score:.2f}"
        figures.append(f'<figure class="crop{" wrong" if wrong else ""}"><img src="{uri}" '
                       f'alt="{escape(what)}" width="25" height="25">'
                       f'<figcaption>{score:.2f}</figcaption></figure>')  # fmt: skip
    return f'<div class="crops">{"".join(figures)}</div>'


def crop_picture(crop: Crop, title: str) -> str:
    """The pixels of a window, as large as the column allows."""
    return _pixels((crop.pixels[0] * 255).round().byte().numpy(), title)


def sensitivity_picture(weak: WeakPoints) -> str:
    """The sensitivity map over the window it belongs to."""
    face, map_ = weak.face.pixels[0].double().numpy(), weak.sensitivity[0].double().numpy()
    grey = np.kron(face, np.ones(np.array(map_.shape) // face.shape))[..., None] * 255
    alpha = np.clip(1.4 * map_, 0, 0.8)[..., None]
    return _pixels((grey * (1 - alpha) + colors(map_) * alpha).round().astype(np.uint8),
                   "Sensitivity of the score to every pixel")  # fmt: skip


def perturbation_picture(weak: WeakPoints) -> str:
    """delta: grey is no change."""
    return _pixels(weak.perturbation.picture()[..., 0].numpy(), "The perturbation")


def _pixels(array: NDArray[np.uint8], title: str) -> str:
    height, width = array.shape[:2]
    return _svg(width, height, title, [
        f'<image class="pixels" width="{width}" height="{height}" href="{data_uri(array)}"/>'
    ])  # fmt: skip


def _overlay(level: Level, values: Tensor) -> str:
    """Values of the level's grid as an image at its place over the photograph."""
    array = values.double().numpy()
    alpha = (np.clip(1.6 * array, 0, 0.85) * 255).astype(np.uint8)
    rgba = np.concatenate([colors(array), alpha[..., None]], -1)
    rows, columns = array.shape
    left, top = level.to_photo(torch.full((2,), -0.5)).tolist()
    smooth = np.asarray(
        Image.fromarray(rgba).resize((columns * 6, rows * 6), Image.Resampling.BICUBIC)
    )
    return (
        f'<image x="{left + 0.5:.2f}" y="{top + 0.5:.2f}" width="{columns * level.step:.2f}" '
        f'height="{rows * level.step:.2f}" preserveAspectRatio="none" href="{data_uri(smooth)}"/>'
    )


def _svg(width: float, height: float, title: str, parts: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
