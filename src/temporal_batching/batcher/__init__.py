"""One shard: its workflow, its state machine, and how others reach it."""
