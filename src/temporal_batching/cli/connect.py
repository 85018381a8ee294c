"""A client for the Temporal that the environment names, or one line that says why there is none."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import GrpcCompression, RPCError, RPCStatusCode

from temporal_batching.cli.console import CommandError

DEFAULT_ADDRESS = "localhost:7233"
CONNECT_SECONDS = 8.0


async def connect(
    *,
    address: str | None = None,
    namespace: str | None = None,
    runtime: Runtime | None = None,
    environment: dict[str, str] | None = None,
) -> Client:
    """Connects as `temporalio.envconfig` says: ``TEMPORAL_ADDRESS``, a profile, TLS, an API key.

    Args:
        address: Wins over the environment.
        namespace: Likewise.
        runtime: With telemetry, where wanted.
        environment: Variables to read instead of this process's.

    Raises:
        CommandError: Nothing there, the wrong thing there, no such namespace, or no access.
    """
    try:
        config: dict[str, Any] = dict(ClientConfig.load_client_connect_config(override_env_vars=environment))
    except (RuntimeError, ValueError, OSError) as err:
        raise CommandError(f"Temporal's client settings cannot be read: {err}") from None
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
