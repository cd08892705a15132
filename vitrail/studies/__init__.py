"""Experiments that show what a part of training does: one file a study, with a frozen `Config`, `build` and `run`."""
