"""What is learned: loss, predictions, metrics. One file a task, each with a `Config` and `build(config)`."""
