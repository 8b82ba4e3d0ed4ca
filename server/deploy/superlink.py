"""How the coordinator's SuperLink is started, wherever that is done.

The unit file says the same (a test compares), so does everything that starts one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from server.deploy.certificates import TlsFiles

HOST = "127.0.0.1"
"""Control and Runtime know no authentication and share the one port with Fleet."""

PORT = 8000


def superlink_command(tls: TlsFiles, database: Path, port: int = PORT) -> list[str]:
    """List the words that start a SuperLink which is safe behind the door.

    Parameters
    ----------
    tls : the server's certificate must be for `HOST` too
    database : SQLite file; it holds registrations, runs and weights
    port : on loopback
    """
    return [
        str(_programs() / "flower-superlink"),
        *("--host", HOST),
        *("--port", str(port)),
        *("--ssl-certfile", str(tls.certificate)),
        *("--ssl-keyfile", str(tls.key)),
        *("--ssl-ca-certfile", str(tls.authority)),
        *("--database", str(database)),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]


def flower_environment(home: Path) -> dict[str, str]:
    """List the variables that any Flower process of ours gets, on top of others.

    Parameters
    ----------
    home : Flower's folder of this process, for connections and installed apps
    """
    return {
        # Flower starts its helpers by name; without them it hangs instead of failing.
        "PATH": f"{_programs()}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "FLWR_HOME": str(home),
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


def _programs() -> Path:
    return Path(sys.executable).parent
