"""Readable plain-PyTorch versions of every op, on any device and dtype."""

from facekernels.reference.mlca import channel_gate, mlca_gate

__all__ = ["channel_gate", "mlca_gate"]
