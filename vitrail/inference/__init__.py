"""Inference: predictions, windows over large images, samples of a denoiser, records of predictions."""
