"""The HTML report of a run, the comparison of runs, and their diagnosis."""
