"""Words on the command line into what a command is asked."""
