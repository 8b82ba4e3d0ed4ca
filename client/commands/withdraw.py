"""``mammo-client withdraw``: a patient no longer wants to be part of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from client.commands.shared import settings_of, user_errors
from client.data.withdrawn import UnknownPatientError, read_withdrawn
from client.withdrawal import (
    Use,
    caches_with,
    delete_copies,
    find_patient,
    uses_of,
    withdraw,
)
from common.progress import View


def withdraw_patient(
    context: typer.Context,
    patient: Annotated[str, typer.Argument(metavar="PATIENT", show_default=False)] = "",
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    delete_caches: Annotated[
        bool,
        typer.Option(
            "--delete-caches",
            help="delete prepared images that hold the patient; a run that pinned them "
            "stops",
        ),
    ] = False,
) -> None:
    """Exclude a patient from the next snapshot; list rounds and models that used them.

    PATIENT is as the label table, or else the headers (PatientID), name the patient;
    left out, it is asked for, and stays out of the shell's history. Weights that were
    trained with the patient are not changed.
    """
    view = View()
    with user_errors():
        site = settings_of(context)
        if context.args:
            raise UnknownPatientError(
                "Give one patient, in quotes if there are spaces, or none: then it is "
                "asked for."
            )
        identifier = patient or typer.prompt("Patient", hide_input=True)
        key = find_patient(site.folder, identifier)
        if not yes and key not in read_withdrawn(site.folder):
            typer.confirm(
                "Exclude this patient from everything prepared from now on? No command "
                "takes that back.",
                abort=True,
            )
        new = withdraw(site.folder, key)
        view.say("The patient has withdrawn." if new else "Withdrawn already.")
        view.say("No new snapshot holds the patient: run prepare and check again.")
        models = site.state_folder / "models"
        _print_uses(view, uses_of(site.folder, key, site.state_folder, models))
        _tell_copies(view, site.folder, caches_with(site.folder, key), delete_caches)


def _print_uses(view: View, uses: Sequence[Use]) -> None:
    if not uses:
        view.say("No round and no model of this site has used the patient.")
        return
    view.say("Used by, for ever:")
    grid = Table(box=None)
    for title in ("run", "plan", "rounds", "part", "model"):
        grid.add_column(title)
    for use in uses:
        part = use.part if use.certain else f"{use.part}, if at all"
        model = "" if use.model is None else str(use.model)
        grid.add_row(use.run, use.plan, use.rounds, part, model)
    view.console.print(grid)
    if not all(use.certain for use in uses):
        view.say("If at all: the images of that time are gone, so nobody can look.")


def _tell_copies(
    view: View, folder: Path, caches: Sequence[Path], delete: bool
) -> None:
    if delete:
        deleted = delete_copies(folder, caches)
        view.say(f"Deleted: {', '.join(map(str, deleted)) or 'nothing was left'}.")
    elif caches:
        view.say("These prepared images still hold the patient. Once no run needs")
        view.say("them, repeat this command with --delete-caches:")
        for cache in caches:
            view.say(f"  {cache}")
