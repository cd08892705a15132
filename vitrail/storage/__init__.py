"""What is on the disk whole or not at all: files and folders, tensors with a manifest, journals."""
