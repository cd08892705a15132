"""The page that shows a model's answers: one HTML file without a library, for `export --format html` with the model
inside, and for `vitrail serve`, which it asks."""
