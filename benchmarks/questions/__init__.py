"""One file for each question that the benchmark answers."""
