"""How published weights are named: one file a family, rules as data for every source."""
