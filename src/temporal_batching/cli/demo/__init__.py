"""``temporal-batching demo``: everything on one machine."""
