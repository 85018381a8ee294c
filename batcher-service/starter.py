"""Starts the batcher's workflows or finds them running, then watches them: `python batcher-service/starter.py`.

A worker starts them as well, so this is for looking on: what is pending, what was written and how, each
continue-as-new, and a sink that is down. `temporal-batching monitor` shows the same without starting anything.
"""

from temporal_batching.cli import main

if __name__ == "__main__":
    main("start-and-monitor")
