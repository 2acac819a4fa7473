"""A training without command line, files or progress bar: for comparisons and tests."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning


def trainer(steps: int, **options: Any) -> lightning.Trainer:
    """A Trainer on the CPU that writes nothing."""
    defaults: dict[str, Any] = {
        "max_steps": steps, "max_epochs": -1, "accelerator": "cpu", "devices": 1,
        "use_distributed_sampler": False, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
    }  # fmt: skip
    return lightning.Trainer(**(defaults | options))


def evaluate(
    task: lightning.LightningModule, data: lightning.LightningDataModule, *, steps: int
) -> dict[str, float]:
    """Train for `steps`, then the metrics of the test split."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        loop = trainer(steps)
        loop.fit(task, data)
        found = loop.test(task, datamodule=data, verbose=False)
    return {name: value for part in found for name, value in part.items()}
