"""Imbalanced facial expression recognition by mining extra knowledge (MEK)."""

from facekernels.systems.balanced_fer.model import ExpressionNet, load_backbone
from facekernels.systems.balanced_fer.predict import ExpressionPrediction, draw, load, predict

__all__ = ["ExpressionNet", "ExpressionPrediction", "draw", "load", "load_backbone", "predict"]
