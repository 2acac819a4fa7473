"""Universal adversarial perturbations by SGA, and by SPGD, which is SGA without an inner loop."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from facekernels import _check
from facekernels.ops import sga_inner_step_, sga_outer_step_, uap_apply
from facekernels.systems.sga.checkpoint import load_checkpoint, save_checkpoint
from facekernels.systems.sga.distributed import Group
from facekernels.systems.sga.ensemble import Ensemble
from facekernels.systems.sga.losses import Loss, make_loss
from facekernels.systems.sga.perturbation import UniversalPerturbation
from facekernels.systems.sga.sampling import Draw, GeneratorDraw, Resumable, Rows, check_rows

_SMALLEST_SCALE = 2.0**-24


class HasImages(Protocol):
    """A data set that keeps its images as one tensor."""

    @property
    def images(self) -> Tensor: ...


class UAPTrainer:
    """Trains one perturbation ``delta [C, H, W]`` that fools models on most images.

    Per epoch, the images are visited in large batches of n. Each large batch::

        labels = argmax of the model on the clean images
        inner, accumulator = delta, 0
        M = floor(k * n / b) times, with b = min(small_batch, n):
            draw b of the n images, without replacement
            g = gradient of the loss at clamp(images + inner, 0, 1), mean over the b images
            accumulator += g;  inner = clamp(inner + step * sign(g), -epsilon, epsilon)
        delta = clamp(delta + step * sign(accumulator), -epsilon, epsilon)

    The inner perturbation is discarded; only gradients survive it. ``method="spgd"`` takes one
    gradient over the whole large batch in place of the M inner ones.

    Args:
        models: one `nn.Module` or several (an ensemble), from images ``(x - mean) / std`` with x in
            [0, 1] to logits ``[b, K]``. They run in evaluation mode; their parameters get no
            gradient; both are restored afterwards.
        method: ``"sga"`` or ``"spgd"``.
        momentum: None; ``"mi"``: the sign is that of ``velocity = momentum_factor * velocity +
            g / ||g||_1``, which persists over batches and epochs; ``"ni"``: also the inner
            perturbation starts from the look-ahead point, ``clamp(delta + step * momentum_factor *
            velocity)``. The paper names the variant without a formula; this one is inferred from
            NI-FGSM. See `look_ahead`.
        momentum_factor: decay of the velocity, in [0, inf).
        k: inner passes over a large batch.
        large_batch: images per outer step (over all processes).
        small_batch: images per inner step.
        epsilon: bound of ``|delta|`` in units of [0, 1].
        step: of both sign steps, in (0, epsilon]; None for epsilon / 10.
        loss: ``"cross_entropy"`` (clamped at beta), ``"logit"``, ``"cosine"``, or a callable
            ``loss(logits, labels) -> scalar`` that is ascended; see `losses`.
        beta: of the clamped cross-entropy.
        targeted: a class that all images shall go to, or None. A callable loss then gets this class
            as labels.
        weights: one non-negative number per model, None for ones; losses are summed with them.
        mean: ``[C]`` of the normalisation the models expect, None for 0.
        std: ``[C]``, above 0, None for 1.
        seed: of the order and the draws.
        amp_dtype: ``torch.float16`` or ``torch.bfloat16`` runs the models under autocast and gives
            them that dtype; gradients are summed in float32.
        loss_scale: factor of the loss while it is differentiated, so that half gradients do not
            underflow; None for 1024 with float16, else 1. Wherever it is not 1, an inner step whose
            gradient is not finite is dropped, counted in `dropped`, and the scale halved.
        device: where to train; None for that of the first model's parameters, or of the images.
        progress: show a progress bar (needs rich).
        process_group: for data-parallel training; None takes the default group if
            `torch.distributed` is initialised. Every process gets all images and trains on its part
            of each large batch; accumulators are summed once per outer step, the inner perturbation
            stays local, delta is the same everywhere.
        initial: ``[C, H, W]`` to start from, within epsilon; None for 0.
        shuffle: visit images in a new random order each epoch, or in their own.
        draw: callable ``(n, b) -> b different rows of range(n)`` in place of the seeded default. To
            be resumable it needs `state_dict` and `load_state_dict`, as `LegacyDraw` has.
        look_ahead: how ``"ni"`` scales the velocity: ``"mean"`` times its number of values, that is
            with gradients normalised by their mean magnitude, so the look-ahead is about one step;
            ``"sum"`` as it is, which is below one step by that factor.

    Attributes:
        history: one dict per epoch: ``epoch``, ``loss`` (mean over the inner steps) and
            ``fooling``, the share of the drawn, perturbed images whose prediction is not the clean
            one (targeted: is the target), at the inner perturbation of the moment.
        dropped: inner steps dropped because of the loss scale, over all processes.
        inner_steps, outer_steps: steps taken by this process.

    Two runs with the same arguments give the same bits where the models' own backward passes do.

    Raises:
        TypeError, ValueError: an argument does not fit.

    Source: SGA (Liu et al., arXiv 2308.06015, algorithm 1) and its released code. Where the two
    differ or say nothing is listed in the README beside this file.
    """

    def __init__(
        self,
        models: nn.Module | Sequence[nn.Module],
        *,
        method: str = "sga",
        momentum: str | None = None,
        momentum_factor: float = 0.9,
        k: int = 4,
        large_batch: int = 250,
        small_batch: int = 10,
        epsilon: float = 10 / 255,
        step: float | None = None,
        loss: str | Loss = "cross_entropy",
        beta: float = 9.0,
        targeted: int | None = None,
        weights: Sequence[float] | None = None,
        mean: Tensor | Sequence[float] | None = None,
        std: Tensor | Sequence[float] | None = None,
        seed: int = 0,
        amp_dtype: torch.dtype | None = None,
        loss_scale: float | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        process_group: dist.ProcessGroup | None = None,
        initial: Tensor | None = None,
        shuffle: bool = True,
        draw: Draw | None = None,
        look_ahead: str = "mean",
    ) -> None:
        self.models = _models(models)
        _check.one_of("method", method, ("sga", "spgd"))
        if momentum is not None:
            _check.one_of("momentum", momentum, ("mi", "ni"))
        _check.one_of("look_ahead", look_ahead, ("mean", "sum"))
        _check_numbers(k, large_batch, small_batch, epsilon, step, momentum_factor)
        if targeted is not None and (isinstance(targeted, bool) or not targeted >= 0):
            raise ValueError(f"targeted must be a class >= 0 or None, got {targeted!r}")
        if amp_dtype not in (None, torch.float16, torch.bfloat16):
            raise ValueError(f"amp_dtype must be None, float16 or bfloat16, got {amp_dtype}")
        if loss_scale is not None and not 0 < loss_scale < math.inf:
            raise ValueError(f"loss_scale must be positive and finite, got {loss_scale}")
        if not callable(loss) and not isinstance(loss, str):
            raise TypeError(f"loss must be a name or a callable, got {type(loss).__name__}")
        self.method, self.momentum, self.momentum_factor = method, momentum, float(momentum_factor)
        self.k, self.large_batch, self.small_batch = k, large_batch, small_batch
        self.epsilon = float(epsilon)
        self.step = self.epsilon / 10 if step is None else float(step)
        self.beta, self.targeted = float(beta), targeted
        self._loss_name = loss if isinstance(loss, str) else _name_of(loss)
        self.loss = (
            make_loss(loss, beta=beta, targeted=targeted is not None)
            if isinstance(loss, str)
            else loss
        )
        self.weights = _weights(weights, len(self.models))
        self.mean, self.std = _channel_values("mean", mean), _channel_values("std", std)
        if self.std is not None and not all(0 < s < math.inf for s in self.std):
            raise ValueError(f"std must be positive and finite, got {self.std}")
        self.seed, self.shuffle, self._injected = seed, shuffle, draw
        self.amp_dtype = amp_dtype
        self.loss_scale = loss_scale or (1024.0 if amp_dtype is torch.float16 else 1.0)
        self.device = None if device is None else torch.device(device)
        self.progress, self.process_group = progress, process_group
        self.initial, self.look_ahead = initial, look_ahead
        self.history: list[dict[str, float]] = []
        self.dropped = self.inner_steps = self.outer_steps = 0

    def fit(
        self,
        images: Tensor | HasImages,
        *,
        epochs: int = 20,
        labels: Tensor | None = None,
        checkpoint: str | Path | None = None,
        resume: bool = True,
        checkpoint_every: int = 10,
    ) -> UniversalPerturbation:
        """Train, from the start or from where `checkpoint` stands.

        Args:
            images: ``[N, C, H, W]``, N >= 1, uint8 or float32 in [0, 1], or an object with such a
                tensor as `images`. They stay as they are on their device; where that is not the
                training device, one large batch at a time goes there.
            epochs: passes over the images, in all: a resumed run counts those already done.
            labels: ``[N]`` int64 to move away from, in place of the models' own predictions.
            checkpoint: file to write, atomically, and to resume from; None for none.
            resume: continue a checkpoint that exists; else it is overwritten.
            checkpoint_every: outer steps between checkpoints; one is also written at the end of
                each epoch. An interrupted run that is resumed gives the bits of one that was not.

        Raises:
            TypeError, ValueError: an argument does not fit, or the checkpoint was made with
                another setting, which is named.
            FloatingPointError: the gradient of an outer step is not finite.
        """
        return _Run(self, images, labels, epochs, checkpoint, resume, checkpoint_every).run()

    def settings(self) -> dict[str, Any]:
        """What determines the result, of types that JSON has."""
        return {
            "amp_dtype": None if self.amp_dtype is None else str(self.amp_dtype)[6:],
            "beta": self.beta,
            "draw": None if self._injected is None else _name_of(self._injected),
            "epsilon": self.epsilon,
            "initial": None if self.initial is None else _digest(self.initial),
            "k": self.k,
            "large_batch": self.large_batch,
            "look_ahead": self.look_ahead,
            "loss": self._loss_name,
            "loss_scale": self.loss_scale,
            "mean": self.mean,
            "method": self.method,
            "models": [type(model).__name__ for model in self.models],
            "momentum": self.momentum,
            "momentum_factor": self.momentum_factor,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "small_batch": self.small_batch,
            "std": self.std,
            "step": self.step,
            "targeted": self.targeted,
            "weights": self.weights,
        }


class _Run:
    """The state of one `fit`: delta, velocity, generators, position."""

    def __init__(
        self,
        trainer: UAPTrainer,
        images: Tensor | HasImages,
        labels: Tensor | None,
        epochs: int,
        checkpoint: str | Path | None,
        resume: bool,
        checkpoint_every: int,
    ) -> None:
        self.t = trainer
        self.images = _images(images)
        self.labels = _labels(labels, len(self.images))
        if epochs < 0:
            raise ValueError(f"epochs must be at least 0, got {epochs}")
        if checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be at least 1, got {checkpoint_every}")
        self.epochs, self.every = epochs, checkpoint_every
        self.path = None if checkpoint is None else Path(checkpoint)
        self.group = Group(trainer.process_group)
        self.device = trainer.device or _device(trainer.models, self.images)
        self.ensemble = Ensemble(
            trainer.models, trainer.weights, trainer.loss, trainer.amp_dtype, self.device
        )
        channels = self.images.shape[1]
        self.mean = _on_device("mean", trainer.mean, channels, self.device)
        self.std = _on_device("std", trainer.std, channels, self.device)

        shape = self.images.shape[1:]
        self.delta = _initial(trainer.initial, tuple(shape), trainer.epsilon).to(self.device)
        self.group.broadcast_(self.delta)
        self.accumulator = torch.zeros_like(self.delta)
        self.velocity = None if trainer.momentum is None else torch.zeros_like(self.delta)
        self.zero = torch.zeros_like(self.delta)
        self.shuffler = GeneratorDraw(trainer.seed)
        self.draw: Draw = trainer._injected or GeneratorDraw(trainer.seed, self.group.rank)
        if self.path is not None and not isinstance(self.draw, Resumable):
            raise ValueError(
                "draw must have state_dict and load_state_dict to be kept in a checkpoint, "
                f"got {_name_of(self.draw)}"
            )
        self.scale = trainer.loss_scale
        self.checked = self.scale != 1  # dropping needs a value read back per inner step
        self.epoch = self.batch = 0
        self.order: Rows | None = None
        self.totals = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, hits, steps
        trainer.history = []
        trainer.dropped = trainer.inner_steps = trainer.outer_steps = 0
        self.dropped = 0
        if self.path is not None and resume and self.path.exists():
            self._load(self.path)

    def run(self) -> UniversalPerturbation:
        rows = len(self.images)
        batches = -(-rows // self.t.large_batch)
        left = (self.epochs - self.epoch) * batches - self.batch
        with self.ensemble.frozen(), _bar(self.t.progress and self.group.rank == 0, left) as tick:
            while self.epoch < self.epochs:
                if self.order is None:
                    own = np.arange(rows, dtype=np.int64)
                    self.order = self.shuffler.permutation(rows) if self.t.shuffle else own
                start = self.batch * self.t.large_batch
                self._outer_step(self.order[start : start + self.t.large_batch])
                self.batch += 1
                self.t.outer_steps += 1
                if self.batch == batches:
                    self._end_epoch()
                elif self.batch % self.every == 0:
                    self._save()
                tick(self.t.history[-1]["loss"] if self.t.history else math.nan)
        self.t.dropped = sum(self.group.gather(self.dropped))
        metadata = {**self.t.settings(), "epochs": self.epoch, "images": rows}
        return UniversalPerturbation(
            self.delta.clone(), self.t.epsilon, self.t.mean, self.t.std, metadata
        )

    def _outer_step(self, rows: Rows) -> None:
        t = self.t
        rows = self.group.share(rows)
        if len(rows):  # a last large batch may have fewer images than there are processes
            self._accumulate(rows)
        if self.scale != 1:  # scales may differ between processes
            self.accumulator.div_(self.scale)
        self.group.sum_(self.accumulator)
        if not bool(self.accumulator.isfinite().all()):
            raise FloatingPointError(
                f"the gradient is not finite in epoch {self.epoch}, large batch {self.batch}"
                + (f", with the loss scale down to {self.scale:g}" if self.checked else "")
            )
        factor = 0.0 if self.velocity is None else t.momentum_factor
        sga_outer_step_(
            self.delta,
            self.accumulator,
            self.velocity,
            step=t.step,
            epsilon=t.epsilon,
            momentum=factor,
        )

    def _accumulate(self, rows: Rows) -> None:
        """The gradients of this process's share of a large batch, summed."""
        t, total = self.t, len(rows)
        where = torch.from_numpy(np.ascontiguousarray(rows))
        if self.images.device == self.device:
            images, place = self.images, where.to(self.device)
        else:
            images = self.images[where.to(self.images.device)].to(self.device)
            place = torch.arange(total, device=self.device)
        references, labels = self._references(images, place, where)
        inner = self._start()
        for pick in self._draws(total).to(self.device):
            index = place[pick]
            x = uap_apply(images, inner, self.mean, self.std, index, t.amp_dtype)
            result = self.ensemble.gradient(
                x, [r[pick] for r in references], [y[pick] for y in labels], self.scale
            )
            t.inner_steps += 1
            if self.checked and not bool(result.grad.isfinite().all()):
                self.dropped += 1
                self.scale /= 2
                self.accumulator.div_(2)  # stays in units of the scale; exact
                if self.scale < _SMALLEST_SCALE:
                    self.accumulator.fill_(math.nan)  # every process sees it after the sum
                    return
                continue
            sga_inner_step_(
                result.grad,
                images,
                inner,
                self.accumulator,
                step=t.step,
                epsilon=t.epsilon,
                index=index,
                std=self.std,
            )
            self.totals += torch.stack((result.loss.double(), result.hits, torch.ones_like(
                result.hits)))  # fmt: skip

    def _start(self) -> Tensor:
        """Where the inner perturbation starts."""
        inner = self.delta.clone()
        if self.t.momentum == "ni" and self.velocity is not None:
            count = self.velocity.numel() if self.t.look_ahead == "mean" else 1
            inner.add_(self.velocity, alpha=self.t.step * self.t.momentum_factor * count)
            inner.clamp_(-self.t.epsilon, self.t.epsilon)
        return inner

    def _draws(self, total: int) -> Tensor:
        """Rows of the inner steps, ``[M, b]`` in [0, total), drawn at once: one copy to a GPU."""
        if self.t.method == "spgd":
            return torch.arange(total)[None]
        count = min(self.t.small_batch, total)
        steps = self.t.k * total // count
        draws = [check_rows(self.draw(total, count), total, count) for _ in range(steps)]
        return torch.from_numpy(np.stack(draws))

    def _references(
        self, images: Tensor, place: Tensor, where: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per model, what its loss compares with, and the labels that count as not fooled."""
        count, target = len(self.t.models), self.t.targeted
        labels: list[Tensor] = []
        if target is not None:
            labels = [torch.full_like(place, target)] * count
        elif self.labels is not None:
            labels = [self.labels[where].to(self.device)] * count
        if labels and not self.ensemble.needs_clean_logits:
            return labels, labels
        x = uap_apply(images, self.zero, self.mean, self.std, place, self.t.amp_dtype)
        logits = self.ensemble.clean_logits(x)
        labels = labels or [value.argmax(1) for value in logits]
        return (logits if self.ensemble.needs_clean_logits else labels), labels

    def _end_epoch(self) -> None:
        self.group.sum_(self.totals)
        loss, hits, steps = self.totals.tolist()
        share = hits / steps if steps else math.nan
        self.t.history.append(
            {
                "epoch": self.epoch,
                "loss": loss / steps if steps else math.nan,
                "fooling": share if self.t.targeted is None else 1 - share,
            }
        )
        self.totals.zero_()
        self.epoch, self.batch, self.order = self.epoch + 1, 0, None
        self._save()

    def _settings(self) -> dict[str, Any]:
        return {
            **self.t.settings(),
            "images": [*self.images.shape, str(self.images.dtype)[6:]],
            "labels": None if self.labels is None else _digest(self.labels),
            "processes": self.group.size,
        }

    def _save(self) -> None:
        if self.path is None:
            return
        assert isinstance(self.draw, Resumable)
        local = {
            "draw": self.draw.state_dict(),
            "totals": self.totals.tolist(),
            "scale": self.scale,
            "dropped": self.dropped,
            "inner_steps": self.t.inner_steps,
        }
        processes = self.group.gather(local)
        if self.group.rank == 0:
            state = {
                "settings": self._settings(),
                "delta": self.delta.cpu(),
                "velocity": None if self.velocity is None else self.velocity.cpu(),
                "shuffler": self.shuffler.state_dict(),
                "order": None if self.order is None else torch.from_numpy(self.order),
                "epoch": self.epoch,
                "batch": self.batch,
                "outer_steps": self.t.outer_steps,
                "history": self.t.history,
                "processes": processes,
            }
            save_checkpoint(self.path, state)

    def _load(self, path: Path) -> None:
        state = load_checkpoint(path, self._settings())
        self.delta.copy_(state["delta"])
        if self.velocity is not None:
            self.velocity.copy_(state["velocity"])
        self.shuffler.load_state_dict(state["shuffler"])
        self.order = None if state["order"] is None else state["order"].numpy()
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.t.outer_steps, self.t.history = state["outer_steps"], state["history"]
        local = state["processes"][self.group.rank]
        assert isinstance(self.draw, Resumable)
        self.draw.load_state_dict(local["draw"])
        self.totals.copy_(torch.tensor(local["totals"], dtype=torch.float64))
        self.scale, self.dropped = local["scale"], local["dropped"]
        self.t.inner_steps = local["inner_steps"]


class _Tick(Protocol):
    def __call__(self, loss: float, /) -> None: ...


@contextmanager
def _bar(shown: bool, total: int) -> Iterator[_Tick]:
    """A progress bar over outer steps; yields what advances it."""
    if not shown:
        yield lambda loss: None
        return
    try:
        from rich.progress import Progress, TimeRemainingColumn
    except ImportError as error:
        raise ImportError("progress=True needs rich: pip install rich") from error
    with Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn()) as bar:
        task = bar.add_task("UAP", total=total)

        def tick(loss: float, /) -> None:
            text = "UAP" if math.isnan(loss) else f"UAP, loss {loss:.4g}"
            bar.update(task, advance=1, description=text)

        yield tick


def _models(models: nn.Module | Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    found = (models,) if isinstance(models, nn.Module) else tuple(models)
    if not found:
        raise ValueError("models must be one nn.Module or several, got none")
    for model in found:
        if not isinstance(model, nn.Module):
            raise TypeError(f"models must be nn.Modules, got {type(model).__name__}")
    return found


def _check_numbers(
    k: int,
    large_batch: int,
    small_batch: int,
    epsilon: float,
    step: float | None,
    momentum_factor: float,
) -> None:
    for name, value in (("k", k), ("large_batch", large_batch), ("small_batch", small_batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be positive and finite, got {epsilon}")
    if step is not None and not 0 < step <= epsilon:
        raise ValueError(f"step must be in (0, epsilon] = (0, {epsilon}], got {step}")
    if not 0 <= momentum_factor < math.inf:
        raise ValueError(f"momentum_factor must be at least 0 and finite, got {momentum_factor}")


def _weights(weights: Sequence[float] | None, count: int) -> list[float] | None:
    if weights is None:
        return None
    values = [float(w) for w in weights]
    if len(values) != count:
        raise ValueError(f"weights must have one number per model = {count}, got {len(values)}")
    if not all(0 <= w < math.inf for w in values) or not any(values):
        raise ValueError(f"weights must be non-negative, finite and not all 0, got {values}")
    return values


def _channel_values(name: str, values: Tensor | Sequence[float] | None) -> list[float] | None:
    if values is None:
        return None
    vector = torch.as_tensor(values, dtype=torch.float64)
    if vector.ndim != 1:
        raise ValueError(f"{name} must be [C], got shape {tuple(vector.shape)}")
    return [float(v) for v in vector]


def _on_device(
    name: str, values: list[float] | None, channels: int, device: torch.device
) -> Tensor | None:
    if values is None:
        return None
    if len(values) != channels:
        raise ValueError(f"{name} must have one number per channel = {channels}, got {len(values)}")
    return torch.tensor(values, dtype=torch.float32, device=device)


def _images(images: Tensor | HasImages) -> Tensor:
    found = images if isinstance(images, Tensor) else getattr(images, "images", images)
    _check.tensor("images", found)
    assert isinstance(found, Tensor)
    if found.dtype not in (torch.uint8, torch.float32):
        raise TypeError(f"images must be uint8 or float32 in [0, 1], got {str(found.dtype)[6:]}")
    if found.ndim != 4 or found.numel() == 0:
        raise ValueError(
            f"images must be [N, C, H, W] with at least one image, got shape {tuple(found.shape)}"
        )
    if found.dtype is torch.float32 and not bool(((found >= 0) & (found <= 1)).all()):
        raise ValueError(
            f"images must be in [0, 1], got values in [{found.min():g}, {found.max():g}]"
        )
    return found.detach().contiguous()


def _labels(labels: Tensor | None, count: int) -> Tensor | None:
    if labels is None:
        return None
    _check.tensor("labels", labels)
    if labels.dtype is not torch.int64 or labels.shape != (count,):
        raise ValueError(
            f"labels must be int64 of shape ({count},), one per image, "
            f"got {str(labels.dtype)[6:]} of shape {tuple(labels.shape)}"
        )
    return labels.detach().cpu()


def _device(models: Sequence[nn.Module], images: Tensor) -> torch.device:
    parameter = next((p for model in models for p in model.parameters()), images)
    return parameter.device


def _initial(initial: Tensor | None, shape: tuple[int, ...], epsilon: float) -> Tensor:
    if initial is None:
        return torch.zeros(shape)
    _check.floating("initial", initial)
    _check.shape("initial", initial, shape, "[C, H, W] of the images")
    # The bound as a float32, in which delta is kept.
    if not bool((initial.abs() <= torch.tensor(epsilon, dtype=torch.float32)).all()):
        raise ValueError(
            f"initial must be within epsilon = {epsilon:g}, got |initial| up to "
            f"{float(initial.abs().max()):g}"
        )
    return initial.detach().to(torch.float32, copy=True).contiguous()


def _name_of(value: object) -> str:
    """A callable's name for settings, the same in the next process."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
