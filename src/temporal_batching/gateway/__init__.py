"""The activities that take requests in, and the submissions that hand them to the shards."""
