"""How commands show what they have: a live table, tables of text, and what several commands print."""
