"""Adversarial information network (AIN) for unsupervised adaptation of face recognition."""
