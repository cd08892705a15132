"""Commands that take words: search, and the labels of predict."""
