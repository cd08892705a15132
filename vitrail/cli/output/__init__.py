"""Output of commands: the live table, text tables, and what several commands print."""
