"""Whole published models for masks or boxes, one a file: how they are recognised, and their heads' names."""
