"""Model folders and files on disk: written whole, verified when read."""
