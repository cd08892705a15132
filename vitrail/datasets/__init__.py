"""One file a layout on disk; the folder is the registry. Each has a `Config`, `matches(path)` and `build(config)`."""
