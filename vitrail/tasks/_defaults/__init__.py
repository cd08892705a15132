"""Default settings of tasks: one file for tasks of a kind."""
