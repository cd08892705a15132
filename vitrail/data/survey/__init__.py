"""A look at every image and annotation of a data set before anything is trained on it."""
