"""What batching costs and saves: `python -m benchmarks` measures the ways of writing under the same load."""
