"""A trained model at work: predictions, windows over large images, samples of a denoiser, records of what was predicted."""
