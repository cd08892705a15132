"""What every study is built on: rows that are measured once, short trainings, results."""
