"""Drop-in PyTorch ops. One module per op family; everything public is importable from here."""

from facekernels.ops.mlca import channel_gate, mlca_gate

__all__ = ["channel_gate", "mlca_gate"]
