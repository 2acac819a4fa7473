"""The LightningDataModule that the trained systems derive from."""

from __future__ import annotations

import signal
from typing import Any

import lightning
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from facekernels.systems.common.steps import ShardOfRank, StepBatches, StepLoader

# With 16 streams each, and shifted as `StepBatches` does, they fit 63 bits.
_SEEDS = 2**19


class StepData(lightning.LightningDataModule):
    """Loaders by step for training, and of every image once for evaluation.

    Args:
        batch_size: images per step, over all processes.
        eval_batch_size: images per batch of an evaluation, in each process.
        workers: loader processes.
        seed: of order and augmentation.
    """

    def __init__(
        self, batch_size: int = 32, eval_batch_size: int = 256, workers: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.workers = workers
        self.seed = seed

    def step_loader(self, data: Dataset[Any], weights: Tensor | None = None) -> StepLoader:
        """Training batches of `data`, from the step the trainer stands at."""
        batches = self.step_batches(len(data), self.batch_size, weights)  # type: ignore[arg-type]
        return StepLoader(data, batch_sampler=batches, **self.loader_options(data))

    def step_batches(
        self, length: int, batch_size: int, weights: Tensor | None = None, stream: int = 0
    ) -> StepBatches:
        """This process's batches of `length` images, from the step the trainer stands at.

        Data sets of one training have different `stream`s, 0 to 15, so that they draw differently.

        Raises:
            ValueError: the trainer has no number of steps, or validates after none.
        """
        assert self.trainer is not None
        trainer = self.trainer
        if trainer.max_steps < 1:
            raise ValueError(
                "training is counted in steps: trainer.max_steps must be at least 1, got "
                f"{trainer.max_steps}"
            )
        if trainer.val_check_interval == 0:
            raise ValueError(
                "trainer.val_check_interval must be at least 1 (trainer.limit_val_batches 0 leaves "
                "validation out), got 0"
            )
        accumulate = trainer.accumulate_grad_batches
        return StepBatches(
            length,
            batch_size,
            trainer.max_steps * accumulate,
            seed=self.seed % _SEEDS * 16 + stream,
            weights=weights,
            start=trainer.global_step * accumulate,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )

    def eval_loader(self, data: Dataset[Any]) -> DataLoader[Any]:
        """Every image of `data` once, shared by the processes."""
        assert self.trainer is not None
        shard = ShardOfRank(data, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(data, self.eval_batch_size, sampler=shard, **self.loader_options(data))

    def loader_options(self, data: Dataset[Any]) -> dict[str, Any]:
        """Arguments that every loader of this module gets."""
        assert self.trainer is not None
        return {
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "worker_init_fn": _ignore_ctrl_c,
            "pin_memory": self.trainer.strategy.root_device.type == "cuda",
            # A data set that fetches a whole batch has put it together already.
            "collate_fn": _as_it_is if hasattr(data, "__getitems__") else None,
        }


def _ignore_ctrl_c(worker: int) -> None:
    """The training ends its workers, after the running step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch
