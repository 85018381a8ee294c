"""What the documents show is what one gets: every command is held by a test, and README's Python runs."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from scripts.docs import GENERATED
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker
from tests.acceptance.conftest import ROOT
from tests.acceptance.test_guide_bulk_api import COMMANDS as COMMANDS_OF_THE_BULK_API
from tests.acceptance.test_guide_configure import FLAGS, VARIABLES
from tests.acceptance.test_guide_limit_flushes import COMMANDS as COMMANDS_OF_FLUSHES
from tests.acceptance.test_guide_nexus import COMMANDS as COMMANDS_OF_NEXUS
from tests.acceptance.test_guides import SIGNAL
from tests.acceptance.test_typescript import COMMANDS as COMMANDS_IN_TYPESCRIPT
from tests.deploy.test_page import COMMANDS as COMMANDS_OF_DEPLOYMENT
from tests.deploy.test_page import EXPORTS as SETTINGS_OF_TEMPORAL_CLOUD
from tests.deploy.test_versioned import COMMANDS as COMMANDS_OF_VERSIONS
from tests.integration.test_versions import COMMANDS as COMMANDS_OF_UPGRADES
from tests.package.test_tutorial import COMMANDS as COMMANDS_OF_THE_TUTORIAL
from tests.support.databases import TestDatabase
from tests.support.waiting import assert_eventually

from temporal_batching.cli.app import app
from temporal_batching.contract import Outcome, Record, RejectCode, WriteRequest
from temporal_batching.errors import InvalidRequest
from temporal_batching.sinks.dead_letters import DeadLetter
from temporal_batching.testing.servers import FAST, find_temporal, temporal_server
from temporal_batching.wire.submission import read_submission

if TYPE_CHECKING:
    from tests.acceptance.conftest import Start

pytestmark = pytest.mark.documents

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = (
    "make",
    "uv",
    "pip",
    "npm",
    "python",
    "pytest",
    "temporal",
    "temporal-batching",
    "docker",
    "kubectl",
    "psql",
)

SERVICES = "tests/acceptance/test_services.py"
COMMANDS_OF_README = f"{SERVICES}::test_the_commands_of_the_readme_with_their_defaults_book_ten_payments_in_one_batch"
DEMO = (
    "tests/acceptance/test_demo.py"
    "::test_every_payment_is_in_the_database_once_and_what_stays_up_can_be_looked_into_as_it_says"
)
OPERATORS = f"{SERVICES}::test_operators_commands_reach_the_batcher"
AUDIT = "tests/acceptance/test_audit.py::test_a_deployment_holds_its_audit_until_it_is_damaged"

TUTORIAL = "tests/package/test_tutorial.py::test_the_tutorial_leads_to_a_first_batch"
INSTALLS = "tests/package/test_installs.py::test_the_wheel_installs_and_imports"
GUIDES = "tests/acceptance/test_guides.py"
CONFIGURE = "tests/acceptance/test_guide_configure.py"

LETTERS = f"{SERVICES}::test_an_operator_resends_dead_letters"

SIZING = "tests/acceptance/test_sizing.py"

LEDGER = f"{SERVICES}::test_an_operator_looks_up_a_request_and_prunes_the_ledger"

FLUSHES = "tests/acceptance/test_guide_limit_flushes.py"

OBSERVED = "tests/acceptance/test_observed.py::test_a_worker_is_observed_and_checked_by_its_commands"

TRACED = "tests/acceptance/test_guide_trace.py::test_a_worker_of_the_command_line_traces_and_logs"

HELD_BY = {
    "make demo": DEMO,
    'make demo DEMO="--sink postgresql --keep"': DEMO,
    # What runs this test, and what a person runs for longer; here it is seen that they would run what they say.
    "make test": "Makefile",
    "make setup": "Makefile",
    "make again": "Makefile",
    "make lint": "Makefile",
    "make docs": "tests/acceptance/test_site.py::test_the_site_builds_and_has_every_page",
    "make package": "Makefile",
    "make coverage": "Makefile",
    "make format": "Makefile",
    "make streams": "Makefile",
    "make soak": "Makefile",
    "make soak ROUNDS=100 SEED=7": "tests/soak/test_random_kills.py::test_rounds_of_random_kills_break_no_promise",
    "make faults": "Makefile",
    "make bench": "Makefile",
    "make simulate SEEDS=20000": "tests/simulation/test_simulation.py::test_no_schedule_breaks_a_promise",
    "make pins": "Makefile",
    "make oldest": "Makefile",
    ".ci/run": "Makefile",
    'pip install "temporal-batching[postgresql]"': INSTALLS,
    'pip install "temporal-batching[mariadb]"': INSTALLS,
    **dict.fromkeys(COMMANDS_OF_THE_TUTORIAL, TUTORIAL),
    SIGNAL: f"{GUIDES}::test_a_signal_from_the_command_line_is_written",
    # `make setup` does it, without which there are no tests; a second one could change what others use.
    "uv sync": "Makefile",
    "uv run temporal server start-dev": COMMANDS_OF_README,
    "uv run python batcher-service/worker.py": COMMANDS_OF_README,
    "uv run python main-service/worker.py": COMMANDS_OF_README,
    "uv run python batcher-service/starter.py": COMMANDS_OF_README,
    "uv run python main-service/starter.py --workflows 10": COMMANDS_OF_README,
    "temporal-batching demo --workflows 1000 --sink postgresql": DEMO,
    "temporal-batching monitor": f"{SERVICES}::test_the_monitor_follows_a_batcher_through_every_continue_as_new",
    "temporal-batching stats --json": OPERATORS,
    "temporal-batching pause": OPERATORS,
    "temporal-batching resume": OPERATORS,
    "temporal-batching drain": OPERATORS,
    "temporal-batching configure": OPERATORS,
    "temporal-batching configure --linger 1s": OPERATORS,
    "temporal-batching worker": DEMO,
    "temporal-batching worker --config batching.toml": f"{CONFIGURE}::test_the_file_with_settings_is_understood",
    **dict.fromkeys(
        [FLAGS.strip(), *VARIABLES],
        f"{CONFIGURE}::test_the_tables_and_rules_of_the_page_hold_by_file_flag_and_variable",
    ),
    "temporal-batching worker --metrics 127.0.0.1:9464": OBSERVED,
    "temporal-batching worker --health 127.0.0.1:8080": OBSERVED,
    'pip install "temporal-batching[opentelemetry]"': INSTALLS,
    "opentelemetry-instrument temporal-batching worker": TRACED,
    "temporal-batching worker --log-format json": TRACED,
    "temporal-batching check": OBSERVED,
    "temporal-batching start": "tests/acceptance/test_codec.py",
    "temporal-batching audit": AUDIT,
    "temporal-batching audit --complete": AUDIT,
    "temporal-batching dead-letters": LETTERS,
    "temporal-batching resend --all": LETTERS,
    "temporal-batching lookup ID": LEDGER,
    "temporal-batching prune --older-than 30d": LEDGER,
    "temporal-batching size --rate 5000 --bytes 300": f"{SIZING}::test_a_load_is_sized_without_a_temporal",
    "temporal-batching size --rate 5000 --bytes 300 --gateways 4 --linger 1s": (
        f"{SIZING}::test_a_load_is_sized_without_a_temporal"
    ),
    "temporal-batching savings --since 24h": f"{SIZING}::test_a_deployment_says_what_it_saved",
    "python -m benchmarks.questions.operations": "module",
    **dict.fromkeys(COMMANDS_OF_DEPLOYMENT, "tests/deploy/test_page.py::test_a_command_names_what_there_is"),
    **dict.fromkeys(
        SETTINGS_OF_TEMPORAL_CLOUD,
        "tests/deploy/test_page.py::test_the_settings_for_temporal_cloud_are_understood_by_the_sdk",
    ),
    "temporal-batching check --profile cloud": "tests/integration/test_tls.py",
    "make image": "Makefile",
    **dict.fromkeys(COMMANDS_OF_FLUSHES, f"{FLUSHES}::test_the_commands_of_the_page_flush_elsewhere_under_a_limit"),
    "temporal workflow metadata --workflow-id batcher-main-0": (
        f"{FLUSHES}::test_the_commands_of_the_page_flush_elsewhere_under_a_limit"
    ),
    "temporal workflow describe": "temporal",
    "temporal workflow cancel": "temporal",
    "temporal-batching adopt-ledger --name NAME --identity ID": OPERATORS,
    **dict.fromkeys(COMMANDS_OF_UPGRADES, "tests/integration/test_versions.py"),
    **dict.fromkeys(COMMANDS_OF_VERSIONS, "tests/deploy/test_versioned.py"),
    "temporal-batching worker --deployment-name batcher --build-id v1": "tests/unit/cli/test_worker.py",
    **dict.fromkeys(COMMANDS_OF_THE_BULK_API, "tests/acceptance/test_guide_bulk_api.py"),
    **dict.fromkeys(COMMANDS_OF_NEXUS, "tests/acceptance/test_guide_nexus.py"),
    **dict.fromkeys(COMMANDS_IN_TYPESCRIPT, "tests/acceptance/test_typescript.py"),
}
"""Every command of the documents: the test that runs it, or what else is seen to hold it."""


def shown(text: str) -> Iterator[str]:
    """The commands in a document: lines of shell blocks and of indented ones, and code within a sentence."""
    fenced = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for language, block in fenced.findall(text):
        if language in ("sh", "bash", "shell", "console"):
            yield from (line.removeprefix("$ ").strip() for line in block.splitlines() if line.strip())
    rest = fenced.sub("", text)
    program = re.compile(rf"(?:{'|'.join(PROGRAMS)})\s+\S|\.ci/run$")
    for code in [*re.findall(r"^(?: {4}|\t)(\S.*)$", rest, re.MULTILINE), *re.findall(r"`([^`\n]+)`", rest)]:
        if program.match(code):
            yield code


def commands() -> set[str]:
    return {command for path in DOCUMENTS for command in shown(path.read_text(encoding="utf-8"))}


def _measurements() -> set[str]:
    """Which ways were measured, and how: they change with every measurement."""
    return {command for command in commands() if command.startswith("make bench ")}


def test_every_command_of_the_documents_is_held_by_something() -> None:
    assert commands() - set(HELD_BY) - _measurements() == set(), (
        "shown, and held by nothing: run it in a test, and say here in which"
    )
    assert set(HELD_BY) - commands() == set(), "not shown any more"


@pytest.mark.parametrize("command", [c for c, by in HELD_BY.items() if "::" in by or by.endswith(".py")])
def test_the_test_that_holds_a_command_is_there(command: str) -> None:
    file, _, name = HELD_BY[command].partition("::")
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not name or re.search(rf"^(?:async )?def {name}\(", text, re.MULTILINE)


@pytest.mark.parametrize("command", sorted(_measurements() | {c for c in HELD_BY if c[:5] == "make "}))
def test_make_knows_its_target(command: str) -> None:
    done = subprocess.run(["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in HELD_BY if c.startswith("temporal-batching ")])
def test_the_command_line_knows_the_command_and_its_options(command: str) -> None:
    group: Any = typer.main.get_command(app)
    _, name, *options = shlex.split(command)
    group.commands[name].make_context(name, options)


@pytest.mark.parametrize("command", [c for c, by in HELD_BY.items() if by == "temporal"])
def test_temporals_own_command_line_knows_its_command(command: str) -> None:
    program = [str(find_temporal()), *shlex.split(command)[1:], "--help"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert f"{command} [flags]" in done.stdout


def test_what_else_is_shown_is_there() -> None:
    assert "postgresql" in metadata("temporal-batching").get_all("Provides-Extra", [])
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
    assert importlib.util.find_spec("benchmarks.questions.operations") is not None


# README's Python


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def readmes_programs(directory: Path, temporal: str, database: TestDatabase) -> Path:
    """The caller's module and the batcher's worker as they stand there, with the addresses of a test."""
    caller, batcher = blocks("README.md", "python")
    for shown_address, real in {"localhost:7233": temporal, "postgresql://app@localhost/app": database.url}.items():
        assert batcher.count(shown_address) == 1
        batcher = batcher.replace(shown_address, real)
    (directory / "readme_caller.py").write_text(caller, encoding="utf-8")
    (directory / "readme_batcher.py").write_text(batcher, encoding="utf-8")
    database.execute("CREATE TABLE entries (account text NOT NULL, amount numeric NOT NULL)")
    return directory / "readme_batcher.py"


async def start_payment(client: Client, workflow: Any) -> WorkflowHandle[Any, str]:
    options: Any = {"id": "readme", "task_queue": "readme", "execution_timeout": timedelta(seconds=60)}
    handle: WorkflowHandle[Any, str] = await client.start_workflow(workflow.run, args=["a-1", "9.50"], **options)
    return handle


async def test_readmes_example_writes_its_row(
    start: Start, temporal: str, postgresql: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = readmes_programs(tmp_path, temporal, postgresql)
    monkeypatch.syspath_prepend(str(tmp_path))
    workflow: Any = importlib.import_module("readme_caller").Payment
    client = await Client.connect(temporal)
    worker = await start("python", str(program))
    async with Worker(client, task_queue="readme", workflows=[workflow]):
        batch_id = await (await start_payment(client, workflow)).result()
    assert re.fullmatch(r"main-0\.[0-9a-f]{8}/1", batch_id), worker.output
    assert postgresql.rows("SELECT account, amount::text FROM entries") == [("a-1", "9.50")]
    assert await audited_by_the_documents_example(start, client, postgresql, tmp_path) == [
        "1 workflows, 1 requests written, every promise kept: True"
    ]


async def audited_by_the_documents_example(
    start: Start, client: Client, database: TestDatabase, directory: Path
) -> list[str]:
    """What the example of an audit prints, once Temporal lists the workflow."""

    async def listed() -> None:
        ended = "WorkflowType = 'Payment' AND ExecutionStatus = 'Completed'"
        assert (await client.count_workflows(ended)).count == 1

    await assert_eventually(listed)
    (example,) = blocks("docs/how-to/audit.md", "python")
    address = client.service_client.config.target_host
    for shown_address, real in {
        "localhost:7233": address,
        "postgresql://auditor@localhost/app": database.url,
    }.items():
        assert example.count(shown_address) == 1
        example = example.replace(shown_address, real)
    (directory / "audit_example.py").write_text(example, encoding="utf-8")
    process = await start("python", str(directory / "audit_example.py"))
    assert await process.ends() == 0, process.output
    return process.lines


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
async def test_readmes_worker_finishes_its_flush_when_it_is_stopped(
    start: Start,
    postgresql: TestDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    which: signal.Signals,
) -> None:
    """As a container's platform stops it, or Ctrl-C, while the database is at work on the batch."""
    flushing = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    async with temporal_server(directory=tmp_path, port=0, ui_port=0, options=FAST) as server:
        program = readmes_programs(tmp_path, server.address, postgresql)
        postgresql.execute(
            "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(1.5); RETURN NEW; END $$;;"
            "CREATE TRIGGER slow BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION slowly()"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        workflow: Any = importlib.import_module("readme_caller").Payment
        client = await Client.connect(server.address)
        worker = await start("python", str(program))
        async with Worker(client, task_queue="readme", workflows=[workflow]):
            payment = await start_payment(client, workflow)

            async def it_flushes() -> None:
                assert postgresql.scalar(flushing) == 1, worker.output

            await assert_eventually(it_flushes, within=30)
            status = await worker.stopped_by(which)
            assert (status, postgresql.rows("SELECT account FROM entries")) == (0, [("a-1",)]), worker.output
            assert await payment.result()


def test_the_example_of_a_test_passes_as_it_stands(tmp_path: Path) -> None:
    """As a user's own test; only Temporal's server is not downloaded."""
    (caller, _), (example,) = blocks("README.md", "python"), blocks("docs/how-to/test-your-code.md", "python")
    assert example.count("start_local()") == 1
    here = example.replace("start_local()", f"start_local(dev_server_existing_path={str(find_temporal())!r})")
    (tmp_path / "payments.py").write_text(caller, encoding="utf-8")
    (tmp_path / "test_payments.py").write_text(here, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


# What else the documents show


@pytest.mark.parametrize("number", range(len(blocks("docs/reference/wire-contract.md", "json"))))
def test_the_requests_of_the_wire_contract_are_requests(number: int) -> None:
    wire = json.loads(blocks("docs/reference/wire-contract.md", "json")[number])
    if "records" in wire:
        assert read_submission(wire).records == len(wire["records"])
    elif "requests" in wire:
        assert read_submission(wire).requests == len(wire["requests"])
    elif "packed" in wire:
        assert len(read_submission(wire).write_requests()) == wire["holds"][0]
    elif "reply_to" in wire:
        request = json.loads(blocks("docs/reference/wire-contract.md", "json")[0])
        assert [one.to_wire() for one in read_submission({**request, **wire}).replies] == [wire["reply_to"]]
    else:
        with pytest.raises(InvalidRequest):
            read_submission(wire)


async def test_the_tables_of_the_documents_are_what_the_sink_needs(postgresql: TestDatabase) -> None:
    ddl, *_ = blocks("docs/how-to/connect-a-database.md", "sql")
    postgresql.execute(ddl.replace(");\nCREATE", ");;CREATE"))
    sink = postgresql.sink(create_ledger=False)
    await sink.open()
    rejected = DeadLetter(
        WriteRequest("r", [Record("t", {"n": 1})]), Outcome.rejected(RejectCode.TYPE, "no"), "main-0/1"
    )
    assert await sink.keep_dead_letters([rejected])
    text = (ROOT / "docs/how-to/connect-a-database.md").read_text(encoding="utf-8")
    (tidying,) = re.findall(r"`(DELETE FROM [^`]+)`", text)
    postgresql.execute(tidying)


def test_every_link_between_documents_leads_somewhere() -> None:
    """From one file to another; `make docs` looks at headings too."""
    generated = {(ROOT / "docs" / name).resolve() for name in GENERATED}
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            aim = (path.parent / target).resolve()
            assert aim.exists() or aim in generated, f"{path.name}: {target}"
