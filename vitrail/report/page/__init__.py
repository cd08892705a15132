"""One offline page: markup, style, charts and words."""
