"""A data converter whose codec hides everything; how well does not matter here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from hashlib import shake_256

from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec


class Encrypting(PayloadCodec):
    """Hides what it is given."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload(metadata={"encoding": b"binary/encrypted"}, data=_mask(p.SerializeToString())) for p in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [
            Payload.FromString(_mask(p.data)) if p.metadata["encoding"] == b"binary/encrypted" else p for p in payloads
        ]


def _mask(data: bytes) -> bytes:
    stream = shake_256(b"key").digest(len(data))
    return bytes(a ^ b for a, b in zip(data, stream, strict=True))


CONVERTER = dataclasses.replace(
    DataConverter.default,
    payload_codec=Encrypting(),
    # A rejection's reason may hold the database's own words, and these a value.
    failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
)
