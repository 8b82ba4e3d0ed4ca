"""A whole consortium as real processes on one machine: what ``make consortium`` runs.

Every step is a command that coordinator and hospitals type, with TLS, registered keys
and the door in front of the SuperLink; only that all of them are here is not real.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import yaml

from common.atomic import write_atomic
from server.deploy.certificates import create, tls_files
from server.deploy.superlink import flower_environment, superlink_command
from server.flower_app import LOG_FILE

NAME = "consortium"
"""Of the connection in Flower's own configuration."""

_ROOT = Path(__file__).resolve().parents[1]
_PATIENCE = 120.0
_ENDING = 15.0
_ASK_SECONDS, _ASK_SECONDS_BEFORE = 3.0, 20.0
"""Between two questions whether a run is over, once it has an outcome and before: each
is a process of Flower's that takes seconds of a core from those who train."""


class ConsortiumError(RuntimeError):
    """A step failed; the text says which and where its log is."""


@dataclass(frozen=True)
class Hospital:
    """A site to run: its name, and the settings of its archive.

    Attributes
    ----------
    settings : of the site's YAML file, without the coordinator
    """

    name: str
    settings: Mapping[str, Any]


class Consortium:
    """Coordinator and hospitals below one folder; ends what it started.

    Parameters
    ----------
    folder : gets ``coordinator/`` and ``hospital/``
    plan : file of the plan
    hospitals : of its roster
    """

    def __init__(self, folder: Path, plan: Path, hospitals: Sequence[Hospital]) -> None:
        self.folder, self.plan = folder.resolve(), plan.resolve()
        self.hospitals = hospitals
        self.config_dir = self.folder / "hospital"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._coordinator = self.folder / "coordinator"
        self._home = self._coordinator / "flower"
        self._tls = self._coordinator / "tls"
        self._superlink_port, self.door_port = free_port(), free_port()
        self._began, self._asked = 0.0, 0.0

    def __enter__(self) -> Self:
        """Prepare nothing yet: the steps are methods, in their order."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes, hospitals first: they tell the coordinator."""
        for hospital in self.hospitals:
            if (process := self.processes.get(hospital.name)) is not None:
                process.terminate()
        for name in reversed([*self.processes]):
            self.stop(name)

    def set_up(self) -> None:
        """Make certificates and keys, start the coordinator, register every key.

        Flower's database is begun anew: what a run needs to go on is not in it.
        """
        until = datetime.now(UTC) + timedelta(days=30)
        if not self._tls.is_dir():
            create(self._tls, ["127.0.0.1", "localhost"], until)
        for old in self._coordinator.glob("superlink.db*"):
            old.unlink()
        self.start_superlink()
        self.start_door()
        write_atomic(
            _made(self._home) / "config.toml",
            f'[superlink.{NAME}]\naddress = "127.0.0.1:{self._superlink_port}"\n'
            f'root-certificates = "{self._tls / "ca.crt"}"\n'.encode(),
        )
        for hospital in self.hospitals:
            self.register(hospital)

    def register(self, hospital: Hospital) -> None:
        """Make a hospital's settings and key, and register the key."""
        self._write_settings(hospital)
        public = self.config_dir / "keys" / f"{hospital.name}.pub"
        self.flwr("supernode", "register", public, NAME, "--name", hospital.name)

    def start_superlink(self) -> None:
        """Start the SuperLink on loopback, and wait until it listens."""
        tls = tls_files(self._tls)
        database = self._coordinator / "superlink.db"
        command = superlink_command(tls, database, self._superlink_port)
        self._start("superlink", command, flower_environment(self._home))
        self._wait_for_port("superlink", self._superlink_port)

    def start_door(self) -> None:
        """Start the proxy that hospitals see."""
        tls = tls_files(self._tls)
        words = [
            *("--listen", f"127.0.0.1:{self.door_port}"),
            *("--upstream", f"https://127.0.0.1:{self._superlink_port}"),
            *("--cert", tls.certificate, "--key", tls.key),
            *("--upstream-ca", tls.authority),
        ]
        self._start("door", [sys.executable, "-m", "server.deploy.proxy", *words])
        self._wait_for_port("door", self.door_port)

    def prepare(self, hospital: Hospital) -> None:
        """Prepare a hospital's images and let it approve the plan."""
        self.client(hospital.name, "prepare", "--plan", self.plan)
        self.client(hospital.name, "approve", "--yes", self.plan)

    def address_for(self, name: str) -> str:
        """Tell where a hospital finds the coordinator."""
        return f"127.0.0.1:{self.door_port}"

    def start_site(self, name: str) -> None:
        """Start a hospital's node."""
        self._start(name, self._client_words(name), {"NO_PROXY": "127.0.0.1"})

    def start_run(self) -> int:
        """Start a run of the plan; returns Flower's number of it."""
        self._began = time.time()
        said = self.flwr(
            *("run", _ROOT, NAME, "-c", f"plan='{self.plan}'", "--format", "json")
        )
        self._asked = time.monotonic()
        return int(json.loads(said)["run-id"])

    def client(self, name: str, *words: object) -> str:
        """Type a verb at a hospital, and return what it said."""
        return _run([*self._client_words(name), *map(str, words)], {})

    def flwr(self, *words: object) -> str:
        """Type a command of Flower's at the coordinator."""
        program = str(Path(sys.executable).parent / "flwr")
        return _run([program, *map(str, words)], flower_environment(self._home))

    def outcome(self, run: int, seconds: float) -> dict[str, Any]:
        """Wait for the end of a run.

        Raises
        ------
        ConsortiumError
            As `last_outcome`, or if it does not end in time.
        """
        end = time.monotonic() + seconds
        while not self.is_over(run):
            if time.monotonic() > end:
                raise ConsortiumError(f"No outcome within {seconds:g} s.")
            time.sleep(0.2)
        return self.last_outcome()

    def last_outcome(self) -> dict[str, Any]:
        """Return how the last run ended.

        Raises
        ------
        ConsortiumError
            If it left no word of that; the text has the end of its log.
        """
        for file in self._outcomes():
            if file.is_file():
                return dict(json.loads(file.read_bytes()))
        log = self.plan.with_suffix("") / LOG_FILE
        raise ConsortiumError(f"The run ended without an outcome. {_end_of(log)}")

    def is_over(self, run: int) -> bool:
        """Tell whether a run has ended, up to 20 s late where it left no outcome."""
        news = [file for file in self._outcomes() if _changed(file) > self._began]
        pause = _ASK_SECONDS if news else _ASK_SECONDS_BEFORE
        if time.monotonic() - self._asked < pause:
            return False
        over = self.run_status(run) == "finished"
        self._asked = time.monotonic()
        return over

    def _outcomes(self) -> list[Path]:
        folder = self.plan.with_suffix("")
        return [folder / "outcome.json", folder / "failure.json"]

    def run_status(self, run: int) -> str:
        """Tell the status of a run: ``running``, ``finished``, ..."""
        said = json.loads(self.flwr("list", NAME, "--run-id", run, "--format", "json"))
        return str(said["runs"][0]["status"]).partition(":")[0]

    def stop(self, name: str) -> None:
        """End a process in good order, or at once after a while."""
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log_of(self, name: str) -> str:
        """Tell where a process's output is, and its end."""
        return _end_of(self.folder / "logs" / f"{name}.log")

    def _write_settings(self, hospital: Hospital) -> None:
        self.client(hospital.name, "init")
        settings = {
            "folder": str(self.folder / "data" / hospital.name),
            **hospital.settings,
            "site": hospital.name,
            "coordinator": {
                "address": self.address_for(hospital.name),
                "certificates": str(self._tls / "ca.crt"),
                "key": str(self.config_dir / "keys" / hospital.name),
            },
        }
        file = self.config_dir / "site" / f"{hospital.name}.yaml"
        write_atomic(file, yaml.safe_dump(settings).encode())

    def _client_words(self, name: str) -> list[str]:
        words = ["--config-dir", str(self.config_dir), "--site", name]
        return [sys.executable, "-m", "client.cli", *words]

    def _start(
        self,
        name: str,
        command: Sequence[object],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        log = _made(self.folder / "logs") / f"{name}.log"
        with log.open("ab") as out:
            self.processes[name] = subprocess.Popen(
                [str(word) for word in command],
                env={**os.environ, **_path(), **(environment or {})},
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=_made(self._coordinator),
            )

    def _wait_for_port(self, name: str, port: int) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and self.processes[name].poll() is None:
            with socket.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        raise ConsortiumError(f"The {name} does not listen. {self.log_of(name)}")


def _changed(path: Path) -> float:
    return path.stat().st_mtime if path.is_file() else 0.0


def _end_of(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return "\n".join([f"{path}:", *lines[-15:]])


def free_port() -> int:
    """Find a port of loopback that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, **_path(), **environment},
        capture_output=True,
        text=True,
        cwd=_ROOT,
    )
    if done.returncode:
        shown = " ".join(command[-4:])
        raise ConsortiumError(f"`{shown}` failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _path() -> dict[str, str]:
    paths = [os.environ.get("PYTHONPATH", ""), str(_ROOT)]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
