"""The survey of a data set as lines of text: counts, findings, advice."""
