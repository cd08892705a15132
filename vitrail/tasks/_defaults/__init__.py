"""What tasks fill into recipes that leave things open: one file for tasks of a kind."""
