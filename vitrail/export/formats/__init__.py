"""Export formats: one file a format. `Config` has its options, `build(config)` returns its `ExportFormat`."""
