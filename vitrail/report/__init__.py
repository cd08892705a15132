"""One offline page that tells a run."""
