"""What commands print: the console, tables of plain text, progress."""
