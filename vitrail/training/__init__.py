"""A run from its first step to its last: session, resume, the loop."""
