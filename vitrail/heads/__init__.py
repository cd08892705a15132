"""What sits on a backbone and turns its features into answers."""
