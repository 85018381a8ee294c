"""What the tests that need a Temporal server share."""
