"""Pseudonyms are keyed, separated by kind, and their secret is guarded."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from client.data.pseudonyms import Pseudonymiser, SecretError, site_secret

SECRET = b"0123456789abcdef"


def test_pseudonym_is_the_truncated_hmac_of_its_parts() -> None:
    expected = hmac.new(SECRET, b"7:patient2:P1", hashlib.sha256).hexdigest()[:32]
    assert Pseudonymiser(SECRET).patient("P1") == expected


def test_kinds_and_sites_never_share_a_pseudonym() -> None:
    one, other = Pseudonymiser(SECRET), Pseudonymiser(SECRET[::-1])
    made = [one.row("1"), one.patient("1"), one.exam("1", ""), one.exam("", "1")]
    made += [one.breast("1", "2", "L"), one.breast("12", "", "L"), other.row("1")]
    assert len(set(made)) == len(made)


def test_secret_is_drawn_once_and_private(tmp_path: Path) -> None:
    first = site_secret(tmp_path)
    assert len(first) == 32 and site_secret(tmp_path) == first
    assert (tmp_path / "secret.key").stat().st_mode & 0o777 == 0o600


def test_given_secret_is_marked_synthetic_and_kept(tmp_path: Path) -> None:
    site_secret(tmp_path, SECRET, synthetic=True)
    assert "synthetic" in (tmp_path / "secret.key").read_text()
    assert site_secret(tmp_path) == SECRET
    with pytest.raises(SecretError, match="another secret"):
        site_secret(tmp_path, SECRET[::-1])


def test_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    site_secret(tmp_path)
    (tmp_path / "secret.key").chmod(0o644)
    with pytest.raises(SecretError, match="chmod 600"):
        site_secret(tmp_path)


def test_malformed_secret_is_refused_without_quoting_it(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    path.write_text("not hexadecimal")
    path.chmod(0o600)
    with pytest.raises(SecretError, match="backup") as caught:
        site_secret(tmp_path)
    assert "not hexadecimal" not in str(caught.value)
