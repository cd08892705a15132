"""How a run begins from weights: what is loaded, the start of a new head, and the features of a frozen backbone."""
