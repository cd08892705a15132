"""Captions as tokens: tokenizers, and which caption of an image a step sees."""
