from typing import Any

from torch import Tensor

def build_info() -> dict[str, Any]: ...
def cuda_devices() -> list[tuple[str, int]] | str: ...
def num_threads() -> int: ...
def mlca_forward(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    average: bool,
    out: Tensor,
    scale: Tensor,
    mean: Tensor,
    max: Tensor,
    relu_mean: Tensor,
    argmax: Tensor,
    /,
) -> None: ...
def mlca_backward(
    d_mean: Tensor,
    d_max: Tensor,
    argmax: Tensor,
    d_relu_mean: Tensor,
    x: Tensor,
    dx: Tensor,
    /,
) -> None: ...
