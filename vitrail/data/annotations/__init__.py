"""Annotations beyond class labels: masks, boxes, and their file formats."""
