"""The sections of a run's page, one a file."""
