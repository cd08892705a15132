"""Every engine and precision that runs a model here, measured side by side."""
