"""One run from its plan to the auditor's judgement; and the smallest plan that still fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from temporal_batching.audit.rules import Violation, find_violations
from tests.simulation.callers import Callers
from tests.simulation.operations import wrong_changes
from tests.simulation.plan import CallPlan, Plan, Trouble
from tests.simulation.shard import Shard
from tests.simulation.world import World

MOST_SHARDS = 3
END_OF_TROUBLE = 60.0
END = 2_000.0


@dataclass
class Report:
    """What a run came to."""

    violations: list[Violation]
    seen: Counter[str]
    calls: int
    trace: list[str] = field(default_factory=list)


class Run:
    def __init__(self, plan: Plan, *, trace: bool = False) -> None:
        self.plan = plan
        self.world = World(plan, trace=trace)
        self.callers = Callers(self.world)
        self.shards = [Shard(self.world, self.callers, number, plan.policy) for number in range(MOST_SHARDS)]
        self.callers.shards = self.shards

    def report(self) -> Report:
        world = self.world
        for step in self.plan.steps:
            if isinstance(step, CallPlan):
                world.after(step.at, self.callers.start, step)
            else:
                world.after(step.at, self._trouble, step)
        world.after(END_OF_TROUBLE, self._peace)
        world.run(END)
        return Report(self._violations(), world.seen, len(self.callers.facts()), world.lines or [])

    def _violations(self) -> list[Violation]:
        world = self.world
        # What an attempt refused, and the next one of the same batch wrote because the constraint held no longer, comes
        # after what the first one wrote. Nobody was told otherwise, so that is no broken promise.
        fragile = {row.request_id for row in world.rows() if "-fragile-" in row.content}
        arrivals = [a for shard in self.shards for a in shard.arrivals if a.request_id not in fragile]
        found = find_violations(self.callers.facts(), world.rows(), world.ledger(), arrivals)
        found += self._wrong_values()
        found += wrong_changes(world.database, world.rows(), arrivals)
        for number, shard in enumerate(self.shards):
            buffer = shard.buffer
            if not buffer.idle:
                found.append(Violation("stuck", f"shard {number}", f"{buffer.pending} pending, {buffer.outbox} untold"))
            if buffer.counts.settled != shard.owed:
                found.append(
                    Violation("lost", f"shard {number}", f"settled {buffer.counts.settled} of {shard.owed} requests")
                )
            for workflow, request_id in shard.unanswered.values():
                found.append(Violation("never answered", request_id, f"{workflow}, accepted by shard {number}"))
            if buffer.pending_bytes:
                found.append(Violation("leak", f"shard {number}", f"{buffer.pending_bytes} bytes of nothing"))
        if not world.quiet:
            found.append(Violation("restless", "world", "something goes on for ever"))
        return found

    def _wrong_values(self) -> Iterator[Violation]:
        """Every caller has what the ledger says was returned, and that is what is in the rows."""
        ledger = self.world.database.ledger
        for request_id, returned in self.callers.received():
            kept = ledger[request_id].returned if request_id in ledger else None
            if returned != kept:
                yield Violation("other values", request_id, f"received {returned}, the ledger has {kept}")
        numbers = {(row["request"], row["position"]): row for row in self.world.database.rows.get("t", ())}
        for request_id, entry in ledger.items():
            for position, row in enumerate((entry.returned or ())[:-1]):  # the last record is not one of a fact
                stored = numbers[request_id, position]
                first = numbers[request_id, 0]["number"]
                if row != {"number": stored["number"], "position": position} or stored.get("first", first) != first:
                    yield Violation("other values", request_id, f"returned {row}, the row is {stored}")

    def _trouble(self, trouble: Trouble) -> None:
        world = self.world
        world.note(f"-- {trouble.kind} {trouble.argument if trouble.argument is not None else ''}", trouble.kind)
        match trouble.kind:
            case "down" | "down in doubt":
                world.down = "in doubt" if trouble.kind.endswith("doubt") else "certain"
            case "down ends" | "down in doubt ends":
                world.down = None
            case "fragile refused" | "fragile refused ends":
                world.fragile_refused = not trouble.kind.endswith("ends")
            case "lock":
                world.locked.add(trouble.argument)
            case "lock ends":
                world.locked.discard(trouble.argument)
            case "callers unreachable" | "callers unreachable ends":
                world.callers_unreachable = not trouble.kind.endswith("ends")
            case "contents unreadable" | "contents unreadable ends":
                world.contents_unreadable = not trouble.kind.endswith("ends")
            case "delete activity":
                self.callers.delete_activity()
            case "jump":
                world.skipped += trouble.argument
            case "reshard":
                world.shards = trouble.argument
            case _:
                for shard in self.shards:
                    self._trouble_shard(shard, trouble)

    def _trouble_shard(self, shard: Shard, trouble: Trouble) -> None:
        match trouble.kind:
            case "crash":
                shard.crash()
            case "close":
                shard.close()
            case "cancel":
                shard.cancel()
            case "terminate":
                shard.terminate()
            case "flush":
                shard.flush()
            case "policy":
                shard.set_policy(trouble.argument)
            case "pause" | "pause ends":
                shard.buffer.paused = trouble.kind == "pause"
                shard.look()
            case "drain" | "drain ends":
                shard.buffer.draining = trouble.kind == "drain"
                shard.flush()
            case other:
                raise ValueError(f"no trouble is called {other!r}")

    def _peace(self) -> None:
        """From here on everything works, so that everything must come to an end."""
        world = self.world
        world.note("-- peace")
        world.faults = dict.fromkeys(world.faults, 0.0)
        world.down = None
        world.locked.clear()
        world.fragile_refused = world.callers_unreachable = world.contents_unreadable = False
        for shard in self.shards:
            shard.buffer.paused = shard.buffer.draining = False
            shard.look()


def run(plan: Plan, *, trace: bool = False) -> Report:
    return Run(plan, trace=trace).report()


def shrink(plan: Plan) -> Plan:
    """Leaves out steps, first many at a time, for as long as a violation of the same rule remains."""
    rules = {violation.rule for violation in run(plan).violations}
    size = len(plan.steps) // 2
    while size:
        start = 0
        while start < len(plan.steps):
            fewer = replace(plan, steps=plan.steps[:start] + plan.steps[start + size :])
            if rules & {violation.rule for violation in run(fewer).violations}:
                plan = fewer
            else:
                start += size
        size //= 2
    return plan
