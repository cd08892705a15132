"""Export: a trained model as a file that runs without vitrail, with proof that its answers are the same."""
