"""Everything this library raises, and the strings that carry it over the wire.

    Exception
    +-- ApplicationError (temporalio)
    |   +-- WriteError                     a caller's write did not come to be
    |       +-- WriteNotSubmitted          it could not be handed to the batcher; nothing was or will be written
    |       +-- WriteNotConfirmed          no confirmation came in time; it may or may not be written
    |       |   +-- WriteExpired           its deadline passed first; it is not and will not be written
    |       +-- WriteRejected              refused, by the batcher or by the sink, with the reason
    +-- BatchingError                      something is wrong with how the library is used or set up
        +-- InvalidRequest                 a write request that does not fit the contract
        +-- InvalidPolicy                  a limit out of its range
        +-- InvalidLoad                    a load that cannot be sized
        +-- BatcherNotRunning              a shard that is asked for something does not run
        +-- AddressUnusable                nothing can listen on an address
        +-- AuditError                     an audit could not be made: Temporal or the database cannot be read
        |   +-- InvalidAudit               an argument of the audit is invalid
        +-- SinkError
            +-- SinkConfigurationError     the sink's set-up and the database do not fit together
            +-- SinkUnavailable            the sink cannot take writes now; the batch is retried

Write errors are ``ApplicationError`` because a workflow fails only on those: any other exception would retry the
workflow task forever. They are never retried by Temporal. Programs get the same classes from ``BatchClient``.
"""

from __future__ import annotations

from enum import StrEnum

from temporalio.exceptions import ApplicationError

from temporal_batching.contract import Confirmation, RejectCode


class ErrorType(StrEnum):
    """The ``type`` of every ``ApplicationError`` that crosses a process; other languages match on these strings."""

    NOT_SUBMITTED = "WriteNotSubmitted"
    NOT_CONFIRMED = "WriteNotConfirmed"
    EXPIRED = "WriteExpired"
    REJECTED = "WriteRejected"
    BATCHER_BUSY = "BatcherBusy"
    """The batcher takes no more requests at this moment: full, draining, or between two runs. Retryable."""
    BATCHER_UNREACHABLE = "BatcherUnreachable"
    """The gateway's submission got no answer; the request may have arrived. Retryable: the id makes it safe."""
    WRONG_BATCHER = "WrongBatcher"
    """An activity reached a worker of another batcher: two share a task queue. Retryable: the right one may take it."""
    SINK_UNAVAILABLE = "SinkUnavailable"
    INVALID_REQUEST = "InvalidRequest"
    INVALID_POLICY = "InvalidPolicy"


class WriteError(ApplicationError):
    """A write that did not come to be. Never retried by Temporal; catch it to do something else.

    Attributes:
        request_id: The idempotency key of the write.
        confirmation: What the batcher answered, where it did answer.
    """

    error_type: ErrorType

    def __init__(self, message: str, *, request_id: str = "", confirmation: Confirmation | None = None) -> None:
        details = [confirmation] if confirmation is not None else []
        message = message.encode(errors="backslashreplace").decode()  # an id may hold what no failure can carry
        super().__init__(message, *details, type=self.error_type, non_retryable=True)
        self.request_id = request_id
        self.confirmation = confirmation

    def __str__(self) -> str:
        return self.message  # the SDK's has the type before it, which the class says already


class WriteNotSubmitted(WriteError):
    """The write could not be handed to the batcher. It is not written, and will not be."""

    error_type = ErrorType.NOT_SUBMITTED


class WriteNotConfirmed(WriteError):
    """No confirmation came in time. The write may have happened: the ledger knows, under the request id."""

    error_type = ErrorType.NOT_CONFIRMED


class WriteExpired(WriteNotConfirmed):
    """The write's deadline passed before it could be committed. It is not written, and will not be."""

    error_type = ErrorType.EXPIRED


class WriteRejected(WriteError):
    """The write was refused. ``confirmation.code`` and ``confirmation.reason`` say by what."""

    error_type = ErrorType.REJECTED


class BatchingError(Exception):
    """Base of what is wrong with how the library is used or set up, as opposed to one write's fate."""


class InvalidRequest(BatchingError, ValueError):
    """A write request that does not fit the contract. The message says what is wrong and what is allowed."""

    def __init__(self, message: str, code: RejectCode = RejectCode.INVALID) -> None:
        super().__init__(message)
        self.code = code


class InvalidPolicy(BatchingError, ValueError):
    """A limit out of its range. The message names the setting, the value, and what is allowed."""


class InvalidLoad(BatchingError, ValueError):
    """A load that `temporal_batching.sizing` cannot size. The message has the value, and what is allowed.

    Attributes:
        argument: The field's name, such as ``rate``.
    """

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(f"{argument} {message}")
        self.argument = argument
        self.reason = message


class BatcherNotRunning(BatchingError):
    """A shard does not run, or no worker serves it. The message names its workflow."""


class AddressUnusable(BatchingError):
    """Nothing can listen on an address: it is none, or it is in use. The message says what is allowed."""


class AuditError(BatchingError):
    """An audit could not be made: Temporal or the database cannot be read. It says nothing about what they hold."""


class InvalidAudit(AuditError, ValueError):
    """An argument of `temporal_batching.audit.audit` is invalid.

    Attributes:
        argument: The argument's name: ``database``, ``query``, ``since``, ``tables`` or ``complete``.
    """

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(message)
        self.argument = argument


class SinkError(BatchingError):
    """Base of what a sink raises about itself. A bad request is not one: it is an outcome, ``rejected``."""


class SinkConfigurationError(SinkError):
    """The sink's set-up and the database do not fit together: a missing table, a conflict column without index."""


class SinkUnavailable(SinkError):
    """The sink cannot take writes now. The batch returns to the head of the buffer and is retried.

    Attributes:
        in_doubt: Whether the attempt may have committed nevertheless (a connection lost during the commit). If
            so, the sink is asked what became of a request before its caller receives `expired`.
    """

    def __init__(self, message: str, *, in_doubt: bool = True) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt
