"""Studies: reproducible experiments on training, one file each, with a frozen `Config`, `build` and `run`."""
