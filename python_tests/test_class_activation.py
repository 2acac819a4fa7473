"""Class activation maps, their head and the loss module on them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facekernels.nn import CAMHead, RebalancedAttentionConsistency, class_activation_maps
from facekernels.ops import cam_flip_consistency


def features(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_mean_of_a_map_and_the_bias_are_the_logit(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    head = CAMHead(12, 7)
    x = features(3, 12, 7, 7).contiguous(memory_format=layout)
    maps = head.maps(x)
    assert maps.shape == (3, 7, 7, 7)
    assert torch.allclose(maps.mean((2, 3)) + head.bias, head(x), atol=1e-6)
    assert torch.allclose(maps[1, 2], (head.weight[2, :, None, None] * x[1]).sum(0), atol=1e-5)


def test_a_map_of_one_hot_weights_is_that_channel() -> None:
    x = features(2, 4, 3, 5)
    assert torch.equal(class_activation_maps(x, torch.eye(4)), x)


def test_the_head_loads_a_linear_layer() -> None:
    torch.manual_seed(0)
    linear, head = nn.Linear(6, 3), CAMHead(6, 3)
    head.load_state_dict(linear.state_dict())
    assert list(head.state_dict()) == ["weight", "bias"]
    x = features(2, 6, 4, 4)
    assert torch.equal(head(x), linear(x.mean((2, 3))))
    assert CAMHead(6, 3, bias=False).bias is None


def test_the_loss_is_the_op_and_trains_no_classifier() -> None:
    torch.manual_seed(0)
    head = CAMHead(6, 3)
    x, y = (f.requires_grad_() for f in features(2, 4, 6, 5, 5))
    class_weights = torch.tensor([1.0, 0.5, 3.0])
    loss = RebalancedAttentionConsistency(class_weights)
    value = loss(x, y, head.weight)
    assert torch.equal(value, cam_flip_consistency(x, y, head.weight, class_weights).loss)
    value.backward()
    assert head.weight.grad is None
    assert x.grad is not None
    assert y.grad is not None
    RebalancedAttentionConsistency(class_weights, detach_weight=False)(x, y, head.weight).backward()
    assert head.weight.grad is not None
    assert not loss.state_dict()


def test_float64_weights_keep_their_digits() -> None:
    weights = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    loss = RebalancedAttentionConsistency(weights)
    assert torch.equal(loss.class_weights, weights)
    x, y = features(2, 1, 2, 3, 3).double()
    expected = cam_flip_consistency(x, y, torch.eye(2), weights).loss
    assert torch.equal(loss(x, y, torch.eye(2)), expected)
    assert loss(x.float(), y.float(), torch.eye(2)).dtype is torch.float32
    for other in (weights.half(), [1, 2], [1.0, 2.0]):
        assert RebalancedAttentionConsistency(other).class_weights.dtype is torch.float32


def test_the_loss_compiles() -> None:
    torch.manual_seed(0)
    head, loss = CAMHead(6, 3), RebalancedAttentionConsistency([1.0, 2.0, 3.0])

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss(x, y, head.weight) + head(x).logsumexp(1).mean()

    x, y = features(2, 4, 6, 5, 5)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x, y), step(x, y))


def test_bad_input() -> None:
    head = CAMHead(6, 3)
    with pytest.raises(ValueError, match=r"features must be \[B, 6, H, W\], got shape \(2, 5, 3"):
        head(torch.ones(2, 5, 3, 3))
    with pytest.raises(ValueError, match=r"features must be \[B, C, H, W\], got shape \(2, 6\)"):
        head.maps(torch.ones(2, 6))
    with pytest.raises(ValueError, match=r"weight must be \[K, C\] = \(K, 6\), got shape \(3, 5\)"):
        class_activation_maps(torch.ones(2, 6, 3, 3), torch.ones(3, 5))
    with pytest.raises(ValueError, match=r"class_weights must be \[K\], got shape \(1, 2\)"):
        RebalancedAttentionConsistency(torch.ones(1, 2))
