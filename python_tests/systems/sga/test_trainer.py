"""The trainer: the published numbers, its invariants, interruption, processes, half precision."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from facekernels.ops import sga_inner_step_, sga_outer_step_, uap_apply
from facekernels.systems.sga import LegacyDraw, UAPTrainer, UniversalPerturbation
from facekernels.systems.sga.checkpoint import save_checkpoint

EPSILON = 10 / 255


class Linear(nn.Module):
    """Logits ``x W^T``; counts its calls."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return x.flatten(1) @ self.weight.T


class Fails(Exception):
    pass


class FailsAfter(nn.Module):
    """A model that raises at a given call."""

    def __init__(self, model: nn.Module, calls: int) -> None:
        super().__init__()
        self.model, self.calls = model, calls

    def forward(self, x: Tensor) -> Tensor:
        self.calls -= 1
        if self.calls < 0:
            raise Fails
        return self.model(x)


def published() -> tuple[Tensor, Tensor]:
    """Images and weights for which the released code was run."""
    r = np.random.RandomState(7)
    images = r.rand(24, 3, 8, 8).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy((0.2 * r.randn(5, 192)).astype(np.float32))


def levels(delta: Tensor) -> tuple[int, int, int]:
    v = (255 * delta).round()
    return int(v.sum()), int(v.abs().sum()), int((v == 0).sum())


def mean_clean_logit(images: Tensor, weight: Tensor, delta: Tensor) -> float:
    def logits(x: Tensor) -> Tensor:
        return x.flatten(1) @ weight.T

    clean = logits(images).argmax(1, keepdim=True)
    return logits((images + delta).clamp(0, 1)).gather(1, clean).mean().item()


GOLDEN = {
    "k": 2,
    "large_batch": 12,
    "small_batch": 4,
    "epsilon": EPSILON,
    "loss": "logit",
    "shuffle": False,
}
GOLDEN_LEVELS = {1: (-10, 358, 13), 3: (-36, 1112, 1)}
GOLDEN_LOGITS = {1: 1.02991, 2: 0.86786, 3: 0.70640}


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_published_numbers(epochs: int) -> None:
    images, weight = published()
    trainer = UAPTrainer(Linear(weight), draw=LegacyDraw(0), **GOLDEN)
    delta = trainer.fit(images, epochs=epochs).delta
    if epochs in GOLDEN_LEVELS:
        assert levels(delta) == GOLDEN_LEVELS[epochs]
    assert mean_clean_logit(images, weight, delta) == pytest.approx(GOLDEN_LOGITS[epochs], abs=2e-5)


@pytest.mark.parametrize("epochs", [1, 3])
def test_published_numbers_by_the_ops_alone(epochs: int) -> None:
    images, weight = published()
    step, draw = EPSILON * 0.1, np.random.RandomState(0)
    delta, accumulator = torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)
    for start in [0, 12] * epochs:
        rows = torch.arange(start, start + 12)
        labels = (images[rows].flatten(1) @ weight.T).argmax(1)
        inner = delta.clone()
        for _ in range(6):
            pick = torch.from_numpy(draw.choice(12, 4, replace=False))
            x = uap_apply(images, inner, index=rows[pick]).requires_grad_()
            value = -(x.flatten(1) @ weight.T).gather(1, labels[pick, None]).mean()
            (grad,) = torch.autograd.grad(value, x)
            sga_inner_step_(
                grad, images, inner, accumulator, step=step, epsilon=EPSILON, index=rows[pick]
            )
        sga_outer_step_(delta, accumulator, step=step, epsilon=EPSILON)
    assert levels(delta) == GOLDEN_LEVELS[epochs]


def small(seed: int = 0, count: int = 23) -> tuple[Tensor, nn.Module]:
    """uint8 images and a small network with dropout and BatchNorm."""
    torch.manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 6, 6), dtype=torch.uint8)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Dropout(),
        nn.Linear(96, 4),
    )  # fmt: skip
    return images, model


OPTIONS: dict[str, Any] = {"k": 2, "large_batch": 8, "small_batch": 3}


@pytest.mark.parametrize("momentum", [None, "mi", "ni"])
@pytest.mark.parametrize("method", ["sga", "spgd"])
def test_levels_and_counts(method: str, momentum: str | None) -> None:
    """After T outer steps from 0, every value is a whole level in [-min(T, 10), min(T, 10)]."""
    images, model = small()
    trainer = UAPTrainer(model, method=method, momentum=momentum, **OPTIONS)
    for epochs, bound in ((1, 3), (6, 10)):
        delta = trainer.fit(images, epochs=epochs).delta
        level = 255 * delta
        assert torch.allclose(level, level.round(), atol=1e-3)
        assert level.abs().max() <= bound + 1e-3
        assert delta.abs().max() <= torch.tensor(EPSILON)
        assert trainer.outer_steps == 3 * epochs
        inner = 5 + 5 + 4 if method == "sga" else 3  # floor(2 * 8 / 3) twice, floor(2 * 7 / 3)
        assert trainer.inner_steps == inner * epochs
    assert delta.count_nonzero() > 90


def test_batches_that_the_model_sees() -> None:
    """One clean forward per large batch, then inner ones; a last batch below the small one."""
    _, weight = published()
    images = torch.rand(9, 3, 8, 8)
    model = Linear(weight)
    UAPTrainer(model, k=2, large_batch=7, small_batch=4).fit(images, epochs=1)
    assert model.batches == [7, 4, 4, 4, 2, 2, 2]
    model = Linear(weight)
    UAPTrainer(model, method="spgd", k=2, large_batch=7, small_batch=4).fit(images, epochs=1)
    assert model.batches == [7, 7, 2, 2]


def test_every_inner_step_draws_different_images() -> None:
    """A fresh draw without replacement each time."""
    images, model = small(count=12)
    seen: list[tuple[int, list[int]]] = []

    class Recorded:
        def __call__(self, total: int, count: int, /) -> list[int]:
            rows = np.random.RandomState(len(seen)).choice(total, count, replace=False).tolist()
            seen.append((total, rows))
            return rows

    UAPTrainer(model, k=2, large_batch=8, small_batch=3, draw=Recorded()).fit(images, epochs=1)
    assert [total for total, _ in seen] == [8] * 5 + [4] * 2
    assert all(len(set(rows)) == 3 for _, rows in seen)
    with pytest.raises(ValueError, match=r"draw must give rows in \[0, 8\)"):
        UAPTrainer(model, **OPTIONS, draw=lambda n, b: range(n, n + b)).fit(images, epochs=1)


@pytest.mark.parametrize("momentum", [None, "mi"])
@pytest.mark.parametrize("factor", [0.25, 1024.0])
def test_scaling_the_loss_changes_nothing(momentum: str | None, factor: float) -> None:
    """Powers of two are exact, so the signs of all sums stay."""
    images, weight = published()

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return factor * nn.functional.cross_entropy(logits, labels)

    options = {**GOLDEN, "momentum": momentum, "shuffle": True}
    plain = UAPTrainer(Linear(weight), **{**options, "loss": nn.functional.cross_entropy})
    scaled = UAPTrainer(Linear(weight), **{**options, "loss": loss})
    assert torch.equal(plain.fit(images, epochs=3).delta, scaled.fit(images, epochs=3).delta)
    amp = UAPTrainer(Linear(weight), **{**options, "loss": nn.functional.cross_entropy},
                     loss_scale=factor)  # fmt: skip
    assert torch.equal(plain.fit(images, epochs=3).delta, amp.fit(images, epochs=3).delta)
    assert amp.dropped == 0
    assert amp.history == plain.history


def test_momentum_variants_differ_as_defined() -> None:
    """MI against the formula, step by step; NI starts the inner perturbation ahead of delta."""
    images, weight = published()
    weight = weight.double().float()
    trainer = UAPTrainer(Linear(weight), method="spgd", momentum="mi", large_batch=24, loss="logit")
    got = trainer.fit(images, epochs=4).delta
    delta, velocity = torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)
    labels = (images.flatten(1) @ weight.T).argmax(1)
    for _ in range(4):
        d = delta.clone().requires_grad_()
        logits = (images + d).clamp(0, 1).flatten(1) @ weight.T
        (g,) = torch.autograd.grad(-logits.gather(1, labels[:, None]).mean(), d)
        velocity = 0.9 * velocity + g / g.abs().sum()
        delta = (delta + velocity.sign() / 255).clamp(-EPSILON, EPSILON)
    assert (got - delta).abs().max() < 1e-6

    starts: list[Tensor] = []

    class Watched(Linear):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                starts.append(x.detach()[0] - images[0])
            return super().forward(x)

    half = images / 2 + 0.25  # nothing is clamped
    images = half
    options = {"method": "spgd", "large_batch": 24, "loss": "logit", "shuffle": False}
    UAPTrainer(Watched(weight), momentum="ni", **options).fit(images, epochs=2)
    one = UAPTrainer(Linear(weight), momentum="mi", **options).fit(images, epochs=1).delta
    labels = (images.flatten(1) @ weight.T).argmax(1)
    g = -weight[labels].mean(0).view(3, 8, 8)
    ahead = one + 0.9 / 255 * g / g.abs().mean()
    assert starts[0].abs().max() < 1e-6
    assert torch.allclose(starts[1], ahead.clamp(-EPSILON, EPSILON), atol=1e-6)


def test_ensemble_sums_weighted_gradients_of_models_with_labels_of_their_own() -> None:
    images, weight = published()
    other = torch.randn(5, 192, generator=torch.Generator().manual_seed(1)) * 0.2
    options = {"method": "spgd", "large_batch": 24, "loss": "logit", "shuffle": False}
    trainer = UAPTrainer([Linear(weight), Linear(other)], weights=[1.0, 0.3], **options)
    x = images / 2 + 0.25
    expected = torch.zeros(192)
    for w, factor in ((weight, 1.0), (other, 0.3)):
        expected -= factor * w[(x.flatten(1) @ w.T).argmax(1)].mean(0)
    assert torch.equal(trainer.fit(x, epochs=1).delta.flatten().sign(), expected.sign())
    alone = UAPTrainer(Linear(weight), **options).fit(x, epochs=1).delta
    silent = UAPTrainer([Linear(weight), Linear(other)], weights=[2.0, 0.0], **options)
    assert torch.equal(silent.fit(x, epochs=1).delta, alone)
    assert not torch.equal(trainer.fit(x, epochs=1).delta, alone)


@pytest.mark.parametrize("loss", ["cross_entropy", "logit", "cosine"])
@pytest.mark.parametrize("targeted", [None, 2])
def test_every_loss_fools_more_than_noise(loss: str, targeted: int | None) -> None:
    images, weight = published()
    model = Linear(weight)
    trainer = UAPTrainer(model, **{**GOLDEN, "loss": loss, "epsilon": 60 / 255}, targeted=targeted)
    perturbation = trainer.fit(images, epochs=8)
    noise = 60 / 255 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)).sign()

    def success(delta: Tensor) -> float:
        clean, after = model(images).argmax(1), model((images + delta).clamp(0, 1)).argmax(1)
        hit = clean != after if targeted is None else after == targeted
        return hit.double().mean().item()

    assert success(perturbation.delta) > success(noise) + 0.3
    assert trainer.history[-1]["loss"] > trainer.history[0]["loss"]
    assert trainer.history[-1]["fooling"] > 0.4
    assert [h["epoch"] for h in trainer.history] == list(range(8))


def test_given_labels_replace_predictions() -> None:
    images, weight = published()
    options = {"method": "spgd", "large_batch": 24, "loss": "logit"}
    labels = torch.arange(24) % 5
    got = UAPTrainer(Linear(weight), **options).fit(images / 2 + 0.25, epochs=1, labels=labels)
    expected = -weight[labels].mean(0)
    assert torch.equal(got.delta.flatten().sign(), expected.sign())


def test_models_are_left_as_they_were() -> None:
    images, model = small()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    UAPTrainer(model, **OPTIONS).fit(images, epochs=1)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(Fails):
        UAPTrainer(FailsAfter(model, 3), **OPTIONS).fit(images, epochs=1)
    assert [m.training for m in model.modules()] == modes


def test_uint8_and_float_images_and_caches_agree() -> None:
    images, model = small()

    class Cache:
        def __init__(self, images: Tensor) -> None:
            self.images = images

    mean, std = [0.5, 0.4, 0.3], torch.tensor([0.2, 0.3, 0.25])
    trainer = UAPTrainer(model, mean=mean, std=std, **OPTIONS)
    bytes_ = trainer.fit(images, epochs=2)
    assert torch.equal(bytes_.delta, trainer.fit(images.float() / 255, epochs=2).delta)
    assert torch.equal(bytes_.delta, trainer.fit(Cache(images), epochs=2).delta)
    last = images.to(memory_format=torch.channels_last)
    assert torch.equal(bytes_.delta, trainer.fit(last, epochs=2).delta)

    class Normalised(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model((x - torch.tensor(mean)[:, None, None]) / std[:, None, None])

    model.eval()
    inside = UAPTrainer(Normalised(), **OPTIONS).fit(images, epochs=2)
    assert (inside.delta - bytes_.delta).abs().count_nonzero() <= 2  # sums rounded differently


@pytest.mark.parametrize("momentum", [None, "ni"])
@pytest.mark.parametrize("every", [1, 2, 10])
@pytest.mark.parametrize("calls", [3, 9, 21, 40])
def test_an_interrupted_run_resumes_bit_for_bit(
    tmp_path: Path, calls: int, every: int, momentum: str | None
) -> None:
    images, model = small()
    path = tmp_path / "new" / "run.pt"
    options: dict[str, Any] = {**OPTIONS, "momentum": momentum}
    straight = UAPTrainer(FailsAfter(model, 10**6), **options)
    expected = straight.fit(images, epochs=4)

    with pytest.raises(Fails):
        UAPTrainer(FailsAfter(model, calls), **options).fit(
            images, epochs=4, checkpoint=path, checkpoint_every=every
        )
    resumed = UAPTrainer(FailsAfter(model, 10**6), **options)
    got = resumed.fit(images, epochs=4, checkpoint=path, checkpoint_every=every)
    assert torch.equal(got.delta, expected.delta)
    assert resumed.history == straight.history
    assert (resumed.inner_steps, resumed.outer_steps) == (4 * 14, 12)
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]

    done = FailsAfter(model, 0)  # a finished run is not run again
    assert torch.equal(UAPTrainer(done, **options).fit(images, epochs=4, checkpoint=path).delta,
                       expected.delta)  # fmt: skip
    longer = UAPTrainer(FailsAfter(model, 10**6), **options)
    assert torch.equal(longer.fit(images, epochs=5, checkpoint=path).delta,
                       straight.fit(images, epochs=5).delta)  # fmt: skip


def test_the_published_draw_can_be_resumed(tmp_path: Path) -> None:
    images, weight = published()
    first = UAPTrainer(FailsAfter(Linear(weight), 15), draw=LegacyDraw(0), **GOLDEN)
    with pytest.raises(Fails):
        first.fit(images, epochs=3, checkpoint=tmp_path / "c", checkpoint_every=1)
    again = UAPTrainer(FailsAfter(Linear(weight), 10**6), draw=LegacyDraw(99), **GOLDEN)
    assert levels(again.fit(images, epochs=3, checkpoint=tmp_path / "c").delta) == (-36, 1112, 1)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"delta": torch.ones(2)})
    before = path.read_bytes()
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"delta": torch.ones(2), "bad": lambda: None})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c.pt"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"k": 3}, "k = 2, now k = 3"), ({"momentum": "mi"}, "momentum = None"),
     ({"seed": 5}, "seed = 0"), ({"mean": [0.5] * 3}, "mean = None"),
     ({"initial": torch.zeros(3, 6, 6)}, "initial = None")],
)  # fmt: skip
def test_other_settings_do_not_resume(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    images, model = small()
    path = tmp_path / "c.pt"
    UAPTrainer(model, **OPTIONS).fit(images, epochs=1, checkpoint=path)
    other = UAPTrainer(model, **{**OPTIONS, **changed})
    with pytest.raises(ValueError, match=f"was made with {named}"):
        other.fit(images, epochs=1, checkpoint=path)
    with pytest.raises(ValueError, match=r"was made with images = \[23, 3, 6, 6, 'uint8'\]"):
        UAPTrainer(model, **OPTIONS).fit(images[1:], epochs=1, checkpoint=path)
    anew = other.fit(images, epochs=1, checkpoint=path, resume=False)
    assert torch.equal(anew.delta, other.fit(images, epochs=1).delta)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        other.fit(images, epochs=1, checkpoint=path)


def _train_in_process(rank: int, size: int, folder: str, images: Tensor, model: nn.Module) -> None:
    torch.set_num_threads(1)
    if size:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store{size}", rank=rank, world_size=size
        )
    try:
        trainer = UAPTrainer(model, momentum="mi", **OPTIONS)
        checkpoint = Path(folder) / f"checkpoint{size}.pt"
        trainer.fit(images, epochs=2, checkpoint=checkpoint)
        resumed = trainer.fit(images, epochs=3, checkpoint=checkpoint)
        straight = trainer.fit(images, epochs=3)
        assert torch.equal(resumed.delta, straight.delta)
        torch.save((straight.delta, trainer.history, trainer.inner_steps),
                   Path(folder) / f"result{size}.{rank}.pt")  # fmt: skip
    finally:
        if size:
            torch.distributed.destroy_process_group()


def in_processes(folder: Path, size: int, images: Tensor, model: nn.Module) -> list[Any]:
    args = (size, str(folder), images, model)
    mp.spawn(_train_in_process, args, nprocs=max(size, 1), join=True)
    return [torch.load(folder / f"result{size}.{r}.pt") for r in range(max(size, 1))]


@pytest.mark.slow
def test_data_parallel(tmp_path: Path) -> None:
    """Equal on all ranks; one rank gives the bits of no process group; two ranks halve the work."""
    images, model = small(count=25)  # the last large batch has one image: a rank without any
    alone = in_processes(tmp_path, 0, images, model)[0]
    one = in_processes(tmp_path, 1, images, model)[0]
    assert torch.equal(alone[0], one[0])
    assert alone[1:] == one[1:]
    two = in_processes(tmp_path, 2, images, model)
    assert torch.equal(two[0][0], two[1][0])
    assert two[0][1] == two[1][1]
    assert not torch.equal(two[0][0], alone[0])  # other draws
    assert [r[2] for r in two] == [3 * (2 + 2 + 2) + 3 * 2, 3 * (2 + 2 + 2)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_follows_single(dtype: torch.dtype) -> None:
    images, weight = published()
    options = {**GOLDEN, "loss": "cross_entropy"}
    single = UAPTrainer(Linear(weight), **options).fit(images, epochs=2).delta
    trainer = UAPTrainer(Linear(weight), amp_dtype=dtype, **options)
    half = trainer.fit(images, epochs=2).delta
    assert (half.sign() == single.sign()).double().mean() > 0.9
    assert trainer.dropped == 0
    assert half.dtype is torch.float32


def test_loss_scaling_keeps_what_underflows() -> None:
    """Gradients near 1e-8 are 0 in float16 without a scale, and so is the perturbation."""
    images, weight = published()
    options = {**GOLDEN, "amp_dtype": torch.float16}

    def tiny(logits: Tensor, labels: Tensor) -> Tensor:
        return -1e-8 * logits.gather(1, labels[:, None]).mean()

    lost = UAPTrainer(Linear(weight), **{**options, "loss": tiny}, loss_scale=1.0)
    assert lost.fit(images, epochs=1).delta.count_nonzero() == 0
    kept = UAPTrainer(Linear(weight), **{**options, "loss": tiny}, loss_scale=2.0**24)
    assert kept.fit(images, epochs=1).delta.count_nonzero() > 150


def test_overflow_drops_the_step_and_halves_the_scale() -> None:
    images, weight = published()
    options = {**GOLDEN, "amp_dtype": torch.float16}
    trainer = UAPTrainer(Linear(weight), **options, loss_scale=2.0**24)
    delta = trainer.fit(images, epochs=3).delta
    assert 0 < trainer.dropped < 12
    assert trainer.inner_steps == 36
    assert delta.count_nonzero() > 150
    assert math.isfinite(trainer.history[-1]["loss"])


@pytest.mark.parametrize("scale", [None, 4.0])
def test_a_gradient_that_is_not_finite_is_an_error(scale: float | None) -> None:
    images, weight = published()

    def nan(logits: Tensor, labels: Tensor) -> Tensor:
        return logits.sum() * math.nan

    trainer = UAPTrainer(Linear(weight), **{**GOLDEN, "k": 20, "loss": nan}, loss_scale=scale)
    with pytest.raises(FloatingPointError, match="not finite in epoch 0, large batch 0"):
        trainer.fit(images, epochs=1)


def test_initial_and_seeds() -> None:
    images, model = small()
    start = torch.full((3, 6, 6), 4 / 255)
    trainer = UAPTrainer(model, initial=start, **OPTIONS)
    assert torch.equal(trainer.fit(images, epochs=0).delta, start)
    level = 255 * trainer.fit(images, epochs=1).delta
    assert level.min() >= 1 - 1e-3
    assert level.max() <= 7 + 1e-3
    assert torch.equal(start, torch.full((3, 6, 6), 4 / 255))
    a, b = (UAPTrainer(model, seed=s, **OPTIONS).fit(images, epochs=3).delta for s in (0, 1))
    assert torch.equal(a, UAPTrainer(model, seed=0, **OPTIONS).fit(images, epochs=3).delta)
    assert not torch.equal(a, b)


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    images, model = small()
    shown = UAPTrainer(model, progress=True, **OPTIONS).fit(images, epochs=2)
    assert "UAP, loss" in capsys.readouterr().out
    assert torch.equal(shown.delta, UAPTrainer(model, **OPTIONS).fit(images, epochs=2).delta)
    assert capsys.readouterr().out == ""


def test_result_carries_its_settings() -> None:
    images, model = small()
    result = UAPTrainer(model, mean=[0.5] * 3, std=[0.25] * 3, seed=3, **OPTIONS).fit(
        images, epochs=2
    )
    assert isinstance(result, UniversalPerturbation)
    assert result.epsilon == EPSILON
    assert result.metadata["seed"] == 3
    assert result.metadata["epochs"] == 2
    assert result.metadata["step"] == pytest.approx(1 / 255)
    assert result.mean is not None
    assert result.mean.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "pgd"}, ValueError, "method must be one of 'sga', 'spgd', got 'pgd'"),
        ({"momentum": "adam"}, ValueError, "momentum must be one of 'mi', 'ni', got 'adam'"),
        ({"epsilon": 0}, ValueError, "epsilon must be positive and finite, got 0"),
        ({"step": 0.1}, ValueError, r"step must be in \(0, epsilon\] = .*, got 0.1"),
        ({"k": 0}, ValueError, "k must be an integer of at least 1, got 0"),
        ({"small_batch": 2.5}, ValueError, "small_batch must be an integer of at least 1, got 2.5"),
        ({"momentum_factor": -1}, ValueError, "momentum_factor must be at least 0"),
        ({"targeted": -1}, ValueError, "targeted must be a class >= 0 or None, got -1"),
        ({"targeted": True}, ValueError, "targeted must be a class >= 0 or None, got True"),
        ({"loss": 3}, TypeError, "loss must be a name or a callable, got int"),
        ({"loss": "x"}, ValueError, "loss must be one of"),
        ({"beta": -1.0}, ValueError, "beta must be above 0, got -1"),
        ({"weights": [1, 2]}, ValueError, "weights must have one number per model = 1, got 2"),
        ({"weights": [-1]}, ValueError, "weights must be non-negative, finite and not all 0"),
        ({"std": [0.0, 1, 1]}, ValueError, "std must be positive and finite"),
        ({"mean": [[1.0]]}, ValueError, r"mean must be \[C\], got shape \(1, 1\)"),
        ({"amp_dtype": torch.float64}, ValueError, "amp_dtype must be None, float16 or bfloat16"),
        ({"loss_scale": 0}, ValueError, "loss_scale must be positive and finite, got 0"),
        ({"look_ahead": "max"}, ValueError, "look_ahead must be one of 'mean', 'sum'"),
    ],
)
def test_bad_settings(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        UAPTrainer(small()[1], **options)


def test_bad_models() -> None:
    images, model = small()
    with pytest.raises(ValueError, match=r"models must be one nn\.Module or several, got none"):
        UAPTrainer([])
    with pytest.raises(TypeError, match=r"models must be nn\.Modules, got function"):
        UAPTrainer([model, small])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"must give logits \[b, K\] with b = 8, Identity gave"):
        UAPTrainer(nn.Identity(), **OPTIONS).fit(images, epochs=1)
    with pytest.raises(ValueError, match="loss must give a scalar"):
        UAPTrainer(model, loss=lambda z, y: z, **OPTIONS).fit(images, epochs=1)


@pytest.mark.parametrize(
    ("images", "arguments", "error", "message"),
    [
        (torch.rand(3, 6, 6), {}, ValueError, r"images must be \[N, C, H, W\] .* got shape"),
        (torch.rand(0, 3, 6, 6), {}, ValueError, "at least one image"),
        (torch.rand(4, 3, 6, 6) * 255, {}, ValueError, r"images must be in \[0, 1\], got values"),
        (torch.full((4, 3, 6, 6), math.nan), {}, ValueError, r"images must be in \[0, 1\]"),
        (torch.rand(4, 3, 6, 6).double(), {}, TypeError, "uint8 or float32 .* got float64"),
        ([1, 2], {}, TypeError, "images must be a torch.Tensor, got list"),
        (torch.rand(4, 3, 6, 6), {"labels": torch.zeros(3).long()}, ValueError, "one per image"),
        (torch.rand(4, 3, 6, 6), {"epochs": -1}, ValueError, "epochs must be at least 0, got -1"),
        (torch.rand(4, 3, 6, 6), {"checkpoint_every": 0}, ValueError, "checkpoint_every must be"),
    ],
)
def test_bad_images(
    images: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        UAPTrainer(small()[1], **OPTIONS).fit(images, **{"epochs": 1, **arguments})


def test_settings_that_do_not_fit_the_images(tmp_path: Path) -> None:
    images, model = small()
    with pytest.raises(ValueError, match="mean must have one number per channel = 3, got 1"):
        UAPTrainer(model, mean=[0.5]).fit(images)
    with pytest.raises(ValueError, match=r"initial must be \[C, H, W\] of the images = \(3, 6, 6"):
        UAPTrainer(model, initial=torch.zeros(3, 6, 5)).fit(images)
    with pytest.raises(ValueError, match="initial must be within epsilon"):
        UAPTrainer(model, initial=torch.ones(3, 6, 6)).fit(images)
    with pytest.raises(ValueError, match="draw must have state_dict and load_state_dict"):
        UAPTrainer(model, draw=lambda n, b: range(b)).fit(images, checkpoint=tmp_path / "c")
