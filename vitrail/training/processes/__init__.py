"""A session on several processes: how its model is divided, and how its divided state is saved and loaded."""
