"""The page of `facekernels cluster --report`: sizes, similarities, examples."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekernels.data.files import replacing

_INK, _ACCENT, _SOFT = "#1f2733", "#b5361c", "#8a94a3"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1f2733; background: #fff }
figure { margin: 1.5rem 0 } figcaption { color: #5a6472; font-size: .9rem }
.cluster { display: flex; flex-wrap: wrap; gap: 4px; margin: .5rem 0 1rem }
.cluster img { width: 56px; height: 56px; image-rendering: pixelated; border-radius: 4px }
h3 { margin: 1rem 0 .2rem; font-size: 1rem }
svg { max-width: 100%; height: auto }
"""


def write_report(
    folder: Path,
    labels: NDArray[np.int64],
    graph: Any,
    truth: NDArray[np.int64] | None,
    images: NDArray[Any] | None,
) -> Path:
    """Write ``index.html``, which loads nothing else, and return its path.

    Few faces have no graph (None), and then there is no picture of similarities.
    """
    from facekernels.cli.cluster import summary

    if images is not None and len(images) != len(labels):
        raise ValueError(f"images must be {len(labels)}, one per face, got {len(images)}")
    facts = "".join(f"<li>{escape(line)}</li>" for line in summary(labels, truth))
    page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>Clusters of {len(labels):,} faces</title><style>{_STYLE}</style></head><body>
<h1>Clusters of {len(labels):,} faces</h1><ul>{facts}</ul>
<figure>{_sizes(labels)}<figcaption>How many clusters have how many faces.</figcaption></figure>
{_similarities(labels, graph, truth) if graph is not None else ""}
{_examples(labels, images) if images is not None else ""}
</body></html>
"""
    path = folder / "index.html"
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path.resolve()


def _svg(draw: Any) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _sizes(labels: NDArray[np.int64]) -> str:
    sizes = np.bincount(labels)

    def draw(axes: Any) -> None:
        edges = np.unique(np.geomspace(1, sizes.max() + 1, 24).round())
        axes.hist(sizes, bins=edges if len(edges) > 1 else 1, color=_ACCENT)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("faces in a cluster")
        axes.set_ylabel("clusters")

    return _svg(draw)


def _similarities(labels: NDArray[np.int64], graph: Any, truth: NDArray[np.int64] | None) -> str:
    known = labels if truth is None else truth
    idx, sim = np.asarray(graph.idx), np.asarray(graph.sim)
    same = known[idx] == known[:, None]
    word = "cluster" if truth is None else "identity"

    def draw(axes: Any) -> None:
        bins = np.linspace(sim.min(), max(sim.max(), sim.min() + 1e-3), 80)
        axes.hist(sim[same], bins=bins, color=_ACCENT, alpha=0.75, label=f"same {word}")
        axes.hist(sim[~same], bins=bins, color=_SOFT, alpha=0.75, label=f"another {word}")
        axes.set_xlabel("cosine similarity")
        axes.set_ylabel("pairs")
        axes.legend(frameon=False)

    return f"""<figure>{_svg(draw)}<figcaption>Cosine similarity of every face and its neighbours,
by {word}. Where the two overlap, similarity alone cannot decide.</figcaption></figure>"""


def _examples(labels: NDArray[np.int64], images: NDArray[Any], most: int = 8) -> str:
    """The largest clusters that are no dumps, up to 16 faces of each."""
    sizes = np.bincount(labels)
    parts = ["<h2>Examples: the largest clusters</h2>"]
    for cluster in np.argsort(-sizes, kind="stable")[:most]:
        members = np.flatnonzero(labels == cluster)
        faces = "".join(_image(images[i]) for i in members[:16])
        parts.append(f"<h3>{len(members)} faces</h3><div class='cluster'>{faces}</div>")
    return "".join(parts)


def _image(image: NDArray[Any]) -> str:
    from PIL import Image

    pixels = np.asarray(image, dtype=np.float64)
    pixels = pixels * 255 if pixels.max() <= 1 else pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    code = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{code}">'
