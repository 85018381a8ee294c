"""Callers in TypeScript: the example is built as strictly as its page says, and writes through a real batcher."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError
from temporalio.worker import Worker
from tests.acceptance.conftest import ROOT
from tests.conftest import server
from tests.support.databases import TestDatabase
from tests.support.nexus import nexus_endpoint
from tests.support.typescript import BUILD, EXAMPLE, HOW_TO_BUILD, HOW_TO_INSTALL, PATH, build_example, needs_node, npm
from tests.support.waiting import assert_eventually

from temporal_batching import BatcherHandle, BatcherNotRunning, BatcherPlugin, BatchPolicy, MemorySink, Sink
from temporal_batching.audit import audit
from temporal_batching.contract import WORKFLOW_BATCHER, BatcherStart
from temporal_batching.routing import batcher_workflow_id, default_task_queue

if TYPE_CHECKING:
    from tests.acceptance.conftest import Start

pytestmark = [*needs_node, pytest.mark.documents]

WAYS_IN = ("activity", "signal", "nexus")
PAGE = (ROOT / "docs" / "how-to" / "write-from-another-language.md").read_text(encoding="utf-8")

(COMMANDS,) = (block.splitlines() for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
INSTALL, COMPILE, TEST, WORKER, PLACE = (shlex.split(command)[1:] for command in COMMANDS)

DDL = (
    "CREATE TABLE orders (id integer PRIMARY KEY AUTOINCREMENT, number text UNIQUE, customer text NOT NULL);;"
    "CREATE TABLE lines (order_id integer NOT NULL REFERENCES orders (id), article text, price numeric)"
)

FIRST_ID = 2**53 + 1
"""The first key that the database generates: a double would be the number before."""

SHARDS = 2


def test_it_is_strictly_typed_and_its_unit_tests_pass() -> None:
    """Routing vectors, values that JSON would change, and which error is which."""
    build_example()
    assert '"strict": true' in (EXAMPLE / "tsconfig.json").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for path in (EXAMPLE / "src").rglob("*.ts")]
    assert not [text for text in sources if re.search(r"\bany\b[^a-z ]|@ts-|eslint", text)]
    done = npm(*TEST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"pass \d\d", done.stdout), done.stdout


def test_no_file_of_it_names_where_packages_come_from() -> None:
    lock = (EXAMPLE / "package-lock.json").read_text(encoding="utf-8")
    assert '"integrity"' in lock
    assert "://" not in lock
    assert "omit-lockfile-registry-resolved=true" in (EXAMPLE / ".npmrc").read_text(encoding="utf-8")


def test_the_page_shows_the_workflow_and_the_commands() -> None:
    ((name, code),) = re.findall(r'^```ts title="([\w.]+)"\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
    assert code == (EXAMPLE / "src" / name).read_text(encoding="utf-8")
    assert [list(HOW_TO_INSTALL), list(HOW_TO_BUILD)] == [INSTALL, COMPILE]


class Orders:
    """Starts the example's workflow."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def start(self, order: dict[str, Any], **options: Any) -> WorkflowHandle[Any, Any]:
        return await self._client.start_workflow(
            "placeOrder",
            args=[order, {"shards": SHARDS, "endpoint": f"{options.get('batcher', 'main')}-orders", **options}],
            id=f"order-{uuid4().hex}",
            task_queue="orders",
            execution_timeout=timedelta(seconds=90),
        )

    async def place(self, order: dict[str, Any], **options: Any) -> Any:
        return await (await self.start(order, **options)).result()

    async def by_each_way(self, number: str, order: dict[str, Any], **options: Any) -> list[Any]:
        each = (self.place({**order, "number": f"{number}-{via}"}, via=via, **options) for via in WAYS_IN)
        return list(await asyncio.gather(*each))


ORDER: dict[str, Any] = {"customer": "Zürich", "lines": [{"article": "a-7", "price": "9.90"}]}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """Of a server on which no other batcher has the name that the example uses."""
    async with server(tmp_path) as connected:
        yield connected


async def test_orders_are_written_by_workflows_and_programs_in_typescript(
    client: Client, sqlite: TestDatabase, start: Start, tmp_path: Path
) -> None:
    build_example()
    sqlite.execute(DDL)
    sqlite.execute("INSERT INTO orders VALUES (:id, 'before', 'c-0')", id=FIRST_ID - 1)
    (tmp_path / "temporal.toml").write_text("[profile.default]\n", encoding="utf-8")
    environment = {
        "TEMPORAL_ADDRESS": client.service_client.config.target_host,
        "TEMPORAL_CONFIG_FILE": str(tmp_path / "temporal.toml"),  # nobody's own; the SDK stumbles over an empty file
        "PATH": PATH,
        "MAX_CACHED_WORKFLOWS": "0",  # each task replays its workflow from the start
    }
    worker = await start("npm", "--prefix", str(BUILD), *WORKER, **environment)
    await worker.says("RUNNING")
    orders = Orders(client)
    async with (
        batcher(client, MemorySink(), "paused") as paused,
        batcher(client, MemorySink(), "late") as late,
        batcher(client, sqlite.sink(), shards=SHARDS),
    ):
        await paused.pause()
        await late.pause()
        expiring = asyncio.create_task(orders.by_each_way("20", ORDER, batcher="late", shards=1, timeout=20_000))

        # The key that the database has generated comes back, with every digit, to the parent and to its lines.
        placed = await orders.by_each_way("17", ORDER)
        assert [one["status"] for one in placed] == ["placed"] * 3, (placed, worker.output)
        assert {one["id"] for one in placed} == {str(FIRST_ID + n) for n in range(3)}
        found = sqlite.rows("SELECT order_id, article, price FROM lines ORDER BY order_id")
        assert found == [(FIRST_ID + n, "a-7", 9.9) for n in range(3)]
        # "Zürich" is routed to the second shard of two, as the published vectors say.
        assert all(re.fullmatch(r"main-1\.\w+/\d+", one["batch"]) for one in placed)

        # The same number again is the same order, and gets the same id.
        again = await orders.by_each_way("17", ORDER)
        assert [(one["again"], one["id"]) for one in again] == [(True, one["id"]) for one in placed]

        refused = await orders.by_each_way("18", {"customer": None, "lines": []})
        assert [(one["status"], one["code"]) for one in refused] == [("refused", "constraint")] * 3

        # A program has no workflow around it.
        program = await start("npm", "--prefix", str(BUILD), *PLACE, **environment)
        assert await program.ends() == 0, program.output
        assert "status: 'placed'" in program.output
        assert re.search(r"written \[ \{ id: '\d{16}' \} \]", program.output), program.output

        # No batcher takes it: certainly not written. One takes it and does not answer: nobody knows.
        silent = batcher_workflow_id("silent", 0)
        await client.start_workflow(WORKFLOW_BATCHER, BatcherStart("silent", 0), id=silent, task_queue="silent")
        *closed, unknown = await asyncio.gather(
            *(orders.place({**ORDER, "number": "23"}, via=via, batcher="nowhere", timeout=3000) for via in WAYS_IN[:2]),
            orders.place({**ORDER, "number": "24"}, via="signal", batcher="silent", shards=1, timeout=2000),
        )
        assert [one["status"] for one in [*closed, unknown]] == ["closed", "closed", "unknown"], (closed, unknown)

        # Who is cancelled withdraws what is pending; the others learn in time that nothing was written.
        await all_are_withdrawn(orders, paused)
        assert [one["status"] for one in await expiring] == ["late"] * 3, (await expiring, worker.output)
    numbers = {number for (number,) in sqlite.rows("SELECT number FROM orders")}
    assert numbers == {"before", *(f"17-{via}" for via in WAYS_IN), "17", "17-program"}
    assert await failed_tasks(client) == [], worker.output

    async def the_audit_agrees() -> None:
        report = await audit(client, sqlite.url, query="TaskQueue = 'orders'")
        assert not report.violations, report.violations
        assert (report.results["written"], report.results["duplicate"], report.rows) == (5, 3, 9)

    await assert_eventually(the_audit_agrees, within=30)


@asynccontextmanager
async def batcher(client: Client, sink: Sink, name: str = "main", *, shards: int = 1) -> AsyncIterator[BatcherHandle]:
    plugin = BatcherPlugin(sink, name=name, shards=shards, policy=BatchPolicy(linger=timedelta(0)))
    handle = BatcherHandle(client, name, shards=shards)
    queue = default_task_queue(name)
    async with nexus_endpoint(client, f"{name}-orders", queue), Worker(client, task_queue=queue, plugins=[plugin]):

        async def it_runs() -> None:
            try:
                await handle.stats()
            except BatcherNotRunning as err:
                raise AssertionError from err

        await assert_eventually(it_runs, within=30)
        yield handle


async def all_are_withdrawn(orders: Orders, paused: BatcherHandle) -> None:
    cancelled = [
        await orders.start({**ORDER, "number": f"21-{via}"}, via=via, batcher="paused", shards=1) for via in WAYS_IN
    ]

    async def pending(number: int) -> None:
        (stats,) = await paused.stats()
        assert stats.pending == number

    await assert_eventually(lambda: pending(3), within=30)
    for one in cancelled:
        await one.cancel()
    await assert_eventually(lambda: pending(0), within=30)
    for one in cancelled:
        with pytest.raises(WorkflowFailureError) as failure:
            await one.result()
        assert isinstance(failure.value.cause, CancelledError)


async def failed_tasks(client: Client) -> list[WorkflowTaskFailedCause.ValueType]:
    """Why workflow tasks failed, over all orders: an error of the example, or of its determinism.

    But not what a confirmation causes that arrives while its workflow ends: the server retries that task by itself.
    """
    failed = []
    async for execution in client.list_workflows("TaskQueue = 'orders'"):
        history = await client.get_workflow_handle(execution.id, run_id=execution.run_id).fetch_history()
        failed += [event.workflow_task_failed_event_attributes.cause for event in history.events]
    benign = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
    return [cause for cause in failed if cause not in (0, benign)]
