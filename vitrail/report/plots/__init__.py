"""Figures as files, the same bytes for the same numbers."""
