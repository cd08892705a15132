"""Words on the command line become function calls."""
