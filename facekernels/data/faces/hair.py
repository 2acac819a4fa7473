"""Everything that grows on a head except brows and lashes."""

from __future__ import annotations

import torch
from torch import Tensor

from facekernels.data.faces.canvas import Canvas, Patch, column, wave
from facekernels.data.faces.geometry import Anatomy
from facekernels.data.faces.head import Head
from facekernels.data.faces.palette import Palette


def length(a: Anatomy) -> Tensor:
    """``[n]``: where hair ends, in head units below the eyes; negative above the ears."""
    female = 1 - a.p.has("Gender").float()
    return 0.02 + female * (0.55 + 0.35 * a.p.named("hair_length"))


def _ripple(head: Head, a: Anatomy) -> Tensor:
    """Waves of the outline of wavy hair."""
    return wave(head.plane.v * 4.5).mul_(column(a.has("Wavy Hair") * 0.045))


def draw_back(head: Head, patch: Patch, a: Anatomy, colours: Palette) -> None:
    """Behind neck and head."""
    plane = head.plane
    end = length(a)
    volume = 0.09 + 0.03 * a.p.named("hair_volume") + 0.03 * a.has("Wavy Hair")
    half = a.half_width + volume
    shift = a.pose.sin_yaw * -0.1
    u = (plane.u - column(shift)).abs_() - _ripple(head, a)
    # A dome above and a curtain down to the end.
    high = (-plane.v).clamp_(min=0) / column(a.top + volume * 0.9)
    widen = (plane.v.clamp(0, 1) * 0.12) * column(1 - a.has("Straight Hair"))
    across = u / (widen + column(half))
    distance = (across * across + high * high - 1).mul_(0.5).mul_(column(half))
    curtain = plane.inside(distance) * plane.inside(plane.v - column(end))
    patch.paint(curtain * column(1 - a.has("Bald")), colours.hair * 0.78)


def draw_front(head: Head, patch: Patch, a: Anatomy, colours: Palette) -> Tensor:
    """Over the forehead and the sides. Returns the coverage."""
    plane = head.plane
    bald, bangs, receding = a.has("Bald"), a.has("Bangs"), a.has("Receding Hairline")
    volume = 0.09 + 0.03 * a.p.named("hair_volume") + 0.03 * a.has("Wavy Hair")
    u = plane.u - column(head.turned[0])
    v = plane.v - column(head.turned[1])

    # The cap: an ellipse somewhat larger than the skull, with the sides down to the ears.
    half = a.half_width + 0.035 + volume * 0.25
    p = plane.u.abs().sub_(_ripple(head, a)) / column(half)
    high = torch.clamp(plane.v, max=0.0) / column(head.top - volume * (1 - bald))
    cap = plane.inside((p * p + high * high - 1).mul_(0.5 * column(half)))

    # The hairline: up over the forehead, down at the temples.
    line = -0.36 - 0.03 * a.p.named("hairline") - 0.05 * a.old - 0.02 * a.child + 0.02 * a.female
    line = line + bangs * 0.15 - receding * 0.08
    x = (u / column(a.half_width)).abs_()
    x2 = (x * x).clamp_(max=1.0)
    temple = x2 * x2 * x2 * column(0.42 - 0.2 * receding)
    corner = (1 - (x - 0.55).abs_() * 3).clamp_(min=0).mul_(column(receding * 0.16))
    fringe = wave(u * 5.0 + 0.25).mul_(column(bangs * 0.03))
    edge = temple - corner + fringe + column(line)
    front = plane.inside(v - edge)

    # Long hair falls in front of the ears.
    end = length(a)
    strand = plane.inside((column(a.half_width * 0.9) - plane.u.abs()).add_(_ripple(head, a)))
    strand = strand * plane.inside(plane.v - column(end.clamp(max=0.45)))
    long = column((end > 0.2).float())
    bald_sides = plane.inside(0.86 - x) * plane.inside((v + 0.06).abs_() - 0.2)
    keep = column(1 - bald)
    cover = torch.maximum(front, strand * long) * keep
    cover = torch.maximum(cover, bald_sides * column(bald)) * cap
    patch.paint(cover, colours.hair)
    _texture(head, patch, a, cover, u)
    if a.any("Bald"):
        shine = plane.blob(a.pose.sin_yaw * 0.2, head.top * 0.62, 0.2, 0.1)
        patch.paint(shine * column(bald * 0.5), colours.skin * 0.4 + 0.6)
    return cover


def _texture(head: Head, patch: Patch, a: Anatomy, cover: Tensor, u: Tensor) -> None:
    """Light and dark strands: vertical in straight hair, curling in wavy hair."""
    straight, wavy = a.has("Straight Hair"), a.has("Wavy Hair")
    bend = wave(head.plane.v * 3.2).mul_(column(wavy * 0.07))
    strands = wave((u.abs() + bend) * 6.5 + 0.25)
    shine = strands.mul_(column(0.06 + 0.17 * straight + 0.19 * wavy))
    patch.rgb *= (shine * cover).add_(1)[:, None]


def draw_beard(head: Head, patch: Patch, a: Anatomy, colours: Palette) -> None:
    """Stubble, a full beard and sideburns, on the lower face below the mouth's layer."""
    plane = head.plane
    x2 = (head.across * head.across).clamp_(max=1.2)
    shadow = a.has("Five O'Clock Shadow")
    full = (1 - a.has("No Beard")) * (1 - a.has("Goatee")) * (1 - shadow)
    if bool((shadow + full).any()):
        edge = column(a.mouth_y - 0.06) - x2 * x2 * column(a.mouth_y + 0.02)
        area = plane.soft(edge + column(head.turned[1]) - plane.v, 0.08) * head.mask
        patch.paint(area * column(shadow * 0.5), colours.hair * 0.4 + 0.06)
        patch.paint(area * column(full * 0.92), colours.hair * 0.85)
    if a.any("Sideburns"):
        x = x2.sqrt()
        strip = plane.inside(0.8 - x) * plane.inside((plane.v - 0.06).abs_() - 0.2)
        patch.paint(strip * head.mask * column(a.has("Sideburns")), colours.hair * 0.9)


def draw_goatee(canvas: Canvas, a: Anatomy, colours: Palette) -> None:
    """Around the chin; under the mouth's layer."""
    if not a.any("Goatee"):
        return
    chin = a.bottom
    frame = a.pose.frame(torch.zeros_like(chin), (a.mouth_y + chin) * 0.5 + 0.03, 0.03)
    patch = canvas.patch(frame, (-0.3, 0.3), (-0.3, 0.3))
    plane = patch.local(frame)
    tuft = plane.ellipse(0.0, 0.02, 0.125, (chin - a.mouth_y) * 0.42)
    patch.paint(tuft * column(a.has("Goatee") * 0.95), colours.hair * 0.85)
    canvas.put(patch)


def draw_mustache(canvas: Canvas, a: Anatomy, colours: Palette) -> None:
    """Between nose and mouth."""
    if not a.any("Mustache"):
        return
    frame = a.mouth.moved(0.0, (a.nose_y - a.mouth_y) * 0.42)
    patch = canvas.patch(frame, (-0.3, 0.3), (-0.2, 0.25))
    plane = patch.local(frame)
    bow = (plane.u * plane.u) * 1.6
    body = (1 - (plane.u / 0.2) * (plane.u / 0.2)).clamp_(min=0) * 0.042
    mask = plane.inside((plane.v - bow).abs_() - body) * plane.inside(plane.u.abs() - 0.2)
    patch.paint(mask * column(a.has("Mustache") * 0.95), colours.hair * 0.8)
    canvas.put(patch)
