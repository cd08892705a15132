"""Transforms from images to the input of a model."""
