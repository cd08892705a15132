"""Surveys of all images and annotations of a data set before training."""
