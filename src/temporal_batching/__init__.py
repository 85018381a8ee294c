"""Batch the writes of many Temporal workflows into few database transactions, each exactly once."""
