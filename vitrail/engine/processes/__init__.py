"""What makes one run of several processes: who they are, which are alive, and how a model is divided among them."""
