"""A client for the Temporal that the environment names, or one line that says why there is none."""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import GrpcCompression, RPCError, RPCStatusCode

from temporal_batching.cli.console import CommandError
from temporal_batching.contract import BatcherStart
from temporal_batching.routing import batcher_workflow_id
from temporal_batching.settings import BatcherSettings, SettingsError

DEFAULT_ADDRESS = "localhost:7233"
CONNECT_SECONDS = 8.0


async def connect(
    *,
    address: str | None = None,
    namespace: str | None = None,
    runtime: Runtime | None = None,
    environment: dict[str, str] | None = None,
    data_converter: str = "",
) -> Client:
    """Connects as `temporalio.envconfig` says: ``TEMPORAL_ADDRESS``, a profile, TLS, an API key.

    Args:
        address: Wins over the environment.
        namespace: Likewise.
        runtime: With telemetry, where wanted.
        environment: Variables to read instead of this process's.
        data_converter: ``MODULE:NAME`` of the data converter; Temporal's default if empty.

    Raises:
        SettingsError: There is no such data converter.
        CommandError: Nothing there, the wrong thing there, no such namespace, or no access.
    """
    try:
        config: dict[str, Any] = dict(ClientConfig.load_client_connect_config(override_env_vars=environment))
    except (RuntimeError, ValueError, OSError) as err:
        raise CommandError(f"Temporal's client settings cannot be read: {err}") from None
    if data_converter:
        config["data_converter"] = load_converter(data_converter)
    config["target_host"] = address or config.get("target_host") or DEFAULT_ADDRESS
    config["namespace"] = namespace or config.get("namespace") or "default"
    target = config["target_host"]
    # gzip saves traffic between machines; on one machine it only costs CPU.
    config["grpc_compression"] = GrpcCompression.NONE if is_loopback(target) else GrpcCompression.GZIP
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            client = await Client.connect(**config, runtime=runtime)
            await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except TimeoutError:
        raise CommandError(f"Temporal at {target} did not answer within {CONNECT_SECONDS:g} s. {_ADVICE}") from None
    except RPCError as err:
        raise CommandError(_refusal(err, target, config)) from None
    except (RuntimeError, ValueError, TypeError) as err:
        raise CommandError(f"Cannot reach Temporal at {target}: {_reason(err, config)}. {_ADVICE}") from None
    return client


@dataclass(frozen=True)
class Target:
    """Which Temporal, where a flag says so (None leaves it to the environment), and which settings were flags.

    The data converter is the setting, wherever it was set: what travels to that Temporal goes through it.
    """

    address: str | None = None
    namespace: str | None = None
    data_converter: str = ""
    flags: frozenset[str] = frozenset()

    async def connect(self, *, runtime: Runtime | None = None) -> Client:
        """A client of this Temporal.

        Args:
            runtime: With telemetry, where wanted.

        Raises:
            SettingsError: There is no such data converter.
            CommandError: No Temporal answers there, or it refuses access. One line, without secrets.
        """
        return await connect(
            address=self.address, namespace=self.namespace, runtime=runtime, data_converter=self.data_converter
        )


async def connect_to_batcher(target: Target, settings: BatcherSettings, *, runtime: Runtime | None = None) -> Client:
    """A client that can read what the batcher's shards send.

    Raises:
        CommandError: No Temporal answers there, or another data converter is needed.
    """
    client = await target.connect(runtime=runtime)
    await check_readable(client, settings)
    return client


async def check_readable(client: Client, settings: BatcherSettings) -> None:
    """Makes sure that what the batcher's shards say can be read, before anything is sent to them.

    A shard began with a payload of its own. If this client cannot decode it, a codec encodes what travels there, and
    this client would send records in clear.

    Raises:
        CommandError: It cannot be decoded. The message names the option.
    """
    shard = client.get_workflow_handle(batcher_workflow_id(settings.name, 0))
    try:
        first = await anext(aiter(shard.fetch_history_events(page_size=1)), None)
    except RPCError as err:
        if err.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.PERMISSION_DENIED):
            return  # no shard, nothing to compare; or a role that may not read histories
        raise CommandError(f"batcher '{settings.name}' cannot be asked: {err.message}") from None
    if first is None:
        return
    begun = first.workflow_execution_started_event_attributes.input
    try:
        await client.data_converter.decode(begun.payloads, [BatcherStart])
    except Exception:  # a converter or a codec may raise anything
        encodings = {p.metadata.get("encoding", b"").decode(errors="replace") for p in begun.payloads}
        raise unreadable(settings, ", ".join(sorted(encodings))) from None


def unreadable(settings: BatcherSettings, encoding: str = "") -> CommandError:
    """The error where this client's data converter is another one than the batcher's."""
    which = f" (encoding {encoding})" if encoding else ""
    how = "with another data converter than" if settings.data_converter else "without"
    return CommandError(
        f"what batcher '{settings.name}' sends{which} cannot be read {how} the one of its workers and callers: pass it "
        "with --data-converter MODULE:NAME, or BATCHING_DATA_CONVERTER"
    )


def load_converter(name: str) -> DataConverter:
    """The data converter of this name, from a module in the working directory or in the environment."""
    wanted = "MODULE:NAME of a temporalio DataConverter"
    module, _, attribute = name.partition(":")
    try:
        sys.path.insert(0, "")
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as problem:
        raise SettingsError(f"--data-converter {name!r}: {problem}; {wanted}") from None
    finally:
        sys.path.remove("")
    if not isinstance(found, DataConverter):
        raise SettingsError(f"--data-converter {name!r}: a {type(found).__name__}; {wanted}")
    return found


_ADVICE = "Start one with `temporal server start-dev`, or set TEMPORAL_ADDRESS (host:port)."


def is_loopback(target: str) -> bool:
    host = target.rpartition(":")[0].strip("[]") or target
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refusal(err: RPCError, target: str, config: Mapping[str, Any]) -> str:
    namespace = config["namespace"]
    if err.status == RPCStatusCode.NOT_FOUND:
        return f"Temporal at {target} has no namespace '{namespace}'. Create it, or set TEMPORAL_NAMESPACE."
    if err.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED):
        return f"Temporal at {target} refuses access to '{namespace}'. Check TEMPORAL_API_KEY or the TLS certificates."
    return f"Temporal at {target} answered {err.status.name}: {_without_key(err.message, config)}. {_ADVICE}"


def _reason(err: Exception, config: Mapping[str, Any]) -> str:
    text = _without_key(str(err), config)
    # The transport nests its reasons: the innermost message is the one a person can act on.
    if "dns error" in text:
        return "the host is unknown"
    if "InvalidContentType" in text or "HTTP status" in text or "http2 error" in text:
        return "something answers there that is not Temporal, or TLS is set on one side only"
    innermost = re.findall(r'message: "([^"]+)"', text)
    return str(innermost[-1]).lower() if innermost else text.removeprefix("Failed client connect: ")


def _without_key(text: str, config: Mapping[str, Any]) -> str:
    key = config.get("api_key")
    return text.replace(key, "***") if key else text
