"""Commands about published weights: the list of them, fetching, publishing."""
