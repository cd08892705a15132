"""Int8 files: one file a format. `build(config)` returns its `Quantiser`."""
