"""Published weights: reading, renaming, resizing and loading them into models."""
