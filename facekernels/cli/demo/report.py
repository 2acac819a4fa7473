"""Writes the report: one HTML page that loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from statistics import geometric_mean
from typing import NamedTuple

from torch import Tensor

from facekernels.cli.demo import pictures
from facekernels.cli.demo.checks import Result
from facekernels.cli.demo.detect import Detection
from facekernels.cli.demo.terminal import HEADERS, row
from facekernels.cli.demo.train import Trained
from facekernels.cli.demo.weak_points import EPSILON, REGIONS, TOP, WeakPoints


class Facts(NamedTuple):
    """What the page says about the run itself."""

    environment: str
    seed: int
    quick: bool
    seconds: float


def html(
    trained: Trained,
    detection: Detection,
    weak: WeakPoints,
    photo: Tensor,
    results: Sequence[Result],
    facts: Facts,
) -> str:
    """The whole page."""
    style = (files("facekernels.cli.demo") / "report.css").read_text(encoding="utf-8")
    (x, y), best = detection.center.tolist(), detection.best
    failed = [r.label for r in results if not r.ok]
    mean = geometric_mean([r.speedup for r in results])
    verdict = (
        f"{len(failed)} of {len(results)} checks FAILED: {escape(', '.join(failed))}."
        if failed
        else f"All {len(results)} checks agree with the float64 reference."
    )
    windows = sum(level.heatmap.numel() for level in detection.levels)
    count = len(trained.labels)
    right = round(trained.accuracy * count)
    shift = best.cell - best.cell.new_tensor(divmod(int(best.heatmap.argmax()),
                                                    best.heatmap.shape[1])[::-1])  # fmt: skip
    moved = float(shift.norm())
    branches = "".join(
        f"<figure>{svg}<figcaption>Branch {i}</figcaption></figure>"
        for i, svg in enumerate(pictures.branch_pictures(detection, photo), 1)
    )
    command = f"facekernels demo --seed {facts.seed}{' --quick' if facts.quick else ''}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>facekernels demo</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><style>
{style}</style></head><body>{pictures.photo_definition(photo)}
<header><p class="kicker">facekernels demo</p>
<h1>A face found in {windows:,} windows, and every op checked on the way</h1>
<p class="lead">{verdict} In the geometric mean the ops take 1/{mean:.1f} of the time of the same
formulas in eager PyTorch on this machine.</p>
<dl class="facts">
<div><dt>face centre</dt><dd>{x:.0f}, {y:.0f}</dd></div>
<div><dt>face size</dt><dd>{best.face_size:.0f} px</dd></div>
<div><dt>validation crops right</dt><dd>{right} of {count}</dd></div>
<div><dt>{"checks failed" if failed else "checks passed"}</dt>
<dd class="{"bad" if failed else ""}">{len(failed) if failed else len(results)}</dd></div>
<div><dt>whole demo</dt><dd>{facts.seconds:.0f} s</dd></div>
</dl></header><main>
<section><h2>Where is the face?</h2><div class="two">
<figure>{pictures.box_picture(detection, photo)}<figcaption>The box is centred on the decoded point;
its size is that of the level with the highest score. Photograph: NASA, Eileen Collins (public
domain), shipped with scikit-image.</figcaption></figure>
<figure>{pictures.heatmap_picture(detection, photo)}<figcaption>The real heatmap of that level,
{best.heatmap.shape[1]} × {best.heatmap.shape[0]} scores, one every {best.step:.1f} pixels. Numbers
are its highest peaks, the ring is the decoded point. Windows whose centre would lie nearer to the
border than half a face are not scored.</figcaption></figure></div></section>
<section><h2>From the highest cell to a point between cells</h2><div class="two">
<figure class="patch">{pictures.patch_picture(detection)}<figcaption>The square is the integer
argmax. A Newton step on the logarithm of the smoothed map (DARK) moves it by {moved:.2f} cells,
{moved * best.step:.1f} pixels of the photograph, to the ring.</figcaption></figure>
<figure>{pictures.level_picture(detection)}<figcaption>The photograph is searched at
{len(detection.levels)} sizes, each together with its mirror image. Bars show the highest score at
each; the tallest gives the size of the box.</figcaption></figure></div></section>
<section><h2>Ops: checked, then timed</h2><div class="table"><table><thead><tr>
{"".join(f"<th>{escape(h)}</th>" for h in HEADERS)}</tr></thead>
<tbody>{_rows(results)}</tbody></table></div>
<p class="note">Max error is against the same formula in float64 (for backward rows: over output and
gradients, relative to each one's largest value, or to 1 if that is larger). Times are medians of
alternating runs on the tensors of this demo; eager is plain PyTorch in the
same precision: the formula of <code>facekernels.reference</code>, or, for
<code>decode_heatmaps</code> and <code>heatmap_peaks</code>, vectorised convolution, max-pooling and
top-k. The benchmarks of the source tree compare with stronger peers.</p></section>
<section><h2>What the channels attend to</h2>
<figure>{pictures.attention_picture(trained.model, detection)}<figcaption>Bars: the gate of each
channel in the window of the face. Ticks: its mean over all {best.heatmap.numel():,} windows of that
level.</figcaption></figure>
<div class="four">{branches}</div>
<p class="note">What each branch votes for, from its median vote (clear) to its highest (bright).
The score is the sigmoid of the sum of the four.</p></section>
<section><h2>What the decision hangs on</h2><div class="four">{_weak_points(weak)}</div>
<p class="note">The window of the face, {weak.face.pixels.shape[-1]} × {weak.face.pixels.shape[-1]}
pixels. Bright parts of the second picture are those the score is most sensitive to
(<code>gradient_attention_map</code>); erasing what lies there takes the mean grey of the window.
One perturbation of at most {255 * EPSILON:.0f}/255, trained by SGA on the 160 training crops,
changes the decision on {weak.fooled:.0%} of the {count} crops kept out; random signs of the same
size on {weak.fooled_by_noise:.1%}.</p></section>
<section><h2>How good is the classifier?</h2>
{pictures.crop_gallery(trained)}
<p class="note">The {count} crops kept out of training and their scores; {right} are on the right
side of 0.5{", wrong ones are framed" if right < count else ""}. The network is tiny, was trained
for seconds on 160 crops of 25 × 25 pixels and photographs without faces, and is here to give the
ops real work: it is no face detector to rely on.</p></section>
</main><footer><h2>Reproduce</h2><pre>pip install 'facekernels[demo]'
{command}</pre><p>{escape(facts.environment)}.</p></footer></body></html>
"""


def _weak_points(weak: WeakPoints) -> str:
    figures = (
        (pictures.crop_picture(weak.face, "The window of the face"),
         f"What is scored: {weak.face.score:.2f}"),
        (pictures.sensitivity_picture(weak), "Where the score is sensitive"),
        (pictures.crop_picture(weak.without_regions, "The window with erased rectangles"),
         f"{REGIONS} rectangles erased: {weak.without_regions.score:.2f}"),
        (pictures.crop_picture(weak.without_top, "The window with erased pixels"),
         f"Top {TOP:.0%} of the pixels erased: {weak.without_top.score:.2f}"),
        (pictures.perturbation_picture(weak), "One perturbation for all crops, stretched"),
        (pictures.crop_picture(weak.perturbed, "The window with the perturbation"),
         f"The face with it: {weak.perturbed.score:.2f}"),
    )  # fmt: skip
    return "".join(f"<figure>{s}<figcaption>{escape(c)}</figcaption></figure>" for s, c in figures)


def _rows(results: Sequence[Result]) -> str:
    lines = []
    for result in results:
        cells = row(result)
        status = f'<td><span class="badge {"ok" if result.ok else "bad"}">{cells[-1]}</span></td>'
        middle = "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:-1])
        lines.append(f"<tr><th>{escape(cells[0])}</th>{middle}{status}</tr>")
    return "".join(lines)
