"""Diagnosis of a run: vitrail doctor."""
