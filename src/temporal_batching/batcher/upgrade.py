"""`Upgrade`: when a run ends so that a worker of another version executes the next one. A decision, nothing else.

Under Temporal's worker versioning a run stays with the version of the worker that began it (pinned), and so does the
next one, unless it is started as one that may go to the current version. So a shard changes version where it continues
as new, and nowhere else: no history is replayed by code that did not write it.

A shard that is idle continues as new for no other reason, and sees no change of the routing, for it has no tasks. So a
worker of the current version tells each shard that runs another one (`rollout`), and a told shard ends its run if
Temporal says as well that its tasks belong elsewhere. It does so once for each change of the routing: where something
holds it back, as an operator's override that the next run inherits, it would continue as new without end.
"""

from __future__ import annotations

from dataclasses import dataclass

from temporalio.workflow import ContinueAsNewVersioningBehavior, Info


@dataclass(slots=True)
class Upgrade:
    """What one run knows of a change of version.

    Attributes:
        tried: When the routing changed for which a run ended last; 0 for none. Carried over.
        told: When the latest change was made of which a worker told this run; 0 for none.
    """

    tried: float = 0.0
    told: float = 0.0

    def tell(self, changed_at: float) -> None:
        """A worker says when the routing of the batcher's task queue changed. What is older came late."""
        self.told = max(self.told, changed_at)

    def due(self, *, elsewhere: bool) -> bool:
        """Whether this run should end.

        Args:
            elsewhere: Whether Temporal says that the next run would be executed by another version.
        """
        return elsewhere and self.told > self.tried

    def carry(self, *, elsewhere: bool) -> float:
        """What the next run is to know as `tried`."""
        return self.told if self.due(elsewhere=elsewhere) else self.tried


def initial_behavior(info: Info) -> ContinueAsNewVersioningBehavior | None:
    """With which behaviour the next run starts: every one goes to the version that is current then.

    A run that continued as new without it would, for Temporal, have declined that version: its successors would not
    be told again that their tasks belong elsewhere.

    """
    version = info.get_current_deployment_version()
    if version is None or not version.deployment_name:  # the SDK gives an empty one where there is none
        return None
    return ContinueAsNewVersioningBehavior.AUTO_UPGRADE
