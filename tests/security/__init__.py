"""What a hostile request, or a curious reader of logs, can get out of a batcher."""
