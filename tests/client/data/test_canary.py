"""A canary is found in whatever dress, and nothing else is."""

from __future__ import annotations

import base64
import hashlib

import pytest

from client.data.canary import STEMS, Canaries


@pytest.mark.parametrize("kind", sorted(STEMS))
def test_every_kind_is_found_in_every_dress(kind: str) -> None:
    canaries = Canaries()
    value = canaries.plant(kind, 7)
    raw = value.encode()
    dresses = [
        raw,
        raw.lower(),
        value.encode("utf-16-le"),
        value.encode("utf-16-be"),
        raw.hex().upper().encode(),
        "".join(f"%{byte:02X}" for byte in raw).encode(),
        *(
            encode(b"x" * before + raw + b"yz")
            for encode in (base64.b64encode, base64.urlsafe_b64encode)
            for before in range(3)
        ),
        *(
            b"id=" + digest(raw).hexdigest().encode()
            for digest in (hashlib.md5, hashlib.sha1, hashlib.sha256)
        ),
    ]
    for dress in dresses:
        assert canaries.find(b"before " + dress + b" after") == {kind}


def test_a_date_is_found_as_people_write_it() -> None:
    assert Canaries().find(b"born 1947-04-17") == {"other date"}


def test_a_digest_is_found_inside_a_longer_run_of_digits() -> None:
    canaries = Canaries()
    canaries.watch("file name", b"a/b.dcm")
    digest = hashlib.sha256(b"a/b.dcm").hexdigest()[:16].encode()
    assert canaries.find(b"0" * 9 + digest + b"0" * 5) == {"file name"}


def test_nothing_is_found_where_nothing_is() -> None:
    canaries = Canaries()
    canaries.plant("patient", 1)
    innocent = hashlib.sha256(b"innocent").hexdigest().encode() * 100
    assert canaries.find(innocent + bytes(range(256)) * 100) == set()
