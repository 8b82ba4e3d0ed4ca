"""``mammo-client --site NAME``: start the node of a hospital, and its processes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
)
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from client.approval import has_left, last_approved
from client.audit_trail import AuditTrail
from client.commands.shared import Chosen, settings_of, user_errors
from client.fleet import Fleet
from client.health import PAUSED_FILE
from client.node import Node, NodeSettings, enter
from client.node_status import NodeStatus
from client.site import Coordinator, Site, SiteError
from client.supervisor import supervise
from common.audit import FOLDER, open_log
from common.keys import read_key
from common.plan import read_plan
from common.progress import View

POLICY_FILE = "policy.yaml"
LEFT_STATUS = 3
"""Exit status of a site that has left: no service should start it again."""

_LOG_BYTES, _LOG_FILES = 10 * 1024**2, 5


def start(context: typer.Context) -> None:
    """Run the node until Ctrl-C; what a service starts."""
    with user_errors():
        site = settings_of(context)
        if has_left(site.state_folder):
            _say_left(site)
        coordinator = coordinator_of(site)
        _require_files(coordinator)
        read_key(coordinator.key)  # here, not in a process that is started for ever
        _log_to(site.state_folder, "site", also_here=True)
        stop = _stop_on_signals()
        View().say(
            f"{site.site} takes part through {coordinator.address}. Ctrl-C ends it; "
            f"mammo-client --site {site.site} status tells how it goes."
        )
        with _probed(site):
            supervise(context.obj.words, site.state_folder, stop)
        if has_left(site.state_folder):
            _say_left(site)


def _say_left(site: Site) -> NoReturn:
    typer.echo(
        f"{site.site} has left the federation. Nothing runs here, nothing was deleted. "
        f"mammo-client --site {site.site} approve PLAN takes part again.",
        err=True,
    )
    raise typer.Exit(LEFT_STATUS)


def run_node(context: typer.Context) -> None:
    """Talk to the coordinator; the supervisor starts this."""
    site = settings_of(context)
    coordinator = coordinator_of(site)
    _log_to(site.state_folder, "node", also_here=True)
    enter(site.state_folder)
    stop = _stop_on_signals()
    _end_with_parent(stop.set)
    status = NodeStatus(site.state_folder)
    fleet = Fleet(
        coordinator.address,
        coordinator.certificates,
        coordinator.key,
        asking=status.asking,
        certificate=status.certificate,
    )
    paused = site.state_folder / PAUSED_FILE
    settings = NodeSettings(site.site, site.state_folder, paused)
    with _audited(site, coordinator) as trail:
        Node(settings, fleet, status, trail, stop).run()


def run_worker(context: typer.Context) -> None:
    """Hold model and images; the supervisor starts this."""
    from client import worker  # imports torch, which no other verb needs

    site = settings_of(context)
    _log_to(site.state_folder, "worker", also_here=False)
    _end_with_parent(lambda: os._exit(0))
    worker.run_worker(site, policy_file(context.obj))


def run_rehearsal(
    context: typer.Context, plan: Annotated[Path | None, typer.Option()] = None
) -> None:
    """Take one training step and tell what it took; preflight and approval start it."""
    from client.preflight.rehearsal import rehearse  # imports torch

    site = settings_of(context)
    chosen = last_approved(site.state_folder) if plan is None else read_plan(plan)
    typer.echo(rehearse(site, chosen).to_json())


def policy_file(chosen: Chosen) -> Path:
    """Name the file of what this installation allows."""
    return chosen.config_dir / POLICY_FILE


def coordinator_of(site: Site) -> Coordinator:
    """Return how the site reaches the coordinator.

    Raises
    ------
    SiteError
        If its settings do not say.
    """
    if site.coordinator is None:
        raise SiteError(
            f"The settings of {site.site} name no coordinator. Add address, "
            "certificates and key; mammo-client --site NAME init shows how."
        )
    return site.coordinator


def _require_files(coordinator: Coordinator) -> None:
    for what, path in (
        ("the authority's certificate", coordinator.certificates),
        ("the site's private key", coordinator.key),
    ):
        if not path.is_file():
            raise SiteError(f"No file {path}, which should hold {what}.")


@contextmanager
def _audited(site: Site, coordinator: Coordinator) -> Iterator[AuditTrail]:
    with ExitStack() as stack:
        with user_errors():
            key, folder = read_key(coordinator.key), site.state_folder / FOLDER
            audit = stack.enter_context(open_log(folder, key, "site", site.site))
        yield AuditTrail(audit, site.site, site.state_folder)


def _probed(site: Site) -> AbstractContextManager[None]:
    if site.health_port is None:
        return nullcontext()
    from client.health_probe import health_probe  # gRPC, which few sites ask for

    return health_probe(site.state_folder, site.health_port)


def _log_to(state: Path, name: str, *, also_here: bool) -> None:
    """Log to the state folder; texts of refusals stay there."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = RotatingFileHandler(
        state / f"{name}.log", maxBytes=_LOG_BYTES, backupCount=_LOG_FILES
    )
    (state / f"{name}.log").chmod(0o600)
    handlers: list[logging.Handler] = [file]
    if also_here:
        handlers.append(logging.StreamHandler(sys.stderr))
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s {name} %(levelname)s %(message)s",
        handlers=handlers,
        force=True,
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _end_with_parent(end: Callable[[], object]) -> None:
    """Notice that the supervisor is gone: standard input, a pipe of its, then ends."""

    def watch() -> None:
        while os.read(0, 1024):  # sys.stdin would be locked when the process ends
            pass
        end()

    threading.Thread(target=watch, name="parent", daemon=True).start()
