"""Looking at a model: what it costs, what it attends to."""
