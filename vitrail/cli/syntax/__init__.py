"""How a command line is written: flags, keys of a recipe, other spellings, help and completion."""
