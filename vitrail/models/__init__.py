"""One file per family; the folder is the registry. Each has a `Config`, a table `VARIANTS` and `build(config)`."""
