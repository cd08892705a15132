"""Names and files of large data sets as arrays, in memory or mapped from an index file."""
