"""A private authority and the coordinator's certificate, by one command.

Hospitals trust this authority for this coordinator and nothing else, so no public one
has to be asked, and nobody outside the consortium can make a certificate they accept.
The same certificate serves the public door and, on loopback, the SuperLink behind it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NamedTuple, NoReturn

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.atomic import write_atomic

AUTHORITY_DAYS = 3650
LOOPBACK = ("localhost", "127.0.0.1")
"""Names of the SuperLink for the door, its own processes and ``flwr``."""

_BACKDATED = timedelta(hours=1)  # for hospitals whose clock is late
_COMMAND = "python -m server.deploy.certificates"


class CertificateError(ValueError):
    """What stands in the way of a certificate, and what to do about it."""


class TlsFiles(NamedTuple):
    """What a server is started with.

    Attributes
    ----------
    authority : certificate of the authority; the file every hospital gets
    certificate : of the server, for its names
    key : of the server; it stays on this machine
    """

    authority: Path
    certificate: Path
    key: Path


def create(folder: Path, hosts: Iterable[str], not_after: datetime) -> TlsFiles:
    """Make an authority (``ca.crt``, ``ca.key``) and a server's certificate under it.

    Keys are on the curve P-256 and readable by their owner only.

    Parameters
    ----------
    folder : made if missing
    hosts : names and addresses that hospitals connect to; those of loopback are added
    not_after : when the server's certificate ends, in any time zone; may be past

    Raises
    ------
    CertificateError
        If the folder holds one of the files, or a host is neither name nor address.
    """
    names = _subjects(hosts)
    folder.mkdir(parents=True, exist_ok=True)
    files, authority_key = tls_files(folder), folder / "ca.key"
    for path in (*files, authority_key):
        if path.exists():
            raise CertificateError(
                f"{folder} holds {path.name} already, and nothing was changed. A new "
                f"certificate under the same authority: {_COMMAND} renew {folder}. A "
                "new authority has to reach every hospital: make it in another folder."
            )
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    subject = _name("mammofed authority")
    authority = (
        _builder(key, subject, subject, now, now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(_identifier(key), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_atomic(authority_key, _pem(key), 0o600)
    write_atomic(files.authority, authority.public_bytes(serialization.Encoding.PEM))
    _issue(files, authority, key, names, not_after)
    return files


def renew(folder: Path, not_after: datetime, hosts: Sequence[str] = ()) -> TlsFiles:
    """Replace the server's certificate and key; the authority stays as it is.

    Parameters
    ----------
    folder : of `create`, with ``ca.key`` in it
    not_after : when the new certificate ends
    hosts : default: those of the present certificate

    Raises
    ------
    CertificateError
        If a file is missing or does not fit, or the authority ends earlier.
    """
    files = tls_files(folder)
    authority = read_certificate(files.authority)
    try:
        pem = (folder / "ca.key").read_bytes()
        key = serialization.load_pem_private_key(pem, password=None)
    except OSError as error:
        raise CertificateError(
            f"Cannot read {folder / 'ca.key'} ({error.strerror}): the authority's key "
            "signs the new certificate. Bring it back from where it is kept."
        ) from None
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or (
        key.public_key() != authority.public_key()
    ):
        raise CertificateError(
            f"{folder / 'ca.key'} is not the key of {files.authority}. Bring back the "
            "pair from one backup."
        )
    if not hosts:
        names = _names_of(read_certificate(files.certificate))
    else:
        names = _subjects(hosts)
    _issue(files, authority, key, names, not_after)
    return files


def tls_files(folder: Path) -> TlsFiles:
    """Name the files that a server is started with."""
    return TlsFiles(folder / "ca.crt", folder / "server.crt", folder / "server.key")


def read_certificate(path: Path) -> x509.Certificate:
    """Read a certificate.

    Raises
    ------
    CertificateError
        If the file is missing or holds none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise CertificateError(
            f"Cannot read the certificate {path}: {error.strerror}. Certificates are "
            f"made by: {_COMMAND} create FOLDER --host NAME"
        ) from None
    except ValueError:
        raise CertificateError(
            f"{path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)."
        ) from None


def _issue(
    files: TlsFiles,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    names: list[x509.GeneralName],
    not_after: datetime,
) -> None:
    if not_after > authority.not_valid_after_utc:
        raise CertificateError(
            f"The authority ends on {authority.not_valid_after_utc:%Y-%m-%d}, before "
            "this certificate would. Ask for fewer days, or make a new authority in "
            "another folder and send its ca.crt to every hospital."
        )
    key = ec.generate_private_key(ec.SECP256R1())
    start = min(datetime.now(UTC), not_after)
    issuer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    certificate = (
        _builder(
            key, _name("mammofed coordinator"), authority.subject, start, not_after
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_identifier(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.value
            ),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    # A kill between the two leaves a pair that does not fit: the same command mends it.
    write_atomic(files.key, _pem(key), 0o600)
    write_atomic(
        files.certificate, certificate.public_bytes(serialization.Encoding.PEM)
    )


def _builder(
    key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    issuer: x509.Name,
    start: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _BACKDATED)
        .not_valid_after(end)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    """Sign certificates and nothing else, or handshakes and nothing else."""
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _identifier(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _subjects(hosts: Iterable[str]) -> list[x509.GeneralName]:
    return [_subject(host) for host in dict.fromkeys([*hosts, *LOOPBACK])]


def _subject(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    if len(host) > 253 or not re.fullmatch(rf"{label}(\.{label})*", host, re.I):
        raise CertificateError(
            f"{host!r} is neither a host name nor an address. Give what hospitals "
            "connect to, without https:// and port: --host fl.example.org"
        )
    return x509.DNSName(host.lower())


def _names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    kind = x509.SubjectAlternativeName
    return list(certificate.extensions.get_extension_for_class(kind).value)


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""The coordinator's certificates.

    create makes a private authority and the server's certificate; give ca.crt to every
    hospital. Keep ca.key away from this machine: only renew needs it.
    """,
)

_Folder = Annotated[Path, typer.Argument(metavar="FOLDER", show_default=False)]
_Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="NAME",
        help="name or address that hospitals connect to; may be repeated",
        show_default=False,
    ),
]
_Days = Annotated[int, typer.Option(min=1, help="until the server's certificate ends")]


@app.command("create")
def create_command(folder: _Folder, host: _Hosts = None, days: _Days = 365) -> None:
    """Make ca.crt, ca.key, server.crt and server.key in FOLDER.

    Example: create /etc/mammofed/tls --host fl.example.org --host 192.0.2.7
    """
    if not host:
        typer.echo("Which host? Give what hospitals connect to: --host NAME", err=True)
        raise typer.Exit(2)
    try:
        files = create(folder, host, datetime.now(UTC) + timedelta(days=days))
    except (CertificateError, OSError) as error:
        _refuse(error)
    _tell(files)
    typer.echo(f"Every hospital gets: {files.authority}")
    typer.echo(f"Keep away from this machine: {folder / 'ca.key'}")


@app.command("renew")
def renew_command(folder: _Folder, host: _Hosts = None, days: _Days = 365) -> None:
    """Replace server.crt and server.key; hospitals change nothing.

    Needs ca.key in FOLDER. Without --host the names stay as they are.
    """
    try:
        files = renew(folder, datetime.now(UTC) + timedelta(days=days), host or ())
    except (CertificateError, OSError) as error:
        _refuse(error)
    _tell(files)
    typer.echo("Restart the door and the SuperLink, between two runs.")


def _tell(files: TlsFiles) -> None:
    certificate = read_certificate(files.certificate)
    names = ", ".join(str(name.value) for name in _names_of(certificate))
    typer.echo(f"{files.certificate} is for {names}")
    typer.echo(f"and ends on {certificate.not_valid_after_utc:%Y-%m-%d}.")


def _refuse(error: Exception) -> NoReturn:
    typer.echo(str(error), err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
