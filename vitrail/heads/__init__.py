"""Heads: modules that turn the features of a backbone into predictions."""
