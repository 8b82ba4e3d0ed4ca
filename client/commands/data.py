"""``mammo-client check`` and ``prepare``: a site's archive becomes prepared images.

Where the settings name a coordinator, `check` goes on with the preflight of
`client.preflight`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from client.commands.shared import (
    CPUS,
    MAX_FAILURES,
    Also,
    Columns,
    MaxFailures,
    PlanFile,
    Rows,
    Verify,
    check_folder,
    import_folder,
    other_sizes,
    prepare_folder,
    settings_of,
    user_errors,
    wanted_preprocessing,
)
from client.commands.start import coordinator_of, policy_file
from client.data.site_data import IMPORT_FILE, is_imported
from client.preflight.finding import Finding
from client.preflight.run import preflight
from client.site import Site
from common.progress import View

_STYLES = {"problem": "red", "warning": "yellow", "unknown": "dim"}

Workers = Annotated[
    int | None, typer.Option(min=1, help="processes; default: as the settings say")
]


def check(
    context: typer.Context,
    workers: Workers = None,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="only whether the site can take part")
    ] = False,
) -> None:
    """Decode every image once, small: what is wrong, what to do, a page to look at.

    Where the settings name a coordinator, it then tells what keeps the site from
    taking part, with a remedy each; exits with 1 where something does.
    """
    view = View()
    with user_errors():
        site = settings_of(context)
        workers = workers or site.workers or CPUS
        if not no_data:
            _import_once(view, site, workers)
            check_folder(view, site.folder, site.archive, workers)
            if site.coordinator is None:
                return
        findings = preflight(
            site, coordinator_of(site), policy_file(context.obj), context.obj.words
        )
        if not _told(view, findings):
            raise typer.Exit(1)


def prepare(
    context: typer.Context,
    plan: PlanFile = None,
    rows: Rows = 128,
    columns: Columns = 64,
    workers: Workers = None,
    also: Also = None,
    verify: Verify = False,
    max_failures: MaxFailures = MAX_FAILURES,
) -> None:
    """Decode, crop and resize; go on where an interrupted call stopped.

    A finished preparation is confirmed by the size and time of every file.
    """
    view = View()
    with user_errors():
        site = settings_of(context)
        workers = workers or site.workers or CPUS
        _import_once(view, site, workers)
        wanted = wanted_preprocessing(view, site.folder, plan, rows, columns)
        prepare_folder(
            view,
            site.folder,
            site.archive,
            wanted,
            workers,
            also=other_sizes(wanted, also),
            verify=verify,
            max_failures=max_failures,
        )


def _told(view: View, findings: Iterable[Finding]) -> bool:
    """Print each finding as it is made; returns whether there was no problem."""
    well = True
    for one in findings:
        well &= one.state != "problem"
        line = f"{one.state:9}{one.name:14}{one.said}"
        style = _STYLES.get(one.state)
        view.console.print(line, style=style, markup=False, highlight=False)
        if one.remedy:
            view.say(f"{'':23}{one.remedy}")
    return well


def _import_once(view: View, site: Site, workers: int) -> None:
    if is_imported(site.importer, site.archive, site.folder, site.options):
        return
    if (site.folder / IMPORT_FILE).is_file():
        view.say("The settings or the label table have changed: reading again.")
    else:
        view.say("Nothing is imported yet: the archive is read first.")
    import_folder(
        view, site.importer, site.archive, site.folder, site.site, site.options, workers
    )
