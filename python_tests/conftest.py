import pytest
import torch

import facekernels as fk


def pytest_configure(config: pytest.Config) -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m cuda` marks what needs a GPU; elsewhere those tests are skipped and counted."""
    if fk.has_cuda():
        return
    reason = "needs CUDA kernels and a CUDA device"
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason=reason))
