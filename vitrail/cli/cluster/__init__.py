"""Several processes and machines: how they are started, and what a run on them will take."""
