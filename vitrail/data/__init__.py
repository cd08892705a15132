"""Images from files to batches: decoding, surveying, transforming, mixing, ordering."""
