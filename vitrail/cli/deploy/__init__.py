"""Commands that take a trained model out: export, serve, bench."""
