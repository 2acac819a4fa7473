"""What is worn: glasses, hats, earrings, necklaces, neckties."""

from __future__ import annotations

import torch
from torch import Tensor

from facekernels.data.faces import random
from facekernels.data.faces.canvas import Canvas, Patch, column
from facekernels.data.faces.geometry import SIDES, Anatomy
from facekernels.data.faces.head import Head

_FRAME = ((0.08, 0.08, 0.10), (0.45, 0.12, 0.10), (0.20, 0.22, 0.42), (0.55, 0.45, 0.2))
_CLOTH = ((0.75, 0.15, 0.15), (0.15, 0.25, 0.6), (0.15, 0.45, 0.25), (0.2, 0.2, 0.22))
_GOLD = (0.95, 0.8, 0.3)


def _choice(a: Anatomy, name: str, table: tuple[tuple[float, float, float], ...]) -> Tensor:
    """``[n, 3]``: one of the colours for each picture."""
    at = (random.uniform(a.p.key, name) * len(table)).long()
    return torch.tensor(table, device=at.device)[at]


def draw_neckwear(canvas: Canvas, a: Anatomy) -> None:
    """A necktie with its knot, a necklace; on neck and clothes."""
    if not (a.any("Wearing Necktie") or a.any("Wearing Necklace")):
        return
    frame = a.pose.head()
    patch = canvas.patch(frame, (-0.4, 0.4), (0.5, 2.0))
    plane = patch.local(frame)
    if a.any("Wearing Necktie"):
        tie = column(a.has("Wearing Necktie"))
        colour = _choice(a, "necktie", _CLOTH)
        collar = plane.inside((plane.u.abs() - 0.26) + (plane.v - 0.78).abs_() * 0.9)
        collar = collar * plane.inside(0.72 - plane.v)
        patch.paint(collar * tie, torch.full_like(colour, 0.96))
        knot = plane.inside(plane.u.abs() - 0.06 + (plane.v - 0.76) * 0.2)
        knot = knot * plane.inside((plane.v - 0.785).abs_() - 0.05)
        blade = plane.inside(plane.u.abs() - (plane.v - 0.8) * 0.18 - 0.035)
        blade = blade * plane.inside(0.83 - plane.v)
        patch.paint(blade * tie, colour)
        patch.paint(knot * tie, colour * 0.8)
    if a.any("Wearing Necklace"):
        bow = (plane.u * plane.u) * -1.9
        string = plane.line(plane.v - 0.86 - bow, 0.016) * plane.inside(plane.u.abs() - 0.29)
        string = torch.maximum(string, plane.ellipse(0.0, 0.885, 0.04, 0.045))
        gold = patch.rgb.new_tensor(_GOLD).expand(len(a.p), 3)
        patch.paint(string * column(a.has("Wearing Necklace")), gold)
    canvas.put(patch)


def draw_earrings(canvas: Canvas, a: Anatomy) -> None:
    """At the lobes; one is hidden where its ear is."""
    if not a.any("Wearing Earrings"):
        return
    gold = canvas.rgb.new_tensor(_GOLD).expand(len(a.p), 3)
    frame = a.pose.head()
    for side in SIDES:
        x = a.half_width * side * 1.04
        u, v = a.pose.seen(x, torch.full_like(x, 0.19), -0.04)
        behind = (a.pose.sin_yaw * side * 3 - 0.2).clamp(0, 1)
        worn = column(a.has("Wearing Earrings") * (1 - behind))
        lobe = frame.moved(u, v)
        patch = canvas.patch(lobe, (-0.05, 0.05), (-0.06, 0.06))
        plane = patch.local(lobe)
        patch.paint(plane.ellipse(0.0, 0.0, 0.042, 0.052) * worn, gold)
        patch.paint(plane.ellipse(0.0, 0.0, 0.017, 0.022) * worn, gold * 0.55)
        canvas.put(patch)


def draw_glasses(canvas: Canvas, a: Anatomy) -> None:
    """Two rims, a bridge and temples, lenses slightly bright."""
    if not a.any("Eyeglasses"):
        return
    worn = column(a.has("Eyeglasses"))
    colour = _choice(a, "glasses", _FRAME)
    for side in SIDES:
        frame = a.pose.frame(a.eye_x * side * 1.03, a.eye_y + 0.01, 0.05, side)
        patch = canvas.patch(frame, (-0.24, 0.32), (-0.16, 0.16))
        plane = patch.local(frame)
        outer = plane.ellipse(0.0, 0.0, 0.148, 0.118)
        inner = plane.ellipse(0.0, 0.0, 0.126, 0.096)
        patch.paint(inner * worn * 0.14, torch.ones_like(colour))
        patch.paint((outer - inner).clamp_(min=0) * worn, colour)
        inwards = column(a.eye_x * 1.03) * -1
        bridge = plane.line(plane.v + 0.03, 0.013) * plane.inside(plane.u + 0.138)
        bridge = bridge * plane.inside(inwards - plane.u)
        temple = plane.line(plane.v + 0.03, 0.013) * plane.inside(0.14 - plane.u)
        temple = temple * plane.inside(plane.u - column(a.half_width - a.eye_x * 1.03 + 0.02))
        patch.paint(torch.maximum(bridge, temple) * worn, colour)
        canvas.put(patch)


def draw_hat(head: Head, patch: Patch, a: Anatomy) -> Tensor | None:
    """A dome, a band and a brim above the eyebrows. Returns the coverage."""
    if not a.any("Wearing Hat"):
        return None
    plane = head.plane
    worn = column(a.has("Wearing Hat"))
    colour = _choice(a, "hat", _CLOTH)
    v = plane.v - column(head.turned[1])
    brim_v = -0.34 - 0.04 * a.p.named("forehead")
    half = a.half_width + 0.11
    height = a.top + 0.16 + brim_v
    high = (v - column(brim_v)).clamp(max=0) / column(height)
    across = plane.u / column(half)
    dome = plane.inside((across * across + high * high - 1).mul_(0.5 * column(half)))
    dome = dome * plane.inside(v - column(brim_v))
    bow = (plane.u * plane.u) * 0.25
    brim = plane.line(v - bow - column(brim_v), 0.04) * plane.inside(
        plane.u.abs() - column(half + 0.1)
    )
    patch.paint(dome * worn, colour)
    band = plane.line(v - column(brim_v - 0.08), 0.035) * dome
    patch.paint(band * worn, colour * 0.5)
    patch.paint(brim * worn, colour * 0.75)
    return torch.maximum(dome, brim) * worn
