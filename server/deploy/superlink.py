"""Starts the coordinator's SuperLink: Flower's own, safe, and never a zombie.

``python -m server.deploy.superlink`` is ``flower-superlink`` with fixed flags, and two
differences that Flower has no flag for (flwr 1.41). It waits longer for a database that
is locked, by a backup for instance, before it answers 500: the SuperExec, which starts
the ServerApps, ends at its first 500. And it ends where the SuperExec has ended: a
SuperLink without one stays up and starts no run ever again, while one that ended is
started anew by whoever keeps services alive.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from common.allocator import return_freed_memory
from server.deploy.certificates import TlsFiles

HOST = "127.0.0.1"
"""Control and Runtime know no authentication and share the one port with Fleet."""

PORT = 8000

LOCK_SECONDS = 25
"""How long to wait for a locked database; requests end after 30 s at the other end."""


def superlink_command(tls: TlsFiles, database: Path, port: int = PORT) -> list[str]:
    """List the words that start a SuperLink which is safe behind the door.

    Parameters
    ----------
    tls : the server's certificate must be for `HOST` too
    database : SQLite file; it holds registrations, runs and weights
    port : on loopback
    """
    return [
        *(sys.executable, "-m", "server.deploy.superlink"),
        *("--cert", str(tls.certificate)),
        *("--key", str(tls.key)),
        *("--ca", str(tls.authority)),
        *("--database", str(database)),
        *("--port", str(port)),
    ]


def flower_environment(home: Path) -> dict[str, str]:
    """List the variables that any Flower process of ours gets, on top of others.

    Parameters
    ----------
    home : Flower's folder of this process, for connections and installed apps
    """
    return {"FLWR_HOME": str(home), **_QUIET, "PATH": _path(os.environ)}


_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    # The old ports, which no door guards.
    "FLWR_INTERNAL_GRPC_FLEET_API": "0",
    "FLWR_INTERNAL_GRPC_CONTROL_API": "0",
    # Seconds between two looks for work: 1 by default.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    # Else loopback would be asked of the hospital's proxy; lower case wins.
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}


def _path(environment: Mapping[str, str]) -> str:
    """Put our programs first: Flower starts its helpers by name, or hangs."""
    programs = Path(sys.executable).parent
    return f"{programs}{os.pathsep}{environment.get('PATH', os.defpath)}"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    cert: Annotated[Path, typer.Option(help="server.crt")] = Path("tls/server.crt"),
    key: Annotated[Path, typer.Option(help="server.key")] = Path("tls/server.key"),
    ca: Annotated[Path, typer.Option(help="ca.crt")] = Path("tls/ca.crt"),
    database: Annotated[
        Path, typer.Option(help="SQLite file: registrations, runs, weights; back it up")
    ] = Path("superlink.db"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="on loopback")] = PORT,
) -> None:
    """Start Flower's SuperLink on loopback: TLS, registered keys only, no telemetry.

    Hospitals reach it through the door, python -m server.deploy.proxy. It may be
    stopped and started again at any time; nodes wait, and a run that was under way goes
    on with the same `flwr run`.
    """
    for file in (cert, key, ca):
        if not file.is_file():
            make = "python -m server.deploy.certificates create tls --host NAME"
            typer.echo(f"There is no {file}. Make certificates: {make}", err=True)
            raise typer.Exit(2)
    os.environ.update({**_QUIET, "PATH": _path(os.environ)})
    sys.argv = [
        "flower-superlink",
        *("--host", HOST),
        *("--port", str(port)),
        *("--ssl-certfile", str(cert)),
        *("--ssl-keyfile", str(key)),
        *("--ssl-ca-certfile", str(ca)),
        *("--database", str(database)),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]
    return_freed_memory()
    _serve()


def _serve() -> None:
    """Be the SuperLink until a signal comes or its helper ends."""
    # Imported here: who only asks for `superlink_command` needs none of it, and Flower
    # reads the variables above while it is imported.
    from flwr.supercore import sql_mixin
    from flwr.supercore.constant import SQLITE_PRAGMAS
    from flwr.superlink.cli import flower_superlink

    vars(sql_mixin)["SQLITE_PRAGMAS"] = tuple(
        (name, str(1000 * LOCK_SECONDS) if name == "busy_timeout" else value)
        for name, value in SQLITE_PRAGMAS
    )
    threading.Thread(target=_end_with_helper, name="helper", daemon=True).start()
    flower_superlink()


def _end_with_helper() -> None:
    """Wait until a child of this process ends, which is the SuperExec; then end."""
    while True:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # Flower still reaps it
            break
        except ChildProcessError:  # it was not started yet
            time.sleep(0.5)
    typer.echo(
        "The SuperExec has ended, so the SuperLink ends: start it again", err=True
    )
    os.kill(os.getpid(), signal.SIGTERM)  # in good order


if __name__ == "__main__":
    app()
