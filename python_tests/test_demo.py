"""The demo end to end, and the parts that decide whether it may be believed."""

from __future__ import annotations

import inspect
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from opspecs import PLAIN
from torch import Tensor

from facekernels import ops

pytest.importorskip("skimage")
pytest.importorskip("PIL")

from facekernels.cli import demo
from facekernels.cli.demo import checks, eager
from facekernels.cli.demo import run as demo_run
from facekernels.cli.demo.detect import Detection, detect
from facekernels.cli.demo.model import STRIDE, WINDOW, FaceScorer
from facekernels.cli.demo.pictures import colors
from facekernels.cli.demo.terminal import milliseconds
from facekernels.cli.demo.train import train
from facekernels.data import photograph

# Ops with a kernel of their own.
PUBLIC_OPS = {n for n in ops.__all__ if inspect.isfunction(getattr(ops, n))} - set(PLAIN)


class Loads(HTMLParser):
    """Collects every address a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]


@pytest.fixture(scope="module")
def untrained() -> tuple[FaceScorer, Detection]:
    torch.manual_seed(0)
    model = FaceScorer().requires_grad_(False)
    return model, detect(model, photograph("astronaut"))


def test_every_public_op_is_checked() -> None:
    assert {c.op for c in checks.CHECKS} == PUBLIC_OPS


def test_quick_demo_finds_the_face(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Detection] = []

    def spy(model: FaceScorer, photo: Tensor) -> Detection:
        found.append(detect(model, photo))
        return found[0]

    monkeypatch.setattr(demo_run, "detect", spy)
    assert demo.main(["--quick", "--output", str(tmp_path / "deep" / "report")]) == 0

    x, y = found[0].center.tolist()
    left, top, right, bottom = found[0].box
    assert 195 < x < 250  # between the cheeks
    assert 95 < y < 145  # between eyebrows and mouth
    assert 70 < right - left < 160
    assert bottom - top == pytest.approx(right - left)

    printed = capsys.readouterr().out
    page = (tmp_path / "deep" / "report" / "index.html").read_text(encoding="utf-8")
    accuracy = re.search(r"validation accuracy ([\d.]+)%", printed)
    assert accuracy is not None
    assert float(accuracy[1]) >= 90
    fooled = re.search(r"fools it on (\d+)% of those crops, random signs on ([\d.]+)%", printed)
    assert fooled is not None
    assert float(fooled[1]) >= float(fooled[2]) + 10
    assert page.count('<image class="pixels"') == 6
    for check in checks.CHECKS:
        assert re.search(rf"^{re.escape(check.label)} .* ok$", printed, re.MULTILINE)
        assert f"<th>{check.label}</th>" in page
    assert "FAILED" not in printed + page

    loads = Loads()
    loads.feed(page)
    assert loads.addresses
    assert all(a.startswith(("data:image/", "#")) for a in loads.addresses)
    assert not loads.tags & {"script", "link", "iframe", "object"}
    assert "url(" not in page
    assert "@import" not in page


def test_same_seed_same_weights() -> None:
    first, second, other = (train(seed, 3, lambda: None).model for seed in (1, 1, 2))
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert not torch.equal(first.where, other.where)


def test_training_leaves_the_global_generator_and_threads_alone() -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    train(0, 1, lambda: None)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_sliding_gives_the_scores_of_cut_out_windows(
    untrained: tuple[FaceScorer, Detection],
) -> None:
    model, _ = untrained
    image = torch.rand(1, 1, 41, 37, generator=torch.Generator().manual_seed(0))
    windows, (rows, columns) = model.windows(image)
    slid = model.votes(windows).sum(0)
    tiles = image[0, 0].unfold(0, WINDOW, STRIDE).unfold(1, WINDOW, STRIDE)
    assert tiles.shape[:2] == (rows, columns)
    cut_out = model(tiles.reshape(-1, 1, WINDOW, WINDOW))
    torch.testing.assert_close(slid, cut_out, rtol=1e-4, atol=1e-5)


def test_cells_lie_at_the_centres_of_their_windows(
    untrained: tuple[FaceScorer, Detection],
) -> None:
    for level in untrained[1].levels:
        rows, columns = level.heatmap.shape
        corners = level.to_photo(torch.tensor([[0.0, 0.0], [columns - 1, rows - 1]]))
        # The grid of windows is centred in the photograph of 512 x 512.
        torch.testing.assert_close(corners.mean(0), torch.full((2,), 255.5))
        torch.testing.assert_close(corners[0], torch.full((2,), level.face_size / 2 - 0.5))


def test_a_wrong_op_fails_the_demo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = ops.channel_gate

    def wrong(x: Tensor, *weights: Tensor) -> Tensor:
        out = right(x, *weights)
        return out if x.dtype is torch.float64 else out * 1.001

    monkeypatch.setattr(ops, "channel_gate", wrong)
    only = tuple(c for c in checks.CHECKS if c.label in ("mlca_gate", "channel_gate"))
    monkeypatch.setattr(checks, "CHECKS", only)
    monkeypatch.setattr(demo_run, "_QUICK", (2, 0.01))
    assert demo.main(["--quick", "--output", str(tmp_path)]) == 1
    assert "FAILED: channel_gate disagree" in capsys.readouterr().out
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "1 of 2 checks FAILED: channel_gate." in page


def test_what_is_timed_gives_the_same_result(untrained: tuple[FaceScorer, Detection]) -> None:
    timed = {c.op: c for c in checks.CHECKS if c.eager is not None}
    assert set(timed) == {"decode_heatmaps", "erase_regions", "erase_top_n", "heatmap_peaks"}

    call = timed["decode_heatmaps"].call(*untrained)
    mine = ops.decode_heatmaps(*call.args, **call.options)
    xy, score, valid = eager.decode_dark(*call.args, **call.options)
    torch.testing.assert_close(mine.xy, xy, rtol=0, atol=5e-3)
    assert torch.equal(mine.score, score)
    assert torch.equal(mine.valid, valid)

    call = timed["heatmap_peaks"].call(*untrained)
    peaks = ops.heatmap_peaks(*call.args, **call.options)
    xy, score, _, count = eager.max_pool_peaks(*call.args, **call.options)
    assert torch.equal(peaks.score, score)
    assert torch.equal(peaks.count, count)
    # torch.topk leaves the order of equal scores open.
    distinct = (score[..., :, None] == score[..., None, :]).sum(-1) == 1
    distinct &= score > score[..., -1:]
    assert distinct.sum() > 100
    assert torch.equal(peaks.xy[distinct], xy[distinct])

    call = timed["erase_regions"].call(*untrained)
    regions = ops.erase_regions(*call.args, **call.options)
    assert regions.mask.any()
    for mine, theirs in zip(regions, eager.erase_rounds(*call.args, **call.options), strict=True):
        assert torch.equal(mine, theirs)

    call = timed["erase_top_n"].call(*untrained)
    top = ops.erase_top_n(*call.args, **call.options)
    images, mask = eager.erase_topk(*call.args, **call.options)
    attention = call.args[1]
    limit = torch.where(top.mask, attention, torch.inf).amin((1, 2, 3), keepdim=True)
    clear = attention != limit  # topk leaves open which of equal cells it takes
    assert torch.equal(top.mask[clear], mask[clear])
    assert torch.equal(top.mask.sum((1, 2, 3)), mask.sum((1, 2, 3)))
    assert ((top.images == images) | ~clear).all()


def test_nan_is_not_ok() -> None:
    a, b = torch.tensor([1.0, math.nan]), torch.tensor([1.0, 2.0])
    error = checks._difference(a, b, relative=False)
    assert not checks.Result("op", (2,), "cpu", error, 1e9, 1.0, 1.0).ok
    assert checks._difference(torch.ones(2), torch.ones(3), relative=True) == math.inf


def test_progress_is_told_of_every_step() -> None:
    steps: list[None] = []
    train(0, 2, lambda: steps.append(None))
    assert len(steps) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "250 ms"), (0.0123, "12.3 ms"), (0.00123, "1.23 ms"), (2.5e-5, "0.025 ms")],
)
def test_milliseconds(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text


def test_colors_grow_brighter() -> None:
    import numpy as np

    brightness = colors(np.linspace(0, 1, 64)) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(brightness) > -0.5).all()  # rounding
    assert brightness[-1] - brightness[0] > 200
