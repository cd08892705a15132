"""Metrics of predictions: a thin layer over torchmetrics."""
