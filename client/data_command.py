"""``mammo-data``: an archive becomes a manifest, then a cache of prepared images.

The same functions as at a hospital's node and in a simulation, see
`client.data.site_data`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.table import Table

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
    counts_of,
    import_folder,
    other_sizes,
    prepare_folder,
    print_counts,
    user_errors,
    wanted_preprocessing,
)
from client.data.check import counts_by_field
from client.data.importers import IMPORTERS
from client.data.manifest import read_manifest
from client.data.site_data import archive_of, import_notes, read_options
from common.progress import View

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they print the values of variables
    help="""Turn an archive of mammograms into de-identified, prepared images.

    1. import: read every file once; facts go to OUT/manifest.parquet, the way back
    to OUT/linkage.* (mode 0600, never leaves this machine).

    2. check: a verdict per image, a remedy per problem, a page to look at.

    3. prepare: decode, crop, resize; OUT/cache is what training reads.

    Every file found ends as used, excluded by rule, or quarantined, with a code.
    """,
)
_SHOWN = ("vendor", "modality_kind", "view", "density", "birads", "cancer_pathology")
_Out = Annotated[Path, typer.Argument(metavar="OUT", help="the site's data folder")]
_Archive = Annotated[
    Path | None, typer.Option(help="where the archive is now, if it has moved")
]
_Workers = Annotated[int, typer.Option(min=1, help="processes")]


_IMPORT_HELP = f"""Read every file of the archive ROOT; nothing is written into it.

ID is one of: {", ".join(sorted(IMPORTERS))}.

OUT becomes the site's data folder. Options of an importer are described in
client/data/importers/ID.py.
"""


@app.command("import", help=_IMPORT_HELP)
def import_archive(
    importer: Annotated[str, typer.Argument(metavar="ID", help="kind of archive")],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="the archive as it is")],
    out: _Out,
    site: Annotated[str, typer.Option(help="name of the site; default: ID")] = "",
    options: Annotated[
        Path | None, typer.Option(help="YAML with the importer's options")
    ] = None,
    workers: _Workers = CPUS,
) -> None:
    """Read every file of an archive; nothing is written into it."""
    view = View()
    with user_errors():
        settings = read_options(options) if options else {}
        summary = import_folder(
            view, importer, root, out, site or importer, settings, workers
        )
        again = " It held exactly this already." if summary.repeated else ""
        view.say(f"Manifest: {out}.{again}")
        view.say(f"Next: mammo-data check {out}, then mammo-data prepare {out}")


@app.command()
def check(
    out: _Out,
    archive: _Archive = None,
    workers: _Workers = CPUS,
) -> None:
    """Decode every image once, small; write check.html, check.json, summary.json.

    OUT is the site's data folder, as import made it.
    """
    with user_errors():
        check_folder(View(), out, archive or archive_of(out), workers)


@app.command()
def prepare(
    out: _Out,
    plan: PlanFile = None,
    rows: Rows = 128,
    columns: Columns = 64,
    archive: _Archive = None,
    workers: _Workers = CPUS,
    also: Also = None,
    verify: Verify = False,
    max_failures: MaxFailures = MAX_FAILURES,
) -> None:
    """Decode, crop and resize; go on where an interrupted call stopped.

    OUT is the site's data folder. A finished preparation is confirmed by the size and
    time of every file.
    """
    with user_errors():
        view = View()
        wanted = wanted_preprocessing(view, out, plan, rows, columns)
        prepare_folder(
            view,
            out,
            archive or archive_of(out),
            wanted,
            workers,
            also=other_sizes(wanted, also),
            verify=verify,
            max_failures=max_failures,
        )


@app.command()
def show(out: _Out) -> None:
    """Tell what a site has: files by status and code, images by vendor, view, label.

    OUT is the site's data folder.
    """
    view = View()
    with user_errors():
        manifest = read_manifest(out)
        print_counts(view, counts_of(manifest) | import_notes(out))
        usable = manifest[manifest["status"] == "ok"]
        patients = usable["patient_key"].nunique()
        view.say(f"{len(usable)} usable images of {patients} patients")
        view.console.print(_values(usable))


def main() -> None:
    """Run the command."""
    app()


def _values(images: pd.DataFrame) -> Table:
    grid, counts = Table(box=None), counts_by_field(images)
    for title in ("field", "value", "images"):
        grid.add_column(title, justify="right" if title == "images" else "left")
    for name in _SHOWN:
        for value, count in counts[name].items():
            grid.add_row(name, value, str(count))
            name = ""
    return grid


if __name__ == "__main__":
    main()
