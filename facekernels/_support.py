"""What every public op supports: the one table behind `facekernels info` and the documentation.

Standard library only, so that the environment report can be made where torch cannot be imported.
"""

from __future__ import annotations

from typing import NamedTuple

YES = "yes"


class Support(NamedTuple):
    """One op. Each capability is `YES` or the reason why it is not there."""

    kernels: tuple[str, ...]
    """Functions of the extension module that the op calls; empty for an op written in PyTorch."""
    backward: str = YES
    double_backward: str = YES
    compile: str = YES
    func: str = YES

    @classmethod
    def positions(cls, kernel: str) -> Support:
        """An op whose outputs are constant in its inputs, wherever they are differentiable."""
        reason = "positions of maxima have no gradient"
        return cls((kernel,), backward=reason, double_backward=reason)


_ROUNDED = "none: rounded"
_IN_PLACE = "none: the update of an attack, in place"
_SAMPLED = "none: random integers"

_GRAPH = "none: integers"
_SCORED = "none: inference; training uses LinkageGCN"
_HOST = "breaks the graph: sizes depend on values"


def _graph_op(*kernels: str) -> Support:
    return Support(kernels, _GRAPH, _GRAPH, _HOST, _HOST)


OPS: dict[str, Support] = {
    "mlca_gate": Support(("mlca_forward", "mlca_gate_backward", "mlca_backward")),
    "channel_gate": Support(("mlca_forward", "mlca_gate_backward", "mlca_backward")),
    "conv_mean_max": Support(("mlca_pools", "conv_pools_d_weight", "conv_pools_d_input")),
    "margin_cross_entropy": Support(("margin_softmax_forward", "margin_softmax_backward")),
    "decode_heatmaps": Support.positions("decode_heatmaps"),
    "decode_simcc": Support.positions("decode_simcc"),
    "heatmap_peaks": Support.positions("heatmap_peaks"),
    "local_center_of_mass": Support(("center_of_mass_forward", "center_of_mass_backward")),
    "sga_aggregate": Support(("sga_aggregate",), "none: a sign", "none: a sign"),
    "sga_inner_step_": Support(("sga_inner_step",), _IN_PLACE, _IN_PLACE, func="none: in place"),
    "sga_outer_step_": Support(("sga_outer_step",), _IN_PLACE, _IN_PLACE, func="none: in place"),
    "uap_apply": Support(("uap_apply",)),
    "soft_argmax": Support(("soft_argmax_forward", "soft_argmax_backward")),
    "gradient_attention_map": Support(
        ("gradient_attention_forward", "gradient_attention_backward")
    ),
    "cam_flip_consistency": Support(
        ("attention_consistency_forward", "attention_consistency_backward")
    ),
    "erase_regions": Support(("erase_regions",)),
    "erase_top_n": Support(("erase_top_n",)),
    "sample_rects": Support((), _SAMPLED, _SAMPLED),
    "knn_graph": _graph_op("knn_search"),
    "knn_recall": _graph_op(),
    "neighbor_mean": Support(("neighbor_sum", "neighbor_dot")),
    "pivot_subgraphs": _graph_op("subgraph_sizes", "subgraph_fill"),
    "linkage_scores": Support(
        ("linkage_combine", "neighbor_sum", "subgraph_sizes", "subgraph_fill"),
        _SCORED,
        _SCORED,
        _HOST,
        _HOST,
    ),
    "connected_components": _graph_op("connected_components"),
    "threshold_clusters": _graph_op("connected_components"),
    "link_clusters": _graph_op("connected_components"),
    "pool_edges": _graph_op(),
    "label_diffusion": _graph_op(),
    "flip_average": Support(()),
    "transform_keypoints": Support(()),
    "encode_gaussian": Support((), _ROUNDED, _ROUNDED),
    "encode_megvii": Support((), _ROUNDED, _ROUNDED),
    "encode_simcc": Support((), _ROUNDED, _ROUNDED),
    "encode_udp": Support(()),
    "encode_udp_combined": Support(()),
    "encode_unbiased": Support(()),
}
