"""`KeySet`: the keys of several submissions, and which later ones have to wait for them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from temporal_batching.wire.submission import Submission


class KeySet:
    """Counts keys. A parcel whose keys are many has every key: it waits for all that have any, and they for it."""

    def __init__(self, submissions: Iterable[Submission] = ()) -> None:
        self._keys: Counter[str] = Counter()
        self._every = 0  # submissions that have every key
        for submission in submissions:
            self.add(submission)

    def __bool__(self) -> bool:
        return bool(self._keys) or self._every > 0

    @property
    def named(self) -> frozenset[str]:
        """The keys that are known by name."""
        return frozenset(self._keys)

    def add(self, submission: Submission) -> None:
        self._keys.update(submission.keys)
        self._every += submission.has_many_keys

    def remove(self, submission: Submission) -> None:
        self._every -= submission.has_many_keys
        for key in submission.keys:
            self._keys[key] -= 1
            if not self._keys[key]:
                del self._keys[key]

    def block(self, submission: Submission) -> bool:
        """Whether a later submission has to wait for these."""
        if submission.has_many_keys:
            return bool(self)
        if self._every and submission.keys:
            return True
        return any(key in self._keys for key in submission.keys)
