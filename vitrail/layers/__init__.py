"""Layers that more than one family uses: attention, patches, positions, norms, stochastic depth."""
