"""The batcher's activities are the library's; this names them, and says which object of the worker serves each.

- `Gateway`: ``batch_write`` and its kin, the door for callers in any language.
- `Flusher`: ``flush_batch``, which hands a batch to the sink and completes its callers' activities.
- `deliver_confirmations`: what could not be delivered at once.
"""

from temporal_batching.flush.activity import Flusher
from temporal_batching.flush.delivery import deliver_confirmations
from temporal_batching.gateway.activities import Gateway

__all__ = ["Flusher", "Gateway", "deliver_confirmations"]
