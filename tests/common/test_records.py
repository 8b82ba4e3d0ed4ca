"""What crosses the wire is checked, field by field."""

from __future__ import annotations

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from common.packing import WireError
from common.records import decode, encode

SCHEMA = {"site": str, "images": int, "loss": float}
FIELDS = {"site": "alpha", "images": 3, "loss": 0.5}


@pytest.mark.parametrize(
    "fields",
    [
        {"site": "alpha", "images": 3},
        FIELDS | {"patient_name": "DOE^JANE"},
        FIELDS | {"images": 3.0},
        FIELDS | {"images": True},
        FIELDS | {"loss": 1},
    ],
)
def test_fields_outside_the_schema_are_refused_without_their_names(
    fields: dict[str, object],
) -> None:
    with pytest.raises(WireError) as caught:
        encode(fields, ArrayRecord(), SCHEMA)  # type: ignore[arg-type]
    assert "patient_name" not in str(caught.value)


def test_other_records_are_refused() -> None:
    content = RecordDict({"shared": ArrayRecord(), "numbers": MetricRecord()})
    with pytest.raises(WireError, match="two expected"):
        decode(content, SCHEMA)
    swapped = RecordDict({"shared": ConfigRecord(), "fields": ConfigRecord()})
    with pytest.raises(WireError, match="another type"):
        decode(swapped, SCHEMA)


def test_tensors_that_are_unreadable_are_refused() -> None:
    array = Array("uint8", (7,), "safetensors", b"garbage")
    content = encode(FIELDS, ArrayRecord({"safetensors": array}), SCHEMA)
    with pytest.raises(WireError, match="unreadable"):
        decode(content, SCHEMA)
