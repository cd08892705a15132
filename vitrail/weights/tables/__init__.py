"""Names of published weights: one file a family, rules as data for every source."""
