"""Syntax of the command line: flags, keys of a recipe, other spellings, help and completion."""
