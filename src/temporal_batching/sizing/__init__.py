"""How large a batcher has to be, and what it saves.

`estimate` computes from a `Load` and a `BatchPolicy` how many shards are needed and what follows. `savings` reads a
deployment's own histories. The commands ``temporal-batching size`` and ``savings`` print both. The modules, from the
bottom: `costs` has the measured constants; `load`, `flow` and `needs` are pure; `actions` and `flushes` count what is
in a history; `deployment` reads the shards' histories from Temporal.
"""

from temporal_batching.sizing.deployment import Savings, savings
from temporal_batching.sizing.load import Gateway, Load, Surroundings, Via
from temporal_batching.sizing.needs import Estimate, Use, estimate

__all__ = ["Estimate", "Gateway", "Load", "Savings", "Surroundings", "Use", "Via", "estimate", "savings"]
