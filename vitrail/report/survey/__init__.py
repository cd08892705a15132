"""The survey of a data set as lines of text: what is there, what is wrong, what to do."""
