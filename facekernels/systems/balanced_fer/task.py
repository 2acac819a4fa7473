"""Training of imbalanced expression recognition."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor

from facekernels.metrics import classification
from facekernels.nn import RebalancedAttentionConsistency, class_balance_weights
from facekernels.systems.balanced_fer.losses import classification_loss
from facekernels.systems.balanced_fer.model import FORMAT, SYSTEM, ExpressionNet, load_backbone
from facekernels.systems.common.checkpoint import ENTRY
from facekernels.systems.common.schedule import Optimization
from facekernels.systems.common.task import SystemTask


class ExpressionTask(SystemTask):
    """Re-balanced smooth labels and re-balanced attention consistency, and their peers.

    The loss of a step is classification(logits of the view) + consistency * RAC(view, its mirror).
    Class weights come from the class sizes of the training split.

    Args:
        backbone: swin_t, resnet18, resnet50, resnet (with `layers` and `width`), mobilenet_v2.
        backbone_options: arguments of the backbone, such as drop_path_rate.
        image_size: side of the images, pixels; that of the data.
        num_classes: K.
        init_backbone: checkpoint of a face-recognition backbone to start from.
        classification: the loss of the logits: rsl is the method's, the others its peers.
        epsilon: how much probability rsl gives to the other classes. 0.3 in the released Swin-T
            code, 0.1 in the ResNet recipe.
        consistency: lambda, the factor of the attention consistency; 0 leaves it out, and the
            mirrored view with it. 0.1 in the released Swin-T code, 2 in the ResNet recipe.
        consistency_weights: by class size (the method), or equal (EAC).
        weights: scheme of the class weights: mek N / (10 n_k), mean1, sklearn N / (K n_k).
        gamma: exponent of focal.
        tau: strength of logit_adjustment.
        optimization: optimizer and schedule.
    """

    system = SYSTEM
    format = FORMAT
    network: ExpressionNet

    def __init__(
        self,
        backbone: str = "swin_t",
        backbone_options: dict[str, Any] | None = None,
        image_size: int = 112,
        num_classes: int = 7,
        init_backbone: str | None = None,
        classification: Literal[
            "cross_entropy", "weighted", "focal", "logit_adjustment", "rsl"
        ] = "rsl",
        epsilon: float = 0.3,
        consistency: float = 0.1,
        consistency_weights: Literal["balanced", "equal"] = "balanced",
        weights: Literal["mek", "mean1", "sklearn"] = "mek",
        gamma: float = 2.0,
        tau: float = 1.0,
        optimization: Optimization | None = None,
    ) -> None:
        super().__init__()
        if consistency < 0:
            raise ValueError(f"consistency must be at least 0, got {consistency}")
        options = backbone_options or {}
        taken = sorted({"backbone", "num_classes", "image_size"} & options.keys())
        if taken:
            raise ValueError(
                f"backbone_options must not hold {', '.join(taken)}, which the model has itself"
            )
        self.network = ExpressionNet(backbone, num_classes, image_size, **options)
        if init_backbone is not None:
            load_backbone(self.network, init_backbone)
        self.classification = classification
        self.epsilon, self.gamma, self.tau = epsilon, gamma, tau
        self.consistency, self.consistency_weights = consistency, consistency_weights
        self.weights = weights
        self.optimization = optimization or Optimization()
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def setup(self, stage: str) -> None:
        """Take names of classes, and for training their sizes, from the data."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        num_classes = self.network.settings["num_classes"]
        if len(data.class_names) != num_classes:
            raise ValueError(
                f"num_classes must be {len(data.class_names)}, the classes of the data, got "
                f"{num_classes}"
            )
        self.network.class_names = data.class_names
        self.check_image_size()
        if stage == "fit":
            self.make_losses(data.class_counts)

    def make_losses(self, counts: Tensor) -> None:
        """Losses for training classes of sizes `counts` (``[K]``)."""
        self.loss = classification_loss(
            self.classification, counts, epsilon=self.epsilon, weights=self.weights,
            gamma=self.gamma, tau=self.tau, names=self.network.class_names,
        )  # fmt: skip
        weights = class_balance_weights(counts, self.weights).float()
        if self.consistency_weights == "equal":
            weights = torch.ones_like(weights)
        self.attention = RebalancedAttentionConsistency(weights)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`total` and its parts, of augmented ``[B, 3, S, S]`` images.

        The second view is the exact mirror of the first; both go through the network together.
        """
        network = self.network
        if not self.consistency:
            loss = self.loss(network(images), labels)
            return {"total": loss, "classification": loss}
        features = network.features(torch.cat([images, images.flip(-1)]))
        view, mirror = features.chunk(2)
        loss = self.loss(network.classify(view), labels)
        attention = self.attention(view, mirror, network.head.weight)
        return {
            "total": loss + self.consistency * attention,
            "classification": loss,
            "consistency": attention,
        }

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        losses = self.losses(batch["image"], batch["label"])
        self.log_dict({f"train/{name}": value for name, value in losses.items()},
                      prog_bar=True, batch_size=len(batch["label"]), sync_dist=True)  # fmt: skip
        return losses["total"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._count(batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._count(batch)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        matrix = self._report("test")
        folder = self.trainer.log_dir  # a broadcast: every process has to ask
        if self.trainer.is_global_zero and self.trainer.loggers:
            classification.save_confusion_picture(
                f"{folder}/confusion.png", matrix, self.network.class_names
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the outputs mean, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[ENTRY]["class_names"] = list(self.network.class_names)

    def configure_optimizers(self) -> Any:
        groups = [{"params": list(self.network.parameters())}]
        return self.optimization.make(groups, self.trainer.max_steps, self.images_per_step)

    def _count(self, batch: dict[str, Tensor]) -> None:
        predicted = self.network(batch["image"]).argmax(1)
        self.confusion += classification.confusion_matrix(
            batch["label"].cpu(), predicted.cpu(), len(self.confusion)
        )

    def _report(self, stage: str) -> Tensor:
        """Log the accuracies of all processes together, and start anew."""
        matrix = self.confusion
        if self.trainer.world_size > 1:
            gathered = cast(Tensor, self.all_gather(matrix.to(self.device)))
            matrix = gathered.sum(0).cpu()
        self.confusion = torch.zeros_like(self.confusion)
        recall = classification.recalls(matrix)
        self.log(f"{stage}/accuracy", classification.accuracy(matrix), prog_bar=True)
        self.log(f"{stage}/mean_accuracy", classification.mean_accuracy(matrix), prog_bar=True)
        self.log_dict(
            {
                f"{stage}/recall/{name}": r
                for name, r in zip(self.network.class_names, recall, strict=True)
            }
        )
        return matrix
