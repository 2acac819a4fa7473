"""Keypoints from heatmaps: the decoders of the pose and face-alignment literature."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from facekernels import _check
from facekernels._op import Op, launch, use_reference
from facekernels.ops.keypoints import Keypoints
from facekernels.reference import heatmap as reference

_DECODE = Op(
    "decode_heatmaps(Tensor heatmaps, int method, int compat, int kernel, float threshold, "
    "float invalid_x, float invalid_y, float radius_factor, bool clamp, Tensor(a!) xy, "
    "Tensor(b!) score, Tensor(c!) valid) -> ()"
)
_SIMCC = Op(
    "decode_simcc(Tensor x, Tensor y, bool dark, bool exact, int kernel, float split, "
    "float threshold, float invalid_x, float invalid_y, bool clamp, Tensor(a!) xy, "
    "Tensor(b!) score, Tensor(c!) valid) -> ()"
)

# Both in the order of heatmap_rules.h.
_METHODS = {
    name: number
    for number, name in enumerate(
        ("argmax", "shift", "dark", "udp", "udp_combined", "megvii", "mspn")
    )
}
# The methods each peer has.
_COMPAT = {
    "hrnet": ("argmax", "shift"),
    "mmpose": ("argmax", "shift", "dark", "udp", "udp_combined", "megvii"),
    "darkpose": ("argmax", "dark"),
    "udp": ("udp", "udp_combined"),
    "vitpose": ("udp",),
    "megvii": ("megvii",),
    "mspn": ("mspn",),
    "face_alignment": ("shift",),
}
_COMPAT_NUMBER: dict[str | None, int] = {None: 0}
_COMPAT_NUMBER.update({name: number for number, name in enumerate(_COMPAT, 1)})
_MAX_TAPS = 65  # of heatmap.h
_NOTHING = -math.inf


def decode_heatmaps(
    heatmaps: Tensor,
    method: str = "dark",
    *,
    kernel: int = 11,
    threshold: float | None = None,
    invalid: tuple[float, float] = (-1.0, -1.0),
    clamp: bool = True,
    compat: str | None = None,
    radius_factor: float = 0.0546875,
) -> Keypoints:
    """One keypoint per heatmap, refined below the pixel, in one read of each map.

    Equivalent for ``method="argmax"`` to::

        score, index = heatmaps.flatten(2).max(-1)
        return torch.stack((index % W, index // W), -1).float(), score, score > 0

    The other methods start from there (``h``: the map, ``(x, y)``: its maximum):

    - ``"shift"``: a quarter pixel towards the larger neighbour, along both axes where both have
      ``1 < p < size - 1`` (Xiao et al., arXiv 1804.06208; HRNet).
    - ``"dark"``: h is blurred (`kernel` taps, zeros outside), scaled back to its maximum, clamped
      at 1e-10; where ``1 < p < size - 2``, a Newton step on its logarithm with differences over two
      pixels (Zhang et al., arXiv 1910.06278, equations 8 and 9).
    - ``"udp"``: the same clamped to [1e-3, 50], differences over one pixel, at the border too, with
      the nearest value outside (Huang et al., arXiv 1911.07524, as MMPose 1.x does it).
    - ``"udp_combined"``: three maps per joint: a disc, and the offsets to its centre along x and y
      in units of ``radius_factor * max(H, W)`` pixels, read at the maximum of the disc blurred by
      ``2 * kernel + 1`` taps.
    - ``"megvii"``: "shift" on the blurred map, plus half a pixel wherever it is refined; score /
      255 + 0.5 (Chen et al., arXiv 1711.07319, as MMPose does it).
    - ``"mspn"``: a quarter pixel from the maximum of the blurred map towards its second one, plus
      half a pixel; the score is that of h at the refined point / 255 + 0.5 (arXiv 1901.00148).

    The contract: heatmaps are not written. A NaN never wins; equal values give the first in
    row-major order. A map without a positive value has no keypoint: ``valid`` is false and
    ``xy`` is `invalid`. A refinement moves at most one pixel ("udp_combined": one radius) along
    each axis, not at all where it is not finite, and the result stays within
    ``[0, W-1] x [0, H-1]``. Maps do not influence each other. DARK and UDP blur only the few
    points they look at.

    Args:
        heatmaps: ``[B, K, H, W]`` (``[B, 3 K, H, W]`` for "udp_combined"), float32, float64,
            float16 or bfloat16; a layout whose rows are not dense (channels_last) is copied once.
            B = 0 and K = 0 give empty results; H and W must be at least 1.
        method: see above.
        kernel: taps of the blur, odd, 1 to 65 (to 31 for "udp_combined"), its sigma as in OpenCV
            (11: 2.0, 17: 2.9). It may be larger than the map.
        threshold: a score must exceed it to be valid. None: any positive maximum is.
        invalid: ``(x, y)`` of joints that are not valid.
        clamp: keep results inside the map.
        compat: the name of an implementation whose numbers are wanted exactly, defects included.
            It replaces the contract: a NaN wins as in NumPy, nothing is clamped, joints without a
            maximum are where the peer puts them, and `invalid` and `clamp` are not used.

            - ``"hrnet"`` (argmax, shift), ``"darkpose"`` (argmax, dark): (0, 0) if nothing found.
            - ``"mmpose"`` 1.x (all but mspn): (-1, -1); the axes of shift are independent. UDP
              gives NaN (for maps of negative numbers MMPose reads another joint instead).
            - ``"udp"``, the original code (udp, udp_combined): the map is mirrored at the border
              and not rescaled; the radius is ``radius_factor * H``.
            - ``"vitpose"`` of transformers (udp; `kernel` is 3 there): sigma 0.8, mirrored, not
              rescaled; (-1, -1) is refined with values of the joint before.
            - ``"megvii"``: as ``"mmpose"``. ``"mspn"``: multiply by 4 for the network's input.
            - ``"face_alignment"`` (shift): half a pixel more, no refinement from 63 on, and the row
              is index // H, which is wrong unless H = W.
        radius_factor: of "udp_combined".

    Returns:
        `Keypoints`: xy ``[B, K, 2]`` in heatmap pixels and score ``[B, K]`` in float32 (float64 for
        float64 maps), valid ``[B, K]``. They never require grad: a maximum's position has no
        gradient (`soft_argmax` has one). All arithmetic is in float32 (float64).

    Raises:
        TypeError: heatmaps is not a floating-point tensor, or kernel not an int.
        ValueError: a shape, name or number does not fit.
    """
    _check.floating("heatmaps", heatmaps)
    if heatmaps.ndim != 4:
        raise ValueError(f"heatmaps must be [B, K, H, W], got shape {_check.shape_of(heatmaps)}")
    _check.one_of("method", method, tuple(_METHODS))
    number = _METHODS[method]
    if compat is not None:
        _check.one_of("compat", compat, tuple(_COMPAT))
        if method not in _COMPAT[compat]:
            offered = " or ".join(repr(m) for m in _COMPAT[compat])
            raise ValueError(f"compat={compat!r} goes with method {offered}, got {method!r}")
    joints = heatmaps.shape[1]
    if method == "udp_combined":
        if joints % 3:
            raise ValueError(
                f"heatmaps must be [B, 3 K, H, W] for 'udp_combined', got {joints} maps"
            )
        joints //= 3
    _nonempty("heatmaps", heatmaps.shape[2:])
    _odd(kernel, _MAX_TAPS // 2 - 1 if method == "udp_combined" else _MAX_TAPS)
    limit = _limit(threshold)
    invalid_x, invalid_y = _pair(invalid)
    if not radius_factor > 0 or radius_factor == math.inf:
        raise ValueError(f"radius_factor must be positive and finite, got {radius_factor}")
    if use_reference():
        return Keypoints(
            *reference.decode_heatmaps(
                heatmaps, method, kernel=kernel, threshold=threshold, invalid=invalid, clamp=clamp,
                compat=compat, radius_factor=radius_factor,
            )
        )  # fmt: skip
    maps = _dense_rows(heatmaps)
    out = _outputs(maps, joints)
    launch(
        _DECODE, maps, number, _COMPAT_NUMBER[compat], kernel, limit, invalid_x, invalid_y,
        float(radius_factor), clamp, *out,
    )  # fmt: skip
    if compat == "vitpose" and out.score.numel():
        offset = reference.neighbor_offset(
            maps if maps.dtype is out.xy.dtype else maps.float(), kernel
        )
        moved = out.xy + offset.to(out.xy.dtype)
        return Keypoints(out.xy.where((out.score > 0).unsqueeze(-1), moved), out.score, out.valid)
    return out


def decode_simcc(
    x: Tensor,
    y: Tensor,
    *,
    split: float = 2.0,
    method: str = "argmax",
    kernel: int = 11,
    threshold: float | None = None,
    invalid: tuple[float, float] = (-1.0, -1.0),
    clamp: bool = True,
    compat: str | None = None,
) -> Keypoints:
    """Keypoints from SimCC's two one-dimensional maps per joint.

    Equivalent for ``method="argmax"`` to::

        (sx, ix), (sy, iy) = x.max(-1), y.max(-1)
        score = torch.minimum(sx, sy)
        return torch.stack((ix, iy), -1) / split, score, score > 0

    ``"dark"`` blurs each line (`kernel` taps, zeros outside), scales it back to its maximum, clamps
    to [1e-3, 50] and takes a Newton step on its logarithm with differences over two bins. The
    contract is that of `decode_heatmaps`, a refinement moving at most one bin.

    Args:
        x: ``[B, K, Nx]``, float32, float64, float16 or bfloat16.
        y: ``[B, K, Ny]``, the same dtype and device.
        split: bins per pixel, positive.
        method: ``"argmax"`` or ``"dark"``.
        kernel: taps of the blur, odd, 1 to 65. MMPose: ``int((20 * sigma - 7) // 3)``, made odd.
        threshold: a score must exceed it to be valid.
        invalid: ``(x, y)`` of joints that are not valid.
        clamp: keep results inside the lines.
        compat: ``"mmpose"`` or None. With ``"mmpose"`` a NaN wins, nothing is clamped and joints
            without a maximum are at -1 / split (NaN with "dark").

    Returns:
        `Keypoints`: xy ``[B, K, 2]`` in pixels (bins / split), score ``[B, K]`` the smaller of the
        two maxima, valid ``[B, K]``; they never require grad.

    Raises:
        TypeError: x or y is not a floating-point tensor, or kernel not an int.
        ValueError: a shape, dtype, device, name or number does not fit.

    Source: SimCC (Li et al., arXiv 2107.03332).
    """
    for name, line in (("x", x), ("y", y)):
        _check.floating(name, line)
        if line.ndim != 3:
            raise ValueError(f"{name} must be [B, K, N], got shape {_check.shape_of(line)}")
    _check.same_device("y", y, "x", x)
    if y.dtype is not x.dtype:
        raise TypeError(f"y must be {str(x.dtype)[6:]} like x, got {str(y.dtype)[6:]}")
    _check.shape("y", y, (*x.shape[:2], y.shape[2]), "[B, K, N]")
    _check.one_of("method", method, ("argmax", "dark"))
    if compat is not None:
        _check.one_of("compat", compat, ("mmpose",))
    for name, line in (("x", x), ("y", y)):
        if line.shape[2] == 0:
            raise ValueError(f"{name} must have at least 1 bin, got shape {_check.shape_of(line)}")
    _odd(kernel, _MAX_TAPS)
    if not 0 < split < math.inf:
        raise ValueError(f"split must be positive and finite, got {split}")
    limit = _limit(threshold)
    invalid_x, invalid_y = _pair(invalid)
    if use_reference():
        return Keypoints(
            *reference.decode_simcc(
                x, y, split=split, method=method, kernel=kernel, threshold=threshold,
                invalid=invalid, clamp=clamp, compat=compat,
            )
        )  # fmt: skip
    x, y = _dense_rows(x), _dense_rows(y)
    out = _outputs(x, x.shape[1])
    launch(
        _SIMCC, x, y, method == "dark", compat is not None, kernel, float(split), limit, invalid_x,
        invalid_y, clamp, *out,
    )  # fmt: skip
    return out


def _nonempty(name: str, size: torch.Size) -> None:
    if size[0] == 0 or size[1] == 0:
        raise ValueError(f"{name} must have maps of at least 1 x 1, got {size[0]} x {size[1]}")


def _odd(kernel: int, largest: int) -> None:
    if isinstance(kernel, bool) or not isinstance(kernel, int):
        raise TypeError(f"kernel must be an int, got {type(kernel).__name__}")
    if kernel < 1 or kernel % 2 == 0 or kernel > largest:
        raise ValueError(f"kernel must be odd, from 1 to {largest}, got {kernel}")


def _limit(threshold: float | None) -> float:
    if threshold is None:
        return _NOTHING
    if math.isnan(threshold):
        raise ValueError("threshold must be a number or None, got nan")
    return float(threshold)


def _pair(invalid: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(invalid, tuple | list) or len(invalid) != 2:
        raise ValueError(f"invalid must be a pair (x, y), got {invalid!r}")
    return float(invalid[0]), float(invalid[1])


def _dense_rows(t: Tensor) -> Tensor:
    """Kernels walk rows; they see a plain tensor that does not ask for a gradient."""
    if t.requires_grad:
        t = t.detach()
    t = _check.resolve_neg(t)
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def _outputs(like: Tensor, joints: int) -> Keypoints:
    shape = (like.shape[0], joints)
    dtype = _check.wide_dtype(like)
    return Keypoints(
        torch.empty((*shape, 2), dtype=dtype, device=like.device),
        torch.empty(shape, dtype=dtype, device=like.device),
        torch.empty(shape, dtype=torch.bool, device=like.device),
    )
