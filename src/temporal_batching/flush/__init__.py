"""One batch to the sink, then every caller its confirmation."""
