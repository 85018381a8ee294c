"""What batching costs and saves: `python -m benchmarks` measures the ways of writing beside each other."""
