"""``temporal-batching demo``: everything at once, on one machine."""
