"""What a submission asks for: one request, or a parcel in any of its forms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from temporal_batching.errors import InvalidRequest
from temporal_batching.wire.parcels import (
    PackedParcel,
    Parcel,
    ParcelReference,
    decompress_requests,
    is_parcel,
    load_parcel,
    read_parcel,
)
from temporal_batching.wire.records import written_by
from temporal_batching.wire.requests import RequestBody, load_request, read_request

Body: TypeAlias = RequestBody | Parcel | PackedParcel | ParcelReference


def read_body(wire: Mapping[str, Any]) -> Body:
    """Reads the body of a submission.

    Raises:
        InvalidRequest: With what is wrong and what is allowed. What is in a packed parcel is not looked at: see
            `PackedParcel.unpack`.
    """
    return read_parcel(wire) if is_parcel(wire) else read_request(wire)


def load_body(wire: Mapping[str, Any]) -> Body:
    """The body that a `to_wire` of ours described; not checked again, but for what is in a packed parcel."""
    return load_parcel(wire) if is_parcel(wire) else load_request(wire)


def same_content(one: Body, other: Body) -> bool:
    """Whether two bodies with one id ask for the same writes: same records, as the ledger's digest sees them.

    The key does not matter, nor the order of columns, nor what is to be returned; but 1, 1.0 and true do, which Python
    takes for equal. Of a parcel by reference only its digest is known: packed otherwise, it is another.
    """
    if one is other:
        return True
    packed = (PackedParcel, ParcelReference)
    if isinstance(one, packed) and isinstance(other, packed) and one.announced.digest == other.announced.digest:
        return True
    if isinstance(one, ParcelReference) or isinstance(other, ParcelReference):
        return False
    try:
        return _content(one) == _content(other)
    except InvalidRequest:  # a packed parcel that cannot be unpacked
        return False


def _content(body: RequestBody | Parcel | PackedParcel) -> str:
    if isinstance(body, PackedParcel):
        body.write_requests(None)  # or it does not hold what it says
        requests = [read_request(one) for one in decompress_requests(body.packed)]
    else:
        requests = list(body.requests) if isinstance(body, Parcel) else [body]
    content = [[one.request_id, list(map(written_by, one.records))] for one in requests]
    return json.dumps([not isinstance(body, RequestBody), content], sort_keys=True)
