"""What callers asked for and were told, compared with what the ledger and the tables hold.

`histories` takes the facts from Temporal, `facts` keeps them on disk, `check` adds those of the database, which `rows`
looks up, and `judge` says what contradicts what.
"""
