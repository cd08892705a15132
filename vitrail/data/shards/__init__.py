"""Tar shards with an index: read by offset, from a disk or a store."""
