"""Training of SwinFace, in one or both published stages."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn

from facekernels.data.files import replacing
from facekernels.nn import PartialFC
from facekernels.systems.common.schedule import Optimization
from facekernels.systems.common.task import SystemTask
from facekernels.systems.swinface.checkpoint import load_backbone, load_network
from facekernels.systems.swinface.evaluate import attribute_accuracies, predictions, scores
from facekernels.systems.swinface.losses import MultiTaskLoss
from facekernels.systems.swinface.model import FORMAT, RECOGNITION, SYSTEM, SwinFace


class SwinFaceTask(SystemTask):
    """Recognition by a margin softmax, and 42 analysis losses, summed.

    A network without analysis tasks is the first published stage (recognition only), one with them
    the second.

    Args:
        network: the network to train.
        init_backbone: published or own checkpoint, of a first stage for one, to start the backbone
            from. Class centres are not taken over, as published.
        init_network: published or own checkpoint to take all weights from, to evaluate them or to
            train on.
        recognition_weight: factor of the recognition loss; 0 leaves it out, and the layers of the
            embedding as they are.
        task_weights: analysis task to factor, 1 where not named.
        margins: m1, m2, m3 of the combined margin: (1, 0, 0.4) is CosFace, (1, 0.5, 0) ArcFace.
        scale: s of the margin softmax.
        sample_rate: share of the classes in each step's softmax (partial FC): 0.3 in the published
            second stage, 1 in the first.
        age_sigma: of the age loss, years.
        age_start: what the age layer answers before training, years: 0 as published, which takes a
            small training most of its steps to leave.
        backbone_rate: learning rate of the backbone over that of the rest.
        backbone_clip: largest norm of the backbone's gradient; None does not clip. The published
            code clips nothing else, and trainer.gradient_clip_val stays unset.
        optimization: optimizer and schedule.
    """

    system = SYSTEM
    format = FORMAT
    network: SwinFace

    def __init__(
        self,
        network: SwinFace,
        init_backbone: str | None = None,
        init_network: str | None = None,
        recognition_weight: float = 1.0,
        task_weights: dict[str, float] | None = None,
        margins: tuple[float, float, float] = (1.0, 0.0, 0.4),
        scale: float = 64.0,
        sample_rate: float = 0.3,
        age_sigma: float = 3.0,
        age_start: float = 0.0,
        backbone_rate: float = 0.1,
        backbone_clip: float | None = 5.0,
        optimization: Optimization | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        if init_backbone is not None and init_network is not None:
            raise ValueError(
                "init_backbone and init_network must not both be given, got "
                f"{init_backbone} and {init_network}"
            )
        if age_start and "Age" in network.tasks:
            nn.init.constant_(network.om.layer("Age").bias, age_start)
        if init_backbone is not None:
            load_backbone(network, init_backbone)
        if init_network is not None:
            load_network(network, init_network)
        self.recognition_weight, self.task_weights = recognition_weight, task_weights
        self.margins, self.scale, self.sample_rate = margins, scale, sample_rate
        self.age_sigma = age_sigma
        self.backbone_rate, self.backbone_clip = backbone_rate, backbone_clip
        self.optimization = optimization or Optimization()
        self.partial_fc: PartialFC | None = None
        self._frozen: list[nn.Parameter] = []
        self.collected: dict[str, list[dict[str, Tensor]]] = {}

    def setup(self, stage: str) -> None:
        """Make the losses for the data's identities and the trainer's steps."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.check_image_size()
        if isinstance(self.trainer.strategy, FSDPStrategy):
            raise ValueError(
                "trainer.strategy must not be fsdp: the norm of the backbone's gradient, which is "
                "clipped alone, is that of a shard there; ddp is supported"
            )
        if stage != "fit":
            return
        recognition = bool(self.recognition_weight) and "recognition" in data.parts
        if not recognition and not self.network.tasks:
            raise ValueError(
                "there is nothing to train: a network without tasks needs recognition_weight above "
                f"0 and recognition images, got {self.recognition_weight} and {data.parts}"
            )
        self._make_centres(data.num_identities if recognition else 0)
        self._freeze(self._idle_parameters())
        steps = max(self.trainer.max_steps, 1)
        self.analysis = MultiTaskLoss(steps, self.task_weights, self.age_sigma)

    def teardown(self, stage: str) -> None:
        """What the training left idle may be trained by another one."""
        self._freeze([])

    def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """`total`, `Recognition` and every analysis task's loss."""
        taps = self.network.backbone.forward_taps(batch["image"])
        losses: dict[str, Tensor] = {}
        total = taps[-1].new_zeros(())
        if self.network.tasks:
            losses = self.analysis(self.network.analyse(taps), batch, step)
            total = self.analysis.total(losses)
        if self.partial_fc is not None:
            embeddings, rows = self.network.backbone.embed(taps[-1]), batch["identity"] >= 0
            recognition = self.partial_fc(embeddings[rows], batch["identity"][rows])
            total = total + self.recognition_weight * recognition
            losses = {RECOGNITION: recognition, **losses}
        return {"total": total, **losses}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        losses = self.losses(batch, self.global_step)
        rows = len(batch["image"])
        self.log("train/total", losses["total"], prog_bar=True, batch_size=rows, sync_dist=True)
        self.log_dict({f"train/{name}": value for name, value in losses.items() if name != "total"},
                      batch_size=rows)  # fmt: skip
        return losses["total"]

    def validation_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._collect(batch, dataloader_idx)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._collect(batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def configure_optimizers(self) -> Any:
        modules: list[tuple[nn.Module | None, float]] = [
            (self.network.backbone, self.backbone_rate),
            *((getattr(self.network, part, None), 1.0) for part in ("fam", "tss", "om")),
            (self.partial_fc, 1.0),
        ]
        groups = [
            {"params": list(module.parameters()), "lr_scale": scale}
            for module, scale in modules
            if module is not None
        ]
        return self.optimization.make(groups, self.trainer.max_steps, self.images_per_step)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the backbone's gradient only.

        Raises:
            ValueError: the trainer is asked to clip, too.
        """
        if gradient_clip_val is not None:
            raise ValueError(
                "trainer.gradient_clip_val must not be given: the published training clips the "
                f"backbone only (model.backbone_clip), got {gradient_clip_val}"
            )
        if self.backbone_clip is not None:
            nn.utils.clip_grad_norm_(self.network.backbone.parameters(), self.backbone_clip)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse other systems; class centres are of use to a training only."""
        super().on_load_checkpoint(checkpoint)
        if self.partial_fc is None:
            state = checkpoint["state_dict"]
            for key in [k for k in state if k.startswith("partial_fc.")]:
                del state[key]

    def _make_centres(self, identities: int) -> None:
        """Class centres; those that are there already stay, none for no identities."""
        if not identities:
            self.partial_fc = None
            return
        if self.partial_fc is None or self.partial_fc.num_classes != identities:
            self.partial_fc = PartialFC(
                self.network.settings["embedding_dim"], identities, self.scale, self.margins,
                self.sample_rate,
            )  # fmt: skip
        self.partial_fc.sparse_grad = self._takes_sparse_gradients()

    def _idle_parameters(self) -> list[nn.Parameter]:
        """Those that no loss reaches, for which DistributedDataParallel would wait in vain."""
        backbone, idle = self.network.backbone, []
        if self.partial_fc is None:
            idle += [backbone.norm, backbone.feature]
            if self.network.settings["feature"] == "local":  # the last stage feeds the embedding
                idle.append(backbone.layers[-1])
        if hasattr(backbone, "head"):
            idle.append(backbone.head)
        return [p for part in idle for p in part.parameters()]

    def _freeze(self, parameters: list[nn.Parameter]) -> None:
        """Freeze these instead of what was frozen before; the user's own stay as they are."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = [p for p in parameters if p.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def _takes_sparse_gradients(self) -> bool:
        """Only AdamW does, and DistributedDataParallel cannot average them."""
        return self.optimization.optimizer == "adamw" and self.trainer.world_size == 1

    def _collect(self, batch: dict[str, Tensor], index: int) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        stage = "test" if self.trainer.testing else "val"
        name = list(data.evaluation[stage])[index]
        self.collected.setdefault(name, []).append(predictions(self.network, batch))

    def _report(self, stage: str) -> None:
        """Log the metrics of every split, over the images of all processes, in their order."""
        collected, self.collected = self.collected, {}
        if self.trainer.sanity_checking:
            return  # a few batches, which may hold pairs of one kind only
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        for name, images in data.evaluation[stage].items():
            found = _gather(collected.get(name, []), self.trainer.world_size)
            metrics = scores(found, getattr(images, "pairs", None))
            self.log_dict({f"{stage}/{name}/{k}": v for k, v in metrics.items()},
                          prog_bar=self.network.tasks == ())  # fmt: skip
            if stage == "test":
                self._write_attributes(name, attribute_accuracies(found))

    def _write_attributes(self, name: str, accuracies: dict[str, float]) -> None:
        """A table beside the logs: ``attributes_NAME.csv``."""
        folder = self.trainer.log_dir  # a broadcast: every process has to ask
        if accuracies and self.trainer.is_global_zero and self.trainer.loggers:
            rows = [f"{attribute},{value:.6f}" for attribute, value in accuracies.items()]
            with replacing(f"{folder}/attributes_{name}.csv") as temporary:
                temporary.write_text("\n".join(["attribute,accuracy", *rows, ""]))


def _gather(parts: list[dict[str, Tensor]], world: int) -> dict[str, Tensor]:
    """What all processes have collected, in the order of the data set.

    Process r has rows r, r + world, ...: the folds of the protocols depend on the order.
    """
    ranks: list[Any] = [parts]
    if world > 1:
        ranks = [None] * world
        torch.distributed.all_gather_object(ranks, parts)
    rows = [part for rank in ranks for part in rank]
    if not rows:
        return {}
    found = {k: torch.cat([part[k] for part in rows]) for k in rows[0]}
    counts = [sum(len(next(iter(part.values()))) for part in rank) for rank in ranks]
    position = torch.cat([torch.arange(n) * world + r for r, n in enumerate(counts)])
    return {k: values[position.argsort()] for k, values in found.items()}
