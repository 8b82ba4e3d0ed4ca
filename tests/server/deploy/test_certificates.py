"""The authority and the certificates under it."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supernode.fleet_http_client import FleetHttpClient
from typer.testing import CliRunner

from server.deploy.certificates import (
    CertificateError,
    TlsFiles,
    app,
    create,
    read_certificate,
    renew,
)
from tests.server.deploy.running import TOMORROW, YESTERDAY

HOSTS = ("fl.example.org", "192.0.2.7")


def typed(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, " ".join(result.output.split())


def verify(files: TlsFiles, authority: Path, host: str) -> None:
    """Verify a server by another implementation, by the rules of the public web."""
    store = Store([read_certificate(authority)])
    name = x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
    verifier = PolicyBuilder().store(store).build_server_verifier(name)
    verifier.verify(read_certificate(files.certificate), [])


def shake_hands(files: TlsFiles, authority: Path, host: str) -> None:
    """Let a client with its usual rules meet a server with these files."""
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(files.certificate, files.key)
    client_side = ssl.create_default_context(cafile=str(authority))
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT  # as of Python 3.13
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.version() == "TLSv1.3"


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return create(tmp_path / "tls", HOSTS, TOMORROW)


@pytest.mark.parametrize("host", [*HOSTS, "localhost", "127.0.0.1"])
def test_clients_accept_every_name_of_the_server(files: TlsFiles, host: str) -> None:
    shake_hands(files, files.authority, host)
    verify(files, files.authority, host)


def test_clients_refuse_another_name_and_another_authority(
    files: TlsFiles, tmp_path: Path
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(files, files.authority, "other.example.org")
    other = create(tmp_path / "other", HOSTS, TOMORROW)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(files, other.authority, HOSTS[0])
    with pytest.raises(VerificationError):
        verify(files, other.authority, HOSTS[0])


def test_clients_refuse_an_expired_one(tmp_path: Path) -> None:
    old = create(tmp_path, HOSTS, YESTERDAY)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(old, old.authority, HOSTS[0])


def test_a_supernode_refuses_an_expired_one(tmp_path: Path) -> None:
    old = create(tmp_path, [], YESTERDAY)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(old.certificate, old.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve_once() -> None:
            plain, _ = listener.accept()
            with plain, pytest.raises(ssl.SSLError, match="CERTIFICATE_EXPIRED"):
                context.wrap_socket(plain, server_side=True).recv(1)

        server = threading.Thread(target=serve_once)
        server.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        ca = old.authority.read_bytes()
        with (
            FleetHttpClient.from_server_address(address, False, ca, []) as node,
            pytest.raises(httpx.ConnectError, match="certificate has expired"),
        ):
            node.ActivateNode(ActivateNodeRequest())
        server.join(10)


def test_a_hospital_whose_clock_is_late_accepts_it(files: TlsFiles) -> None:
    start = read_certificate(files.certificate).not_valid_before_utc
    assert datetime.now(UTC) - start > timedelta(minutes=30)
    assert read_certificate(files.authority).not_valid_before_utc <= start


def test_the_authority_signs_servers_only_and_a_server_signs_nothing(
    files: TlsFiles,
) -> None:
    authority = read_certificate(files.authority).extensions
    server = read_certificate(files.certificate).extensions
    limits = authority.get_extension_for_class(x509.BasicConstraints)
    assert limits.critical
    assert limits.value == x509.BasicConstraints(ca=True, path_length=0)
    none = server.get_extension_for_class(x509.BasicConstraints).value
    assert none == x509.BasicConstraints(ca=False, path_length=None)
    usages = [
        part.get_extension_for_class(x509.KeyUsage).value
        for part in (authority, server)
    ]
    assert [usage.key_cert_sign for usage in usages] == [True, False]
    assert [usage.digital_signature for usage in usages] == [False, True]
    purposes = server.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    for file in (files.authority, files.certificate):
        key = read_certificate(file).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"


def test_keys_are_readable_by_their_owner_only(files: TlsFiles) -> None:
    before = os.umask(0)
    try:
        renew(files.key.parent, TOMORROW)
        files = create(files.key.parent / "open", HOSTS, TOMORROW)
    finally:
        os.umask(before)
    for folder in (files.key.parent, files.key.parent.parent):
        for name in ("ca.key", "server.key"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_nothing_is_overwritten(files: TlsFiles) -> None:
    folder = files.key.parent
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CertificateError, match=f"renew {folder}"):
        create(folder, HOSTS, TOMORROW)
    for name in ("ca.crt", "server.crt", "server.key"):
        (folder / name).unlink()
    with pytest.raises(CertificateError, match=r"holds ca\.key already"):
        create(folder, HOSTS, TOMORROW)
    assert (folder / "ca.key").read_bytes() == before[folder / "ca.key"]


def test_a_renewed_one_is_new_under_the_same_authority(files: TlsFiles) -> None:
    authority, key = files.authority.read_bytes(), files.key.read_bytes()
    number = read_certificate(files.certificate).serial_number
    assert renew(files.key.parent, TOMORROW) == files
    assert files.authority.read_bytes() == authority
    assert files.key.read_bytes() != key
    assert read_certificate(files.certificate).serial_number != number
    for host in (*HOSTS, "localhost", "127.0.0.1"):
        shake_hands(files, files.authority, host)
    renew(files.key.parent, TOMORROW, ["new.example.org"])
    shake_hands(files, files.authority, "new.example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(files, files.authority, HOSTS[0])


def test_nothing_is_renewed_without_the_authoritys_own_key(
    files: TlsFiles, tmp_path: Path
) -> None:
    folder = files.key.parent
    certificate = files.certificate.read_bytes()
    other = create(tmp_path / "other", HOSTS, TOMORROW)
    (folder / "ca.key").write_bytes((other.key.parent / "ca.key").read_bytes())
    with pytest.raises(CertificateError, match="is not the key of"):
        renew(folder, TOMORROW)
    (folder / "ca.key").write_text("no key")
    with pytest.raises(CertificateError, match="is not the key of"):
        renew(folder, TOMORROW)
    (folder / "ca.key").unlink()
    with pytest.raises(CertificateError, match="Bring it back from where it is kept"):
        renew(folder, TOMORROW)
    assert files.certificate.read_bytes() == certificate


def test_no_certificate_outlives_the_authority(files: TlsFiles) -> None:
    with pytest.raises(CertificateError, match="Ask for fewer days"):
        renew(files.key.parent, datetime.now(UTC) + timedelta(days=3651))
    renew(files.key.parent, datetime.now(UTC) + timedelta(days=3649))


@pytest.mark.parametrize(
    "host",
    [
        "https://fl.example.org",
        "fl.example.org:443",
        "*.example.org",
        "",
        "a b",
        "ü.org",
    ],
)
def test_what_is_no_host_is_told(tmp_path: Path, host: str) -> None:
    with pytest.raises(CertificateError, match="neither a host name nor an address"):
        create(tmp_path, [host], TOMORROW)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_to_hand_out_and_what_to_keep(tmp_path: Path) -> None:
    code, said = typed("create", tmp_path, "--host", HOSTS[0], "--days", 10)
    assert code == 0
    assert f"is for {HOSTS[0]}, localhost, 127.0.0.1" in said
    end = datetime.now(UTC) + timedelta(days=10)
    assert f"ends on {end.date()}" in said
    assert f"Every hospital gets: {tmp_path / 'ca.crt'}" in said
    assert f"Keep away from this machine: {tmp_path / 'ca.key'}" in said
    code, said = typed("renew", tmp_path, "--days", 20)
    assert code == 0
    assert f"ends on {(datetime.now(UTC) + timedelta(days=20)).date()}" in said


def test_mistakes_are_told_in_sentences(tmp_path: Path) -> None:
    assert typed("create", tmp_path) == (
        2,
        "Which host? Give what hospitals connect to: --host NAME",
    )
    code, said = typed("renew", tmp_path)
    assert (code, "Certificates are made by" in said) == (2, True)
    (tmp_path / "file").touch()
    code, said = typed("create", tmp_path / "file", "--host", "a.org")
    assert (code, "File exists" in said) == (2, True)


def test_openssl_agrees(files: TlsFiles) -> None:
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver"]
    words = ["-CAfile", str(files.authority), str(files.certificate)]
    try:
        done = subprocess.run([*command, *words], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed; two other implementations are tested")
    assert done.returncode == 0, done.stdout + done.stderr
