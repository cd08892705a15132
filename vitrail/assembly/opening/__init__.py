"""What is kept of a data set between starts: its index and its survey."""
