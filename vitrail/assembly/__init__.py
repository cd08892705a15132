"""A recipe becomes model, data and weights, each name resolved once; loading, saving, and the directory of a run."""
