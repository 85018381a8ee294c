"""One row that every write adds to: a balance, a counter, the stock of an article."""

from __future__ import annotations

from temporal_batching import TableRule

TABLE = "totals"
ROW = {"account": "hot", "amount": "1.50"}
ADD = f"UPDATE {TABLE} SET amount = amount + CAST(:amount AS numeric) WHERE account = :account"
"""What a workflow does without a batcher."""

RULE = TableRule(conflict="add", key=["account"], add=["amount"])
"""The sink's rule for the table."""

DDL = (
    f"CREATE TABLE {TABLE} (account text PRIMARY KEY, amount numeric(14,2) NOT NULL)",
    f"INSERT INTO {TABLE} VALUES ('hot', 0)",
)
