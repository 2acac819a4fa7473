"""`facekernels cluster`: face features in, one label per face out."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

METHODS = ("infomap", "threshold", "whispers", "dbscan", "linkage")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(
        "facekernels cluster",
        description="Cluster faces by their features: an exact neighbour graph by cosine, then one "
        "of several methods. `linkage` is trained first, with --fit, on known identities.",
        epilog="examples: facekernels cluster faces.npy --out labels.npy; "
        "facekernels cluster known.npy --labels ids.npy --fit model.pt; "
        "facekernels cluster faces.npy --out labels.npy --model model.pt --work folder",
    )
    p.add_argument(
        "features",
        type=Path,
        metavar="FEATURES",
        help=".npy, .npz or .bin (raw float32, with --dim)",
    )
    p.add_argument("--out", type=Path, metavar="FILE", help="for the labels: .npy, .meta or .txt")
    p.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="true identities (.npy, .npz, .meta, .txt): scores are printed",
    )
    p.add_argument(
        "--fit",
        type=Path,
        metavar="MODEL",
        help="train a linkage network on FEATURES and --labels, and write it",
    )
    p.add_argument("--model", type=Path, metavar="MODEL", help="a network that --fit has written")
    p.add_argument(
        "--method",
        choices=METHODS,
        default=None,
        help="default: linkage with --model, else infomap",
    )
    p.add_argument(
        "--threshold",
        type=float,
        default=0.58,
        metavar="COSINE",
        help="least similarity of a link; not for linkage (default: %(default)s)",
    )
    p.add_argument("--k", type=int, default=80, help="neighbours of a face (default: %(default)s)")
    p.add_argument(
        "--max-size",
        type=int,
        default=300,
        metavar="N",
        help="largest cluster of linkage (default: %(default)s)",
    )
    p.add_argument("--epochs", type=int, default=4, help="of --fit (default: %(default)s)")
    p.add_argument("--dim", type=int, default=None, help="columns of a .bin file")
    p.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help="keep the steps here: an interrupted run goes on",
    )
    p.add_argument("--report", type=Path, metavar="FOLDER", help="write a page with pictures there")
    p.add_argument(
        "--images",
        type=Path,
        metavar="FILE",
        help="[N, H, W] .npy of the faces, for the page's example clusters",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0, or 2 with one sentence for input that cannot be used."""
    p = parser()
    arguments = p.parse_args(argv)
    if arguments.fit is None and arguments.out is None:
        p.error("--out is needed (or --fit to train)")
    if arguments.fit is not None and arguments.labels is None:
        p.error("--fit needs --labels")
    if arguments.method == "linkage" and arguments.model is None and arguments.fit is None:
        p.error("--method linkage needs --model (which --fit writes)")
    if arguments.images is not None and arguments.report is None:
        p.error("--images needs --report, whose page shows them")
    try:
        return _run(arguments)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"facekernels cluster: {error}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from facekernels.data.face_features import (
        LABEL_SUFFIXES,
        read_features,
        read_labels,
        write_labels,
    )

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    features = read_features(arguments.features, dim=arguments.dim)
    truth = None if arguments.labels is None else read_labels(arguments.labels)
    if truth is not None and len(truth) != len(features):
        raise ValueError(f"{arguments.labels} has {len(truth)} labels for {len(features)} features")
    if len(features) == 0:
        raise ValueError(f"{arguments.features} must hold a face at least, got none")
    images = None if arguments.images is None else _read_images(arguments.images, len(features))
    if arguments.out is not None and arguments.out.suffix not in LABEL_SUFFIXES:
        suffixes = ", ".join(LABEL_SUFFIXES)
        raise ValueError(f"--out must end in one of {suffixes}, got {arguments.out}")
    page = None if arguments.report is None else arguments.report / "index.html"
    for option, path in (("--out", arguments.out), ("--fit", arguments.fit), ("--report", page)):
        if path is not None:
            _check_writable(option, path)
    console.print(f"{len(features):,} faces of {features.shape[1]} features")
    start = time.perf_counter()
    if arguments.fit is not None:
        assert truth is not None
        model = _fit(arguments, features, truth)
        console.print(f"trained in {time.perf_counter() - start:.1f} s, written to {arguments.fit}",
                      markup=False, soft_wrap=True)  # fmt: skip
        if arguments.out is None:
            return 0
        start = time.perf_counter()
        arguments.model = arguments.fit
        del model
    labels, graph = _cluster(arguments, features, console)
    write_labels(arguments.out, labels)
    for line in summary(labels, truth):
        console.print(line, markup=False)
    console.print(f"{time.perf_counter() - start:.1f} s; labels are in {arguments.out}",
                  markup=False, soft_wrap=True)  # fmt: skip
    if arguments.report is not None:
        from facekernels.cli.cluster_report import write_report

        written = write_report(arguments.report, labels, graph, truth, images)
        console.print(f"pictures: {written}", markup=False, soft_wrap=True)
    return 0


def _read_images(path: Path, faces: int) -> NDArray[Any]:
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"--images must be an .npy file, got {path}: {error}") from error
    shape = tuple(getattr(images, "shape", ()))  # an .npz archive has none
    if len(shape) < 3 or shape[0] != faces:
        raise ValueError(f"--images must hold [N, H, W] = ({faces}, H, W), got {shape} in {path}")
    return images  # type: ignore[no-any-return]


def _check_writable(option: str, path: Path) -> None:
    """What would fail at the end should fail before the work; the folder is made."""
    if path.is_dir():
        raise ValueError(f"{option} must be a file, got the folder {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} must lie in a folder that can be written, got {path}: {error.strerror}"
        ) from error


def _fit(arguments: argparse.Namespace, features: NDArray[Any], truth: NDArray[np.int64]) -> object:
    from facekernels.systems.ain.linkage import FaceClusterer

    hop = (min(arguments.k, 80), min(arguments.k, 10))
    clusterer = FaceClusterer(
        arguments.k, hop, hop[1], max_size=arguments.max_size, epochs=arguments.epochs,
        progress=sys.stdout.isatty(),
    )  # fmt: skip
    clusterer.fit(features, truth)
    clusterer.save(arguments.fit)
    return clusterer


def _cluster(
    arguments: argparse.Namespace, features: NDArray[Any], console: Any
) -> tuple[NDArray[np.int64], Any]:
    """Labels, and the neighbour graph for the pictures where there is one."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from facekernels.systems.ain.linkage import FaceClusterer, peers
    from facekernels.systems.ain.linkage.pipeline import Pipeline

    method = arguments.method or ("linkage" if arguments.model is not None else "infomap")
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        if method == "linkage":
            clusterer = FaceClusterer.load(arguments.model).set_params(max_size=arguments.max_size)
            pipeline = Pipeline(features, arguments.work, progress)
            return clusterer.cluster_with(pipeline).labels, pipeline.last_graph
        chosen: dict[str, Any] = {
            "infomap": lambda t: peers.Infomap(t),
            "threshold": lambda t: peers.ThresholdComponents(t),
            "whispers": lambda t: peers.ChineseWhispers(t),
            "dbscan": lambda t: peers.NeighborDBSCAN(t, 4),
        }
        search = chosen[method](arguments.threshold)
        pipeline = Pipeline(features, arguments.work, progress)
        if len(features) == 1:  # no graph
            return np.zeros(1, dtype=np.int64), None
        graph = pipeline.graph(min(arguments.k, len(features) - 1))
        progress(method, 0, 1)
        labels = search.cluster(*graph)
    return labels, graph


def summary(labels: NDArray[np.int64], truth: NDArray[np.int64] | None) -> list[str]:
    """What the command prints about a clustering."""
    from facekernels.metrics import bcubed_f, nmi, pairwise_f, single_removed

    sizes = np.bincount(labels)
    lines = [
        f"{len(sizes):,} clusters: largest {sizes.max():,}, median {np.median(sizes):.0f}, "
        f"{int((sizes == 1).sum()):,} of one face"
    ]
    if truth is None:
        return lines
    for name, score in (("pairwise", pairwise_f), ("BCubed", bcubed_f)):
        p, r, f = score(truth, labels)
        lines.append(f"{name}: precision {p:.4f}, recall {r:.4f}, F {f:.4f}")
    lines.append(f"NMI: {nmi(truth, labels):.4f}")
    kept = single_removed(truth, labels)
    if 0 < len(kept[0]) < len(labels):
        lines.append(f"without clusters of one: pairwise F {pairwise_f(*kept).f:.4f}")
    return lines
