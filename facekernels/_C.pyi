from typing import Any

from torch import Tensor

def build_info() -> dict[str, Any]: ...
def cuda_devices() -> list[tuple[str, int]] | str: ...
def num_threads() -> int: ...
def attention_consistency_backward(
    residual: Tensor,
    weight: Tensor,
    class_weights: Tensor | None,
    d_loss: Tensor | None,
    d_class: Tensor | None,
    d_features: Tensor | None,
    d_flipped: Tensor | None,
    /,
) -> None: ...
def attention_consistency_forward(
    features: Tensor,
    flipped: Tensor,
    weight: Tensor,
    class_weights: Tensor | None,
    residual: Tensor,
    squares: Tensor | None,
    loss: Tensor | None,
    per_class: Tensor | None,
    /,
) -> None: ...
def center_of_mass_backward(
    heatmaps: Tensor,
    radius: int,
    xy: Tensor,
    sum: Tensor,
    argmax: Tensor,
    d_xy: Tensor,
    d_heatmaps: Tensor,
    /,
) -> None: ...
def center_of_mass_forward(
    heatmaps: Tensor, radius: int, xy: Tensor, sum: Tensor | None, argmax: Tensor | None, /
) -> None: ...
def connected_components(
    edges: Tensor, scores: Tensor | None, threshold: float, parent: Tensor, roots: Tensor, /
) -> None: ...
def conv_pools_d_input(
    d_mean: Tensor,
    d_max: Tensor,
    argmax: Tensor,
    weight: Tensor,
    workspace: Tensor,
    d_input: Tensor,
    /,
) -> None: ...
def conv_pools_d_weight(
    d_mean: Tensor,
    d_max: Tensor,
    argmax: Tensor,
    x: Tensor,
    workspace: Tensor,
    d_weight: Tensor,
    /,
) -> None: ...
def decode_heatmaps(
    heatmaps: Tensor,
    method: int,
    compat: int,
    kernel: int,
    threshold: float,
    invalid_x: float,
    invalid_y: float,
    radius_factor: float,
    clamp: bool,
    xy: Tensor,
    score: Tensor,
    valid: Tensor,
    /,
) -> None: ...
def decode_simcc(
    x: Tensor,
    y: Tensor,
    dark: bool,
    exact: bool,
    kernel: int,
    split: float,
    threshold: float,
    invalid_x: float,
    invalid_y: float,
    clamp: bool,
    xy: Tensor,
    score: Tensor,
    valid: Tensor,
    /,
) -> None: ...
def erase_regions(
    images: Tensor,
    attention: Tensor,
    rects: Tensor,
    kind: int,
    value: float,
    span: float,
    lowest: float,
    highest: float,
    seed: int,
    seed_tensor: Tensor | None,
    fill: Tensor | None,
    out: Tensor,
    mask: Tensor,
    anchors: Tensor,
    /,
) -> None: ...
def erase_top_n(
    images: Tensor,
    attention: Tensor,
    count: int,
    kind: int,
    value: float,
    span: float,
    lowest: float,
    highest: float,
    seed: int,
    seed_tensor: Tensor | None,
    fill: Tensor | None,
    out: Tensor,
    mask: Tensor,
    /,
) -> None: ...
def gradient_attention_backward(
    grad: Tensor,
    features: Tensor | None,
    reduce: int,
    map: Tensor,
    weights: Tensor | None,
    d_map: Tensor,
    d_grad: Tensor,
    d_features: Tensor | None,
    /,
) -> None: ...
def gradient_attention_forward(
    grad: Tensor,
    features: Tensor | None,
    reduce: int,
    channels_last: bool,
    map: Tensor,
    weights: Tensor | None,
    /,
) -> None: ...
def heatmap_peaks(
    heatmaps: Tensor,
    kernel: int,
    threshold: float,
    strict: bool,
    xy: Tensor,
    score: Tensor,
    index: Tensor,
    count: Tensor,
    /,
) -> None: ...
def knn_search(
    query_filter: Tensor,
    query: Tensor,
    query_scale: Tensor | None,
    filter: Tensor,
    database: Tensor,
    scale: Tensor | None,
    metric: int,
    symmetric: bool,
    self_offset: int,
    slack: Tensor,
    candidate_score: Tensor,
    candidate_index: Tensor,
    candidate_count: Tensor,
    threshold: Tensor,
    index: Tensor,
    score: Tensor,
    overflow: Tensor,
    /,
) -> None: ...
def linkage_combine(
    own: Tensor,
    other: Tensor,
    nodes: Tensor | None,
    indptr: Tensor,
    indices: Tensor,
    groups: Tensor | None,
    shift: Tensor,
    out: Tensor,
    /,
) -> None: ...
def margin_softmax_backward(
    embeddings: Tensor,
    weight: Tensor,
    index: Tensor | None,
    labels: Tensor,
    scale: float,
    lse: Tensor,
    d_lse: Tensor,
    d_target: Tensor,
    kept: Tensor | None,
    inverse_norms: Tensor,
    d_embeddings: Tensor | None,
    d_weight: Tensor | None,
    d_cos: Tensor,
    d_cos_cos: Tensor,
    partial: Tensor,
    /,
) -> None: ...
def margin_softmax_forward(
    embeddings: Tensor,
    weight: Tensor,
    index: Tensor | None,
    labels: Tensor,
    scale: float,
    lse: Tensor,
    target: Tensor,
    kept: Tensor | None,
    inverse_norms: Tensor,
    partial: Tensor,
    /,
) -> None: ...
def mlca_backward(
    d_mean: Tensor, d_max: Tensor, argmax: Tensor, d_relu_mean: Tensor, x: Tensor, dx: Tensor, /
) -> None: ...
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
    pre: Tensor,
    /,
) -> None: ...
def mlca_gate_backward(
    d_out: Tensor,
    d_scale: Tensor,
    w1: Tensor,
    w2: Tensor,
    scale: Tensor,
    mean: Tensor,
    max: Tensor,
    relu_mean: Tensor,
    pre: Tensor,
    dz: Tensor,
    d_pre: Tensor,
    d_mean: Tensor,
    d_max: Tensor,
    d_relu_mean: Tensor,
    dw1: Tensor,
    db1: Tensor,
    dw2: Tensor,
    db2: Tensor,
    /,
) -> None: ...
def mlca_pools(x: Tensor, mean: Tensor, max: Tensor, argmax: Tensor, /) -> None: ...
def neighbor_dot(a: Tensor, b: Tensor, indptr: Tensor, indices: Tensor, out: Tensor, /) -> None: ...
def neighbor_sum(
    x: Tensor,
    indptr: Tensor,
    indices: Tensor,
    weighting: int,
    weights: Tensor | None,
    degrees: Tensor | None,
    out: Tensor,
    /,
) -> None: ...
def sga_aggregate(
    grads: Tensor,
    delta: Tensor,
    weights: Tensor | None,
    step: float,
    epsilon: float,
    out: Tensor,
    /,
) -> None: ...
def sga_inner_step(
    grad: Tensor,
    images: Tensor,
    delta: Tensor,
    accumulator: Tensor,
    index: Tensor | None,
    std: Tensor | None,
    step: float,
    epsilon: float,
    /,
) -> None: ...
def sga_outer_step(
    delta: Tensor,
    accumulator: Tensor,
    velocity: Tensor | None,
    partial: Tensor | None,
    step: float,
    epsilon: float,
    momentum: float,
    /,
) -> None: ...
def soft_argmax_backward(
    heatmaps: Tensor,
    beta: float,
    normalized: bool,
    stats: Tensor,
    d_xy: Tensor,
    d_heatmaps: Tensor,
    /,
) -> None: ...
def soft_argmax_forward(
    heatmaps: Tensor, beta: float, normalized: bool, xy: Tensor, stats: Tensor | None, /
) -> None: ...
def subgraph_fill(
    knn: Tensor,
    pivots: Tensor,
    k1: int,
    k2: int,
    u: int,
    node_offsets: Tensor,
    edge_offsets: Tensor,
    nodes: Tensor,
    indptr: Tensor,
    indices: Tensor,
    one_hop: Tensor,
    unsorted: Tensor,
    /,
) -> None: ...
def subgraph_sizes(
    knn: Tensor, pivots: Tensor, k1: int, k2: int, u: int, nodes: Tensor, edges: Tensor, /
) -> None: ...
def uap_apply(
    images: Tensor,
    delta: Tensor,
    mean: Tensor | None,
    std: Tensor | None,
    index: Tensor | None,
    out: Tensor,
    /,
) -> None: ...
