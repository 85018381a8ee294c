"""A client for the Temporal that the environment names, or one line that says why there is none."""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
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
CONFIG_FILE = "TEMPORAL_CONFIG_FILE"
"""Names the file of Temporal's own settings."""


async def connect(
    *,
    address: str | None = None,
    namespace: str | None = None,
    profile: str | None = None,
    runtime: Runtime | None = None,
    environment: dict[str, str] | None = None,
    data_converter: str = "",
) -> Client:
    """Connects as `temporalio.envconfig` says: ``TEMPORAL_ADDRESS``, a profile, TLS, an API key.

    Args:
        address: Wins over the environment.
        namespace: Likewise.
        profile: Of Temporal's own settings file; wins over ``TEMPORAL_PROFILE``.
        runtime: With telemetry, where wanted.
        environment: Variables to read instead of this process's.
        data_converter: ``MODULE:NAME`` of the data converter; Temporal's default if empty.

    Raises:
        SettingsError: There is no such data converter.
        CommandError: Nothing there, the wrong thing there, no such namespace, or no access.
    """
    config = _client_settings(profile, environment)
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
        raise CommandError(f"Cannot reach Temporal at {target}: {_reason(err, config)}") from None
    return client


def _client_settings(profile: str | None, environment: Mapping[str, str] | None) -> dict[str, Any]:
    """Temporal's own settings, as arguments of `Client.connect`.

    Raises:
        CommandError: They cannot be read.
    """
    file = (os.environ if environment is None else environment).get(CONFIG_FILE)
    if file and not Path(file).exists():
        # The SDK goes on without it, to a Temporal on this machine.
        raise CommandError(f"Temporal's client settings cannot be read: {CONFIG_FILE} {file!r} does not exist")
    try:
        config: dict[str, Any] = dict(ClientConfig.load_client_connect_config(profile, override_env_vars=environment))
    except OSError as err:
        problem = f"{err.filename}: {err.strerror}"
        raise CommandError(f"Temporal's client settings cannot be read: {problem}") from None
    except (RuntimeError, ValueError) as err:
        problem = " ".join(str(err).split())
        raise CommandError(f"Temporal's client settings cannot be read: {problem}") from None
    # A key from a file ends with a line break, with which the SDK would not send it. An empty one is none: a Secret
    # that is not needed is often left empty, and the SDK would switch TLS on for it.
    key = (config.pop("api_key", None) or "").strip()
    if key:
        config["api_key"] = key
    elif config.get("tls") is True:  # by the key alone: where TLS is configured, here is what was configured
        del config["tls"]
    return config


@dataclass(frozen=True)
class Target:
    """Which Temporal, where a flag says so (None leaves it to the environment), and which settings were flags.

    The data converter is the setting, wherever it was set: what travels to that Temporal goes through it.
    """

    address: str | None = None
    namespace: str | None = None
    profile: str | None = None
    data_converter: str = ""
    flags: frozenset[str] = frozenset()

    @property
    def is_given(self) -> bool:
        """Whether an address or a profile was named, by a flag or by a variable."""
        said = (os.environ.get(name) for name in ("TEMPORAL_ADDRESS", "TEMPORAL_PROFILE"))
        return any((self.address, self.profile, *said))

    @property
    def variables(self) -> dict[str, str]:
        """The flags as Temporal's own variables, for the process of a service."""
        given = {"ADDRESS": self.address, "NAMESPACE": self.namespace, "PROFILE": self.profile}
        return {f"TEMPORAL_{name}": value for name, value in given.items() if value}

    async def connect(self, *, runtime: Runtime | None = None) -> Client:
        """A client of this Temporal.

        Args:
            runtime: With telemetry, where wanted.

        Raises:
            SettingsError: There is no such data converter.
            CommandError: No Temporal answers there, or it refuses access. One line, without secrets.
        """
        return await connect(
            address=self.address,
            namespace=self.namespace,
            profile=self.profile,
            runtime=runtime,
            data_converter=self.data_converter,
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
    for pattern, reason in _REASONS:
        if found := re.search(pattern, text):
            return found.expand(reason)
    innermost = re.findall(r'message: "([^"]+)"', text)
    problem = str(innermost[-1]).lower() if innermost else text.removeprefix("Failed client connect: ")
    return f"{problem}. {_ADVICE}"


_REASONS = (
    (r"dns error", f"the host is unknown. {_ADVICE}"),
    (
        r"InvalidContentType|HTTP status|http2 error",
        f"something answers there that is not Temporal, or TLS is set on one side only. {_ADVICE}",
    ),
    (
        r"UnknownIssuer",
        "its certificate is of an authority that is not known here. Set TEMPORAL_TLS_SERVER_CA_CERT_PATH.",
    ),
    (
        r"NotValidForName",
        "its certificate is for another name. Set TEMPORAL_TLS_SERVER_NAME to the one that it is for.",
    ),
    (r"InvalidCertificate\((\w+)", r"its certificate is not valid: \1."),
    (
        r"PrivateKeyParseError|CertificateParseError|client cert and private key",
        "the client's certificate or its key cannot be used. Check TEMPORAL_TLS_CLIENT_CERT_PATH and "
        "TEMPORAL_TLS_CLIENT_KEY_PATH.",
    ),
    (
        r'after connection: .*message: "transport error"|operation was canceled',
        "it closed the connection. Where it wants TLS, set TEMPORAL_TLS=true; where it wants a client's certificate, "
        "TEMPORAL_TLS_CLIENT_CERT_PATH and TEMPORAL_TLS_CLIENT_KEY_PATH.",
    ),
)
"""What the transport says, by a part of its text, as it has no types for it; and what a person can do."""


def _without_key(text: str, config: Mapping[str, Any]) -> str:
    key = config.get("api_key")
    return text.replace(key, "***") if key else text
