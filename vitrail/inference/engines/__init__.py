"""Engines: what runs the graph of a model. One file an engine; `Config` has its settings, `SUFFIXES` the files that it
opens, `build(config)` makes one."""
