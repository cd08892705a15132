"""Dataset layouts, one file each; the folder is the registry. Each has `Config`, `matches(path)`, `build(config)`."""
