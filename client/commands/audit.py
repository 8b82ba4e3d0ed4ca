"""``mammo-client audit``: prove what this installation does, and what it did."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from client.approval import last_approved
from client.commands.shared import Chosen, settings_of, user_errors
from client.commands.start import coordinator_of, policy_file
from client.policy import read_policy
from client.site import SiteError
from common.audit import FOLDER, LOG_FILE
from common.audit_compare import report
from common.keys import public_text, read_key
from common.plan import PlanError
from common.progress import View

if TYPE_CHECKING:
    from client.phi_audit import Audit


def phi(context: typer.Context) -> None:
    """Plant identifiers everywhere in a made-up archive; search all that comes of it.

    Nothing of the site itself is read or written. Exits with 1 if one was found.
    """
    view = View()
    chosen: Chosen = context.obj
    with user_errors():
        if chosen.site:
            settings_of(context)
        from client.phi_audit import audit  # torch takes seconds, for this verb only

        with tempfile.TemporaryDirectory(prefix="mammofed-audit-") as folder:
            result = audit(Path(folder), lambda step: view.say(f"{step} ..."))
        _print(view, result)
    if result.found:
        raise typer.Exit(1)


def egress(
    context: typer.Context,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="folder that is empty, or new")
    ],
) -> None:
    """Write down what this site would send: one page to read for each message.

    Rehearses the plan approved last with the prepared images: handshake, the first
    round of every stage, closing, and an error. Nothing is sent; local state, audit log
    and counters stay as they are. It takes as long as those rounds in earnest. Start
    with OUT/read-me.txt; the pages hold what would leave, and no more.
    """
    view = View()
    with user_errors():
        site = settings_of(context)
        plan = last_approved(site.state_folder)
        if plan is None:
            raise PlanError(
                f"{site.site} has approved no plan yet: there is nothing to rehearse. "
                f"mammo-client --site {site.site} approve PLAN does."
            )
        if out.resolve().is_relative_to(site.archive.resolve()):
            raise SiteError(f"{out} lies in the archive. Name a folder elsewhere.")
        policy = read_policy(policy_file(context.obj))
        from client.egress_rehearsal import READ_ME, rehearse_egress  # imports torch

        view.say(f"Rehearsing plan {plan.id} with the images of {site.site} ...")
        rehearse_egress(site, plan, policy, out)
        view.say((out / READ_ME).read_text().rstrip())
        view.say(f"Pages: {out}")


def verify(
    context: typer.Context,
    peer: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="the coordinator's log of a run, which holds what it received from "
            "here, or the log of another site, which received the same weights",
        ),
    ] = None,
) -> None:
    """Tell whether this site's log was changed. Exits with 1 if it was.

    An end that was cut off, or a log that was written anew, shows only with --peer.
    The log, audit/log.jsonl of the state folder, holds nothing of a patient: it may be
    given to the coordinator and to other sites.
    """
    view = View()
    with user_errors():
        site = settings_of(context)
        key = public_text(read_key(coordinator_of(site).key))
        said, well = report(site.state_folder / FOLDER / LOG_FILE, key, peer)
        for line in said:
            view.say(line)
    if not well:
        raise typer.Exit(1)


def _print(view: View, result: Audit) -> None:
    grid = Table(box=None, title="planted", title_justify="left")
    grid.add_column("places", justify="right")
    grid.add_column("kind")
    for kind, count in sorted(result.places.items()):
        grid.add_row(str(count), kind)
    view.console.print(grid)
    view.say(
        f"{sum(result.places.values())} places in {result.planted} files. Searched: "
        f"{result.files} files and their names, {result.messages} messages, "
        f"{result.said} log lines, warnings, errors and outputs."
    )
    if not result.found:
        view.say("Found nowhere outside the original files and linkage.")
        return
    view.say("FOUND. Stop, and report it:")
    for artefact, kind in result.found:
        view.say(f"  {kind} in {artefact}")
