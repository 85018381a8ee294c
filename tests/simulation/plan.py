"""What happens in a run from outside, all decided beforehand, so that a failing run can be made smaller."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

CALM = {"lost": 0.0, "slow": 0.02, "stuck": 0.0, "broken": 0.0, "crash": 0.0}
ROUGH = {"lost": 0.08, "slow": 0.15, "stuck": 0.08, "broken": 0.12, "crash": 0.0}
WILD = {"lost": 0.25, "slow": 0.3, "stuck": 0.25, "broken": 0.3, "crash": 0.0}

SECONDS_OF_CALLS = 30.0
"""Calls begin, and trouble is made, in this time; afterwards everything is let come to its end."""

OVERLAPPING = 7
"""Every so many seeds are about batches that overlap. Those that once found a bug are not among them: they stay."""

RequestSpec: TypeAlias = tuple[str, str, int]
"""Request id, content, records. What the sink makes of it is part of the content."""


@dataclass(frozen=True)
class CallPlan:
    """One write: through a door, by a caller, for requests. More than one request is a parcel."""

    number: int
    at: float
    door: str
    caller: str
    requests: tuple[RequestSpec, ...]
    key: str
    timeout: float
    cancelled_after: float | None
    keys: tuple[str, ...] = ()
    """Of each request, where they are not all the same."""

    def key_of(self, position: int) -> str:
        return self.keys[position] if self.keys else self.key


@dataclass(frozen=True)
class Trouble:
    """Something that happens to the service."""

    at: float
    kind: str
    argument: Any = None


@dataclass(frozen=True)
class Plan:
    seed: int
    shards: int
    policy: dict[str, Any]
    faults: dict[str, float]
    steps: tuple[CallPlan | Trouble, ...]
    fenced: bool = True
    """Whether the sink has a `fence` of its own."""


def make_plan(seed: int) -> Plan:
    rng = Random(seed)
    policy = _policy(rng)
    faults = rng.choice([CALM, ROUGH, ROUGH, WILD])
    # What was added to plans draws from a chance of its own: the schedules of older seeds stay.
    more = Random(f"{seed}/more")
    fenced = more.random() < 0.8
    steps: list[CallPlan | Trouble] = [*_calls(rng, _Fates(more, fenced)), *_troubles(rng), *_locks(more), *_ends(more)]
    shards = rng.choice([1, 1, 2])
    if seed % OVERLAPPING == 0:
        shards = 1
        overlap = Random(f"{seed}/overlap")
        policy |= _many_in_flight(overlap)
        steps = [step for step in steps if isinstance(step, Trouble) and step.kind not in ("reshard", "policy")]
        steps += _bursts(overlap, _Fates(more, fenced))
    steps += _contents(Random(f"{seed}/contents"))
    steps.sort(key=lambda step: step.at)
    return Plan(seed, shards, policy, faults, tuple(steps), fenced)


def _policy(rng: Random) -> dict[str, Any]:
    return {
        "max_batch_size": rng.choice([2, 3, 5, 20]),
        "linger": rng.choice([0.0, 0.2, 2.0, 10.0]),
        "max_pending": rng.choice([3, 8, 100]),
        "max_in_flight": rng.choice([1, 1, 1, 2, 3]),
        "flush_timeout": rng.choice([2.0, 5.0]),
        "retry_initial": 0.5,
        "retry_max": rng.choice([1.0, 4.0]),
        "deadline_margin": rng.choice([0.0, 0.5, 2.0]),
        "confirmation_timeout": 20.0,
    }


def _calls(rng: Random, fates: _Fates) -> list[CallPlan]:
    calls: list[CallPlan] = []
    used: dict[str, tuple[str, list[str]]] = {}  # request id to its key and its contents
    repeating = rng.choice([0.1, 0.4, 0.7])
    signals = rng.choice([0.0, 0.3, 0.6])
    keys = ["k1", "k2", "k3", ""]
    for number in range(rng.randint(4, 28)):
        key = rng.choice(keys)
        door = "signal" if rng.random() < signals else "activity"
        many = rng.randint(2, 3) if door == "activity" and rng.random() < 0.15 else 1
        requests: list[RequestSpec] = []
        for _ in range(many):
            same_key = [name for name, (its_key, _) in used.items() if its_key == key and name[:1] == "r"]
            if same_key and rng.random() < repeating:
                name = rng.choice(same_key)
                contents = used[name][1]
                if rng.random() < 0.15:
                    contents.append(_content(rng, fates, name, len(contents)))
                content = rng.choice(contents)
            else:
                name = f"r{len(used)}"
                content = _content(rng, fates, name, 0)
                used[name] = (key, [content])
            if many == 1 or key:  # a parcel holds requests of one shard, so here of one key
                requests.append((name, content, int(content.rsplit("x", 1)[1])))
        timeout = rng.choice([2.0, 5.0, 20.0, 60.0])
        cancelled = rng.uniform(0, timeout) if rng.random() < 0.15 else None
        at = rng.uniform(0, SECONDS_OF_CALLS)
        caller = f"w{rng.randrange(4)}"
        if door == "signal" and requests:
            # A signal says which request it answers, not which of a workflow's calls: no two have the same id here.
            earlier = {call.caller for call in calls if call.door == door and call.requests[0][0] == requests[0][0]}
            caller = next(name for name in (caller, *(f"w{n}" for n in range(99))) if name not in earlier)
        if requests:
            calls.append(CallPlan(number, at, door, caller, tuple(requests), key, timeout, cancelled))
    return calls


def _many_in_flight(rng: Random) -> dict[str, Any]:
    return {
        "max_in_flight": rng.choice([2, 4, 8]),
        "max_batch_size": rng.choice([1, 2, 3, 5]),
        "max_pending": 100,
        "linger": rng.choice([0.0, 0.0, 0.2, 2.0]),
    }


def _bursts(rng: Random, fates: _Fates) -> list[CallPlan]:
    """Many requests of few keys at nearly the same time, alone and in parcels of several keys: batches overlap."""
    calls: list[CallPlan] = []
    keys = ["k1", "k2", "k3", "k4", ""]
    names = 0
    for _ in range(rng.randint(1, 4)):
        start = rng.uniform(0, SECONDS_OF_CALLS)
        for _ in range(rng.randint(4, 12)):
            number, many = len(calls), rng.choice([1, 1, 1, 2, 3])
            its_keys = tuple(rng.choice(keys) for _ in range(many))
            requests = [(f"b{names + n}", _content(rng, fates, f"b{names + n}", 0)) for n in range(many)]
            names += many
            specs = tuple((name, content, int(content.rsplit("x", 1)[1])) for name, content in requests)
            door = "signal" if many == 1 and rng.random() < 0.3 else "activity"
            timeout = rng.choice([5.0, 20.0, 60.0])
            cancelled = rng.uniform(0, timeout) if rng.random() < 0.1 else None
            at = start + rng.uniform(0, 1.0)
            calls.append(CallPlan(number, at, door, f"w{number}", specs, its_keys[0], timeout, cancelled, its_keys))
    return calls


def _content(rng: Random, fates: _Fates, name: str, version: int) -> str:
    """Names the records, and says what the sink makes of them."""
    fate = fates.change(rng.choices(["ok", "refused", "fragile", "breaks"], [90, 4, 4, 2])[0])
    return f"{name}.{version}-{fate}-x{rng.choice([1, 1, 1, 2])}"


class _Fates:
    """What else a sink may make of a request: it is written and the sink breaks; or it can never be written now."""

    def __init__(self, rng: Random, fenced: bool) -> None:
        self._rng = rng
        self._fenced = fenced

    def change(self, fate: str) -> str:
        if fate == "ok" and self._rng.random() < 0.05:
            return self._rng.choice(["lost", "never"])
        # Without a fence an attempt that is still under way may write what another one was refused.
        return fate if self._fenced or fate != "fragile" else "ok"


def _locks(rng: Random) -> list[Trouble]:
    """Somebody else holds the rows of some keys for a while."""
    locks: list[Trouble] = []
    for key in rng.choice([[], [], ["k1"], ["k1", "k2"], ["k1", "k2", "k3", ""]]):
        start = rng.uniform(0, SECONDS_OF_CALLS)
        locks += [Trouble(start, "lock", key), Trouble(start + rng.uniform(0.5, 30), "lock ends", key)]
    return locks


def _contents(rng: Random) -> list[Trouble]:
    """Temporal cannot be asked for the content of parcels for a while; and activities are deleted with theirs."""
    troubles = [
        Trouble(rng.uniform(0, SECONDS_OF_CALLS), "delete activity") for _ in range(rng.choice([0, 0, 0, 1, 2]))
    ]
    if rng.random() < 0.2:
        start = rng.uniform(0, SECONDS_OF_CALLS)
        troubles.append(Trouble(start, "contents unreadable"))
        troubles.append(Trouble(start + rng.uniform(0.5, 30), "contents unreadable ends"))
    return troubles


def _ends(rng: Random) -> list[Trouble]:
    """Shards are cancelled, or terminated, and started anew."""
    kinds = rng.choice([[], [], ["cancel"], ["cancel", "cancel"], ["terminate"], ["cancel", "terminate"]])
    return [Trouble(rng.uniform(0, SECONDS_OF_CALLS), kind) for kind in kinds]


def _troubles(rng: Random) -> list[Trouble]:
    def when() -> float:
        return rng.uniform(0, SECONDS_OF_CALLS)

    troubles: list[Trouble] = []
    for _ in range(rng.choice([0, 0, 1, 2])):
        start = when()
        kind = rng.choice(["down", "down in doubt", "fragile refused", "callers unreachable"])
        troubles += [Trouble(start, kind), Trouble(start + rng.uniform(0.5, 20), f"{kind} ends")]
    for kind, most in (("crash", 2), ("close", 4), ("jump", 1), ("flush", 1), ("policy", 1), ("reshard", 1)):
        for _ in range(rng.randint(0, most)):
            argument: Any = None
            if kind == "jump":
                argument = rng.choice([0.5, 5.0, 60.0])
            elif kind == "policy":
                argument = _policy(rng)
            elif kind == "reshard":
                argument = rng.choice([1, 2, 3])
            troubles.append(Trouble(when(), kind, argument))
    if rng.random() < 0.15:
        start = when()
        kind = rng.choice(["pause", "drain"])
        troubles += [Trouble(start, kind), Trouble(start + rng.uniform(1, 15), f"{kind} ends")]
    return troubles
