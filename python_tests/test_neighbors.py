"""neighbor_mean beyond its OpSpec: tables larger than the caches, which are summed in panels."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from facekernels import ops

_ROWS, _NEIGHBOURS = 4000, 5


def _graph(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(0, _ROWS, (_ROWS * _NEIGHBOURS,), generator=generator)
    return torch.arange(_ROWS + 1) * _NEIGHBOURS, indices


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_large_tables_bit_equal_to_few_columns(dtype: torch.dtype, weighted: bool) -> None:
    """A column's sum depends neither on the other columns nor on how they are grouped."""
    x = torch.randn(_ROWS, 13 * (1 << 20) // (_ROWS * dtype.itemsize) + 7).to(dtype)
    indptr, indices = _graph()
    weights = torch.rand(len(indices)).to(dtype) if weighted else None
    whole = ops.neighbor_mean(x, indptr, indices, weights)
    for first in range(0, x.shape[1], 100):
        few = x[:, first : first + 100].contiguous()
        want = ops.neighbor_mean(few, indptr, indices, weights)
        assert torch.equal(whole[:, first : first + 100], want), first


@pytest.mark.parametrize("variant", ["baseline", "avx2", "avx512"])
def test_every_cpu_variant_sums_large_tables(variant: str) -> None:
    """A variant the processor lacks falls back to the best one it has."""
    code = (
        "import torch; from facekernels import ops, reference\n"
        "g = torch.Generator().manual_seed(0)\n"
        "x = torch.randn(4000, 900, generator=g)\n"
        "graph = torch.arange(4001) * 5, torch.randint(0, 4000, (20000,), generator=g)\n"
        "want = reference.neighbor_mean(x.double(), *graph)\n"
        "assert (ops.neighbor_mean(x, *graph) - want).abs().max() < 1e-6\n"
    )
    environment = os.environ | {"FACEKERNELS_CPU_VARIANT": variant}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
