"""Analysis of models: cost, attention, positions, features, gradients."""
