"""Database URLs and drivers' messages without what is secret in them: for logs, errors and reports."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus


def redact_url(url: str) -> str:
    """A URL's scheme, host and path: neither user nor password nor parameters, which may hold either."""
    scheme, found, rest = url.partition("://")
    if not found:
        return "a database URL"
    # The last "@" ends the login: a password with an unescaped "@" or "/" must not leak through a naive split.
    rest = rest.partition("?")[0]
    return f"{scheme}://{rest.rpartition('@')[2]}"


def driver_message(error: Exception) -> str:
    """The first line of what a driver says: the others are for its own developers."""
    cause = getattr(error, "orig", None) or error
    text = str(cause)
    if len(cause.args) > 1 and isinstance(cause.args[0], int) and not isinstance(cause, OSError):
        text = str(cause.args[1])  # PyMySQL's number comes first
    return next(iter(text.strip().splitlines()), type(cause).__name__).rstrip(".")


def without_secrets(text: str, url: str) -> str:
    """``text``, as a driver wrote it, without ``url`` and without the login and the parameters it holds."""
    login, found, _ = url.partition("://")[2].rpartition("@")
    secrets = {url}
    if found:
        password = login.partition(":")[2]
        # A password with an unescaped "@" or "/" is taken apart, and a piece of it may pass for the host.
        secrets |= {password, unquote(password), *re.split("[@:/]", password)}
    parameters = (pair.partition("=") for pair in url.partition("?")[2].split("&"))
    passwords = [value for name, _, value in parameters if "pass" in name.lower()]
    secrets |= {*map(unquote, passwords), *map(unquote_plus, passwords)}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
