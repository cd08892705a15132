"""Numbers that judge predictions: thin use of torchmetrics."""
