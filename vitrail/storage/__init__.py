"""Atomic storage: files and folders, tensors with a checksum, journals."""
