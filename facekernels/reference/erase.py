"""Plain PyTorch of the `erase` family: the oracle of the kernels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_PRECISION = {  # significand bits, least normal exponent as math.frexp counts
    torch.float64: (53, -1021),
    torch.float32: (24, -125),
    torch.float16: (11, -13),
    torch.bfloat16: (8, -125),
}


def erase_regions(
    images: Tensor,
    attention: Tensor,
    rects: Tensor,
    fill: str | float | Tensor = "zero",
    *,
    seed: int | Tensor | None = None,
    low: float = -1.0,
    high: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Images [B, C, H, W], attention [B, 1, H, W], rects [B, N, 4] -> images, mask, anchors."""
    height, width = images.shape[2:]
    rank, order = _ranks(attention.flatten(1))
    y = torch.arange(height, device=images.device).view(1, -1, 1)
    x = torch.arange(width, device=images.device).view(1, 1, -1)
    cells = torch.arange(height * width, device=images.device)
    gone = torch.zeros_like(rank, dtype=torch.bool)
    erased = torch.zeros_like(gone)
    anchors = []
    for rect in rects.long().unbind(1):
        best = torch.where(gone, height * width, rank).amin(1, keepdim=True)
        found = best < height * width
        anchor = order.gather(1, best.clamp(max=height * width - 1))
        top = (torch.div(anchor, width, rounding_mode="floor") - rect[:, 2:3]).unsqueeze(2)
        left = (anchor % width - rect[:, 3:4]).unsqueeze(2)
        in_rows = (y >= top) & (y < top + rect[:, 0].view(-1, 1, 1))
        in_columns = (x >= left) & (x < left + rect[:, 1].view(-1, 1, 1))
        block = (in_rows & in_columns).flatten(1) & found
        erased = erased | block
        gone = gone | block | ((cells == anchor) & found)
        anchors.append(torch.where(found, anchor, -1))
    empty = rank.new_empty((rank.shape[0], 0))
    mask = erased.view(-1, 1, height, width)
    return (
        _filled(images, mask, fill, seed, low, high),
        mask,
        torch.cat(anchors, 1) if anchors else empty,
    )


def erase_top_n(
    images: Tensor,
    attention: Tensor,
    n: int | None = None,
    *,
    fraction: float | None = None,
    fill: str | float | Tensor = "zero",
    seed: int | Tensor | None = None,
    low: float = -1.0,
    high: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Images [B, C, H, W], attention [B, 1, h, w] -> images, mask [B, 1, H, W]."""
    height, width = images.shape[2:]
    if fraction is not None:
        n = round(fraction * height * width)
    assert n is not None
    if attention.shape[2:] != images.shape[2:]:
        attention = upsample(attention, height, width)
    rank, _ = _ranks(attention.flatten(1))
    mask = (rank < n).view(-1, 1, height, width)
    return _filled(images, mask, fill, seed, low, high), mask


def upsample(attention: Tensor, height: int, width: int) -> Tensor:
    """[B, 1, h, w] -> [B, 1, height, width], bilinear, align_corners=False, rows first.

    Every product and sum is rounded by itself, so that any device gives the same bits.
    """
    a = attention.to(torch.float64 if attention.dtype is torch.float64 else torch.float32)
    for dim, out in ((2, height), (3, width)):
        size = a.shape[dim]
        numerator = (2 * torch.arange(out, device=a.device) + 1) * size - out
        numerator = numerator.clamp(min=0)
        first = torch.div(numerator, 2 * out, rounding_mode="floor")
        weight = (numerator - first * (2 * out)).to(a.dtype) / torch.tensor(
            2 * out, dtype=a.dtype, device=a.device
        )
        weight = weight.view((-1, 1) if dim == 2 else (-1,))
        second = (first + 1).clamp(max=size - 1)
        a = (1 - weight) * a.index_select(dim, first) + weight * a.index_select(dim, second)
    return a


def philox_uniform(shape: tuple[int, ...], seed: int | Tensor, device: torch.device) -> Tensor:
    """float64 multiples of 2^-24 in [0, 1): the high bits of Philox4x32-10.

    Element i is word i % 4 of the draw with the counter (i // 4, 0, 0) and the key `seed`.
    """
    word = 0xFFFFFFFF
    element = torch.arange(math.prod(shape), device=device)
    block = element // 4
    key = torch.as_tensor(seed, dtype=torch.int64, device=device).reshape(())
    k0, k1 = key & word, (key >> 32) & word
    c0, c1 = block & word, block >> 32
    c2 = c3 = torch.zeros_like(block)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2  # modulo 2^64; shifted copies are masked
        c0, c1, c2, c3 = (
            ((p1 >> 32) & word) ^ c1 ^ k0, p1 & word, ((p0 >> 32) & word) ^ c3 ^ k1, p0 & word
        )  # fmt: skip
        k0, k1 = (k0 + 0x9E3779B9) & word, (k1 + 0xBB67AE85) & word
    words = torch.stack((c0, c1, c2, c3), 1).gather(1, (element % 4).unsqueeze(1))
    return ((words >> 8).double() / 2**24).view(shape)


def noise_limits(low: float, high: float, dtype: torch.dtype) -> tuple[float, float]:
    """The least and the largest value of `dtype` in [low, high)."""
    bits, least_exponent = _PRECISION[dtype]

    def step(value: float) -> float:
        exponent = math.frexp(value)[1] if value else least_exponent
        return 2.0 ** (max(exponent, least_exponent) - bits)

    below, above = step(high), step(low)
    return math.ceil(low / above) * above, (math.ceil(high / below) - 1) * below


def _ranks(attention: Tensor) -> tuple[Tensor, Tensor]:
    """Rank of every cell of [B, cells], 0 for the first to be erased, and the cells by rank."""
    values = torch.where(attention.isnan(), -torch.inf, attention)
    order = values.argsort(dim=1, descending=True, stable=True)
    return order.argsort(1), order


def _filled(
    images: Tensor, mask: Tensor, fill: str | float | Tensor, seed: int | Tensor | None,
    low: float, high: float,
) -> Tensor:  # fmt: skip
    values: Tensor
    if isinstance(fill, Tensor):
        values = fill.to(images.dtype)
    elif fill == "mean":
        values = images.mean((2, 3), keepdim=True)
    elif fill == "noise":
        assert seed is not None
        exact = torch.float64 if images.dtype is torch.float64 else torch.float32
        u = philox_uniform(tuple(images.shape), seed, images.device).to(exact)
        lowest, highest = noise_limits(low, high, images.dtype)
        span = torch.tensor(high - low, dtype=exact, device=images.device)
        start = torch.tensor(low, dtype=exact, device=images.device)
        values = (start + u * span).clamp(lowest, highest).to(images.dtype)
    else:
        number = 0.0 if isinstance(fill, str) else fill
        values = torch.tensor(number, dtype=images.dtype, device=images.device)
    return torch.where(mask, values, images)
