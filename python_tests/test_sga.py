"""The sga family beyond what test_ops.py generates: equal bits, the published toy run, bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import facekernels as fk
from facekernels import ops, reference
from facekernels.reference.sga import l1_norm

EPSILON, STEP = 10 / 255, 1 / 255

needs_emulation = pytest.mark.skipif(
    "emulated" not in fk.backends(), reason="built without the emulated back end"
)
BACKENDS = ("auto", pytest.param("emulated", marks=needs_emulation))


def inputs(seed: int = 0, b: int = 7, size: tuple[int, ...] = (3, 21, 19)) -> dict[str, Tensor]:
    gen = torch.Generator().manual_seed(seed)
    return {
        "images": torch.randint(0, 256, (b + 3, *size), dtype=torch.uint8, generator=gen),
        "delta": (torch.rand(size, generator=gen) * 2 - 1) * EPSILON,
        "grad": torch.randn(b, *size, generator=gen),
        "accumulator": torch.randn(size, generator=gen),
        "index": torch.randperm(b + 3, generator=gen)[:b],
        "std": torch.rand(size[0], generator=gen) + 0.2,
        "mean": torch.rand(size[0], generator=gen),
    }


# ---- equal bits


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_uap_apply_has_the_bits_of_the_composition(backend: str, dtype: torch.dtype) -> None:
    i = inputs()
    x = i["images"][i["index"]] / 255
    want = (torch.clamp(x + i["delta"], 0, 1) - i["mean"][:, None, None]) / i["std"][:, None, None]
    with fk.backend(backend):
        got = ops.uap_apply(i["images"], i["delta"], i["mean"], i["std"], i["index"], dtype)
    assert got.dtype == dtype
    assert torch.equal(got, want.to(dtype))


def test_every_byte_is_divided_by_255_as_torch_does() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    for dtype in (torch.float32, torch.float64):
        got = ops.uap_apply(images, torch.zeros(1, 16, 16, dtype=dtype))
        assert torch.equal(got, images.to(dtype) / 255)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [1, 3, 4, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_inner_step_has_the_bits_of_the_sequential_definition(
    backend: str, batch: int, dtype: torch.dtype
) -> None:
    i = inputs(batch, batch)
    grad = i["grad"].to(dtype)
    x = i["images"][i["index"]] / 255 + i["delta"]
    total = torch.zeros_like(i["delta"])
    for g, v in zip(grad.float(), x, strict=True):
        total += torch.where((v >= 0) & (v <= 1), g, 0)
    g = total * (1 / (batch * i["std"][:, None, None]))
    delta, accumulator = i["delta"].clone(), i["accumulator"].clone()
    step = {"step": STEP, "epsilon": EPSILON}
    with fk.backend(backend):
        ops.sga_inner_step_(
            grad, i["images"], delta, accumulator, index=i["index"], std=i["std"], **step
        )
    assert torch.equal(accumulator, i["accumulator"] + g)
    assert torch.equal(delta, (i["delta"] + STEP * g.sign()).clamp(-EPSILON, EPSILON))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(3, 3, 5), (3, 21, 19), (1, 7, 400), (3, 150, 160)])
def test_outer_step_has_the_bits_of_the_reference(backend: str, size: tuple[int, ...]) -> None:
    """Also where a norm has one chunk, several, and more than 64."""
    gen = torch.Generator().manual_seed(1)
    delta, accumulator, velocity = (torch.randn(2, *size, generator=gen) for _ in range(3))
    delta *= EPSILON / 4
    want = reference.sga_outer_step(delta, accumulator, velocity, STEP, EPSILON, 0.9)
    assert torch.allclose(l1_norm(accumulator), accumulator.abs().sum((1, 2, 3)))
    with fk.backend(backend):
        ops.sga_outer_step_(delta, accumulator, velocity, step=STEP, epsilon=EPSILON, momentum=0.9)
    assert torch.equal(delta, want[0])
    assert want[1] is not None
    assert torch.equal(velocity, want[1])
    assert not accumulator.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_aggregate_is_the_signed_mean(backend: str, dtype: torch.dtype) -> None:
    """sga.md's oracle: clamp(delta + alpha sign(grads.mean((0, 1)))), zeros and -0.0 included."""
    grads = torch.from_numpy(np.random.RandomState(3).randn(5, 4, 3, 9, 11)).to(dtype)
    grads[..., 0, 0] = 0.0
    grads[..., 0, 1] = -0.0
    delta = torch.zeros(3, 9, 11)
    mean = grads.double().mean((0, 1))
    assert mean[mean != 0].abs().min() > 1e-6  # no sign depends on the order
    with fk.backend(backend):
        got = ops.sga_aggregate(grads, delta, step=STEP, epsilon=EPSILON)
    assert torch.equal(got, (delta + STEP * mean.sign().float()).clamp(-EPSILON, EPSILON))
    assert not delta.any()


def test_aggregate_keeps_what_half_precision_sums_would_lose() -> None:
    grads = torch.full((4096, 1, 1, 1), 0.25, dtype=torch.float16)
    grads[0] = -1000.0  # float16 steps of 0.5 there: adding 0.25 changes nothing
    delta = torch.zeros(1, 1, 1)
    assert ops.sga_aggregate(grads, delta, step=STEP, epsilon=EPSILON).item() > 0


def test_streaming_equals_stored_gradients() -> None:
    i = inputs()
    stored = []
    inner, accumulator = i["delta"].clone(), torch.zeros_like(i["delta"])
    for m in range(5):
        arguments = (inputs(100 + m)["grad"], i["images"])
        kwargs = {"index": i["index"], "step": STEP, "epsilon": EPSILON}
        alone = torch.zeros_like(accumulator)
        ops.sga_inner_step_(*arguments, inner.clone(), alone, **kwargs)
        ops.sga_inner_step_(*arguments, inner, accumulator, **kwargs)
        stored.append(alone)
    want = ops.sga_aggregate(torch.stack(stored), i["delta"], step=STEP, epsilon=EPSILON)
    ops.sga_outer_step_(i["delta"], accumulator, step=STEP, epsilon=EPSILON)
    assert torch.equal(i["delta"], want)


def test_scaling_gradients_changes_nothing() -> None:
    i = inputs()
    results = []
    for scale in (1.0, 2.0**-20, 2.0**12):
        delta, accumulator = i["delta"].clone(), torch.zeros_like(i["delta"])
        velocity = torch.zeros_like(delta)
        ops.sga_inner_step_(
            i["grad"] * scale, i["images"], delta, accumulator,
            index=i["index"], step=STEP, epsilon=EPSILON,
        )  # fmt: skip
        ops.sga_outer_step_(delta, accumulator, velocity, step=STEP, epsilon=EPSILON, momentum=0.9)
        results.append(delta)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_several_perturbations_equal_single_ones() -> None:
    runs = [inputs(s) for s in (1, 2, 3)]
    images = runs[0]["images"]
    stack = {
        k: torch.stack([r[k] for r in runs]) for k in ("delta", "grad", "accumulator", "index")
    }
    step = {"step": STEP, "epsilon": EPSILON}
    batched = ops.uap_apply(images, stack["delta"], index=stack["index"])
    for u, r in enumerate(runs):
        assert torch.equal(batched[u], ops.uap_apply(images, r["delta"], index=r["index"]))
    ops.sga_inner_step_(
        stack["grad"], images, stack["delta"], stack["accumulator"], index=stack["index"], **step
    )
    velocity = torch.ones_like(stack["delta"])
    ops.sga_outer_step_(stack["delta"], stack["accumulator"], velocity, momentum=0.5, **step)
    for u, r in enumerate(runs):
        ops.sga_inner_step_(
            r["grad"], images, r["delta"], r["accumulator"], index=r["index"], **step
        )
        one = torch.ones_like(r["delta"])
        ops.sga_outer_step_(r["delta"], r["accumulator"], one, momentum=0.5, **step)
        assert torch.equal(stack["delta"][u], r["delta"])
        assert torch.equal(velocity[u], one)


# ---- behaviour


def test_clamp_passes_gradients_at_its_bounds() -> None:
    images = torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.1]).view(1, 1, 1, 5)
    delta = torch.zeros(1, 1, 5, requires_grad=True)
    ops.uap_apply(images, delta).sum().backward()
    assert delta.grad is not None
    assert delta.grad.flatten().tolist() == [0, 1, 1, 1, 0]
    plain, accumulator = torch.zeros(1, 1, 5), torch.zeros(1, 1, 5)
    ops.sga_inner_step_(
        torch.ones(1, 1, 1, 5), images, plain, accumulator, step=STEP, epsilon=EPSILON
    )
    assert accumulator.flatten().tolist() == [0, 1, 1, 1, 0]
    assert (plain > 0).flatten().tolist() == [False, True, True, True, False]


def test_inner_step_is_the_gradient_autograd_gives() -> None:
    i = inputs()
    leaf = i["delta"].clone().requires_grad_()
    out = ops.uap_apply(i["images"], leaf, i["mean"], i["std"], i["index"])
    (want,) = torch.autograd.grad(out, leaf, i["grad"] / len(i["grad"]))
    accumulator = torch.zeros_like(i["delta"])
    ops.sga_inner_step_(
        i["grad"], i["images"], i["delta"], accumulator,
        index=i["index"], std=i["std"], step=STEP, epsilon=EPSILON,
    )  # fmt: skip
    assert torch.allclose(accumulator, want, atol=1e-6)


def test_gradient_of_float_images_gathers() -> None:
    i = inputs()
    images = (i["images"] / 255).requires_grad_()
    index = torch.tensor([1, 1, 4])
    ops.uap_apply(images, i["delta"], None, i["std"], index).sum().backward()
    again = images.detach().clone().requires_grad_()
    x = torch.clamp(again[index] + i["delta"], 0, 1) / i["std"][:, None, None]
    x.sum().backward()
    assert images.grad is not None
    assert again.grad is not None
    assert torch.allclose(images.grad, again.grad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite(bad: float) -> None:
    """A NaN moves nothing; an infinite norm adds nothing to the velocity."""
    accumulator = torch.tensor([bad, 1.0, -2.0]).view(1, 1, 3)
    delta, velocity = torch.zeros(1, 1, 3), torch.tensor([0.0, 0.5, -0.5]).view(1, 1, 3)
    ops.sga_outer_step_(
        delta, accumulator.clone(), velocity, step=STEP, epsilon=EPSILON, momentum=0.5
    )
    assert velocity.flatten().tolist() == [0, 0.25, -0.25]
    assert torch.equal(delta.flatten().sign(), torch.tensor([0.0, 1.0, -1.0]))
    plain = torch.zeros(1, 1, 3)
    ops.sga_outer_step_(plain, accumulator, step=STEP, epsilon=EPSILON)
    assert plain.flatten()[0].sign().item() == (0 if bad != bad else 1)


@needs_emulation
def test_a_kernel_that_cannot_raise_gives_nan_for_an_unknown_row() -> None:
    i = inputs()
    index = torch.tensor([0, 99, -1])
    with fk.backend("emulated"):
        out = ops.uap_apply(i["images"], i["delta"], index=index)
        accumulator = torch.zeros_like(i["delta"])
        ops.sga_inner_step_(
            i["grad"][:3], i["images"], i["delta"].clone(), accumulator,
            index=index, step=STEP, epsilon=EPSILON,
        )  # fmt: skip
    assert out[0].isfinite().all()
    assert out[1:].isnan().all()
    assert accumulator.isnan().all()


# The public code's toy run (numpy seed 0, batches in order): levels of 1 and of 3 epochs as
# (sum, sum of absolute values, zeros), and the mean logit of the clean class after each epoch.
TOY_LEVELS = {1: (-10, 358, 13), 3: (-36, 1112, 1)}
TOY_LOGITS = (1.02991, 0.86786, 0.70640)


def test_the_published_toy_run() -> None:
    r = np.random.RandomState(7)
    images = torch.from_numpy(r.rand(24, 3, 8, 8).astype(np.float32))
    weight = torch.from_numpy((0.2 * r.randn(5, 192)).astype(np.float32))

    def logits(x: Tensor) -> Tensor:
        return x.flatten(1) @ weight.T

    draw = np.random.RandomState(0)
    step = {"step": EPSILON * 0.1, "epsilon": EPSILON}
    clean = logits(images).argmax(1)
    delta = torch.zeros(3, 8, 8)
    for epoch in range(1, 4):
        for first in (0, 12):
            inner, accumulator = delta.clone(), torch.zeros_like(delta)
            for _ in range(6):
                index = torch.from_numpy(first + draw.choice(12, 4, replace=False))
                x = ops.uap_apply(images, inner, index=index).requires_grad_()
                loss = -logits(x).gather(1, clean[index, None]).mean()
                (grad,) = torch.autograd.grad(loss, x)
                ops.sga_inner_step_(grad, images, inner, accumulator, index=index, **step)
            ops.sga_outer_step_(delta, accumulator, **step)
        mean_logit = logits(ops.uap_apply(images, delta)).gather(1, clean[:, None]).mean().item()
        assert mean_logit == pytest.approx(TOY_LOGITS[epoch - 1], abs=1e-5)
        if epoch in TOY_LEVELS:
            levels = (delta * 255).round().int()
            got = (levels.sum().item(), levels.abs().sum().item(), (levels == 0).sum().item())
            assert got == TOY_LEVELS[epoch]


# ---- bad input
# ruff: noqa: E501 - one line per case


def call(name: str, **changes: Any) -> None:
    """A call that works, with some of its arguments replaced."""
    i: dict[str, Any] = {**inputs(), "step": STEP, "epsilon": EPSILON, "velocity": None, "momentum": 0.0,
                         "weights": None, "grads": inputs()["grad"], "out_dtype": None, **changes}  # fmt: skip
    step = {"step": i["step"], "epsilon": i["epsilon"]}
    if name == "apply":
        ops.uap_apply(i["images"], i["delta"], i["mean"], i["std"], i["index"], i["out_dtype"])
    elif name == "inner":
        ops.sga_inner_step_(
            i["grad"], i["images"], i["delta"], i["accumulator"],
            index=i["index"], std=i["std"], **step,
        )  # fmt: skip
    elif name == "outer":
        ops.sga_outer_step_(
            i["delta"], i["accumulator"], i["velocity"], momentum=i["momentum"], **step
        )
    else:
        ops.sga_aggregate(i["grads"], i["delta"], weights=i["weights"], **step)


BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("apply", {"delta": torch.zeros(3, 20, 19)}, ValueError, r"images must be \[N, C, H, W\] = \(N, 3, 20, 19\), got shape \(10, 3, 21, 19\)"),
    ("apply", {"delta": torch.zeros(21, 19)}, ValueError, r"delta must be \[C, H, W\] or \[U, C, H, W\], got shape \(21, 19\)"),
    ("apply", {"delta": torch.zeros(3, 21, 19).half()}, TypeError, r"delta must be float32 \(or float64\), got float16"),
    ("apply", {"images": torch.zeros(9, 3, 21, 19).half()}, TypeError, r"images must be uint8 or the dtype of delta \(float32\), got float16"),
    ("apply", {"images": "cat.png"}, TypeError, r"images must be a torch.Tensor, got str"),
    ("apply", {"index": torch.tensor([0, 10])}, IndexError, r"index must be in \[0, 10\), got 10 at position 1"),
    ("apply", {"index": torch.tensor([-1])}, IndexError, r"index must be in \[0, 10\), got -1 at position 0"),
    ("apply", {"index": torch.tensor([0.0])}, TypeError, r"index must be int64, got float32"),
    ("apply", {"index": torch.zeros(2, 4, dtype=torch.int64)}, ValueError, r"index must be \[b\], got shape \(2, 4\)"),
    ("apply", {"std": torch.ones(4)}, ValueError, r"std must be \[C\] = \(3\), got shape \(4\)"),
    ("apply", {"mean": 0.5}, TypeError, r"mean must be a tensor or a sequence of numbers, got 0.5"),
    ("apply", {"out_dtype": torch.int32}, TypeError, r"out_dtype must be float32, float16 or bfloat16, got int32"),
    ("inner", {"grad": torch.zeros(7, 3, 21, 18)}, ValueError, r"grad must be \[b, C, H, W\] = \(7, 3, 21, 19\), got shape \(7, 3, 21, 18\)"),
    ("inner", {"grad": torch.zeros(6, 3, 21, 19)}, ValueError, r"grad must be \[b, C, H, W\] = \(7, 3, 21, 19\)"),
    ("inner", {"grad": torch.zeros(7, 3, 21, 19).double()}, TypeError, r"grad must be the dtype of delta \(float32\), float16 or bfloat16, got float64"),
    ("inner", {"grad": torch.zeros(0, 3, 21, 19), "index": torch.zeros(0, dtype=torch.int64)}, ValueError, r"grad must hold at least one sample"),
    ("inner", {"index": torch.full((7,), 10)}, IndexError, r"index must be in \[0, 10\), got 10 at position 0"),
    ("inner", {"accumulator": torch.zeros(3, 21, 20)}, ValueError, r"accumulator must be \[C, H, W\] like delta = \(3, 21, 19\)"),
    ("inner", {"accumulator": torch.zeros(3, 21, 19).double()}, TypeError, r"accumulator must have the dtype of delta \(float32\), got float64"),
    ("inner", {"delta": torch.zeros(3, 19, 21).mT}, ValueError, r"delta must be contiguous: it is updated in place"),
    ("inner", {"delta": torch.zeros(3, 21, 19).requires_grad_()}, ValueError, r"delta must not require a gradient"),
    ("inner", {"epsilon": 0.0}, ValueError, r"epsilon must be positive and finite, got 0.0"),
    ("inner", {"step": 0.05}, ValueError, r"step must be in \(0, epsilon\]"),
    ("inner", {"step": 0.0}, ValueError, r"step must be in \(0, epsilon\]"),
    ("outer", {"epsilon": -1.0}, ValueError, r"epsilon must be positive and finite, got -1.0"),
    ("outer", {"epsilon": float("nan")}, ValueError, r"epsilon must be positive and finite, got nan"),
    ("outer", {"step": "1/255"}, TypeError, r"step must be a number, got str"),
    ("outer", {"momentum": 0.9}, ValueError, r"momentum 0.9 needs a velocity, got None"),
    ("outer", {"momentum": -0.1}, ValueError, r"momentum must be at least 0, got -0.1"),
    ("outer", {"velocity": torch.zeros(3)}, ValueError, r"velocity must be \[C, H, W\] like delta"),
    ("aggregate", {"grads": torch.zeros(3, 21, 19)}, ValueError, r"grads must be \[M, C, H, W\], .* got shape \(3, 21, 19\)"),
    ("aggregate", {"grads": torch.zeros(0, 3, 21, 19)}, ValueError, r"grads must hold at least one gradient"),
    ("aggregate", {"weights": [1.0]}, ValueError, r"weights need grads of an ensemble"),
    ("aggregate", {"grads": torch.zeros(2, 4, 1, 3, 21, 19), "weights": [1.0]}, ValueError, r"weights must be \[E\] = \(2\), got shape \(1\)"),
    ("aggregate", {"step": 1.0}, ValueError, r"step must be in \(0, epsilon\]"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "error", "message"), BAD)
def test_bad_input(
    name: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    call(name)
    with pytest.raises(error, match=message):
        call(name, **changes)


def test_refused_input_changes_nothing() -> None:
    i = inputs()
    delta, accumulator = i["delta"].clone(), i["accumulator"].clone()
    with pytest.raises(IndexError):
        ops.sga_inner_step_(
            i["grad"], i["images"], delta, accumulator,
            index=i["index"] + 4, step=STEP, epsilon=EPSILON,
        )  # fmt: skip
    assert torch.equal(delta, i["delta"])
    assert torch.equal(accumulator, i["accumulator"])


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda t: t.to(memory_format=torch.channels_last),
    "every_other_row": lambda t: t.repeat_interleave(2, 0)[::2],
    "every_other_column": lambda t: t.repeat_interleave(2, 3)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout: Callable[[Tensor], Tensor]) -> None:
    i = inputs()
    results = []
    for images, grad in ((i["images"], i["grad"]), (layout(i["images"]), layout(i["grad"]))):
        delta, accumulator = i["delta"].clone(), i["accumulator"].clone()
        out = ops.uap_apply(images, delta, index=i["index"])
        ops.sga_inner_step_(
            grad, images, delta, accumulator, index=i["index"], step=STEP, epsilon=EPSILON
        )
        results.append((out, delta, accumulator))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_empty_selection_gives_an_empty_batch() -> None:
    i = inputs()
    assert ops.uap_apply(i["images"], i["delta"], index=i["index"][:0]).shape == (0, 3, 21, 19)
    assert ops.uap_apply(i["images"][:0], i["delta"]).shape == (0, 3, 21, 19)


def test_what_is_updated_must_be_distinct() -> None:
    state, grad = torch.zeros(3, 4, 4), torch.ones(2, 3, 4, 4)
    limits = {"step": 0.1, "epsilon": 0.2}
    with pytest.raises(ValueError, match="accumulator must be another tensor than delta"):
        ops.sga_inner_step_(grad, grad, state, state, **limits)
    with pytest.raises(ValueError, match="velocity must be another tensor than accumulator"):
        ops.sga_outer_step_(torch.zeros(3, 4, 4), state, state, **limits)
    assert not state.any()
