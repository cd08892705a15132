"""Search of images by a text or an image: an index of their embeddings, kept in the cache."""
