"""``mammo-data``: an archive becomes a manifest, then a cache of prepared images.

The same functions as at a hospital's node and in a simulation, see
`client.data.site_data`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.markup import escape
from rich.table import Table

from client.data.cache import CacheError
from client.data.check import Check, check_site, counts_by_field
from client.data.check_page import write_check
from client.data.codes import REASONS
from client.data.importers import IMPORTERS, ImporterError
from client.data.manifest import ManifestError, read_manifest
from client.data.pseudonyms import SecretError
from client.data.site_data import (
    archive_of,
    import_site,
    prepare_site,
    read_options,
    status_counts,
)
from client.data.workers import WorkerError, describe
from common.lock import FolderBusyError
from common.plan import PlanError, Preprocessing, read_plan
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
_CPUS = os.cpu_count() or 1
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
) -> None:
    """Read every file of an archive; nothing is written into it."""
    view = View()
    with _user_errors():
        settings = read_options(options) if options else {}
        with view.bar(f"reading {importer}", 1) as bar:
            summary = import_site(
                importer, root, out, site or importer, settings, progress=bar.move
            )
        _print_counts(view, summary.counts)
        again = " It held exactly this already." if summary.repeated else ""
        view.say(f"Manifest: {out}.{again}")
        view.say(f"Next: mammo-data check {out}, then mammo-data prepare {out}")


@app.command()
def check(
    out: _Out,
    archive: _Archive = None,
    workers: _Workers = _CPUS,
) -> None:
    """Decode every image once, small; write check.html, check.json, summary.json."""
    view = View()
    with _user_errors():
        with view.bar("checking", 1) as bar:
            result = check_site(
                out, archive or archive_of(out), workers=workers, progress=bar.move
            )
        names = result.manifest["site"].unique()
        page = write_check(out, result, str(names[0]) if len(names) else out.name)
        _print_problems(view, result)
        view.say(f"Page: {page} (shows images: it stays here)")
        view.say(f"To share: {out / 'summary.json'} (counts in tens, none below ten)")


@app.command()
def prepare(
    out: _Out,
    plan: Annotated[
        Path | None, typer.Option(help="plan whose preprocessing is wanted")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="without a plan")] = 128,
    columns: Annotated[int, typer.Option(min=1, help="without a plan")] = 64,
    archive: _Archive = None,
    workers: _Workers = _CPUS,
    verify: Annotated[
        bool, typer.Option("--verify", help="hash all files and images again")
    ] = False,
) -> None:
    """Decode, crop and resize; go on where an interrupted call stopped.

    A finished preparation is confirmed by the size and time of every file.
    """
    view = View()
    with _user_errors():
        wanted = (
            read_plan(plan).preprocessing
            if plan
            else Preprocessing(rows=rows, columns=columns)
        )
        with view.bar("preparing", 1) as bar:
            snapshot = prepare_site(
                out,
                archive or archive_of(out),
                wanted,
                workers=workers,
                progress=bar.move,
                verify=verify,
            )
        _print_counts(view, _counts(read_manifest(out)))
        view.say(f"{len(snapshot)} images in {snapshot.folder}")


@app.command()
def show(out: _Out) -> None:
    """Tell what a site has: files by status and code, images by vendor, view, label."""
    view = View()
    with _user_errors():
        manifest = read_manifest(out)
        _print_counts(view, _counts(manifest))
        usable = manifest[manifest["status"] == "ok"]
        patients = usable["patient_key"].nunique()
        view.say(f"{len(usable)} usable images of {patients} patients")
        view.console.print(_values(usable))


def main() -> None:
    """Run the command."""
    app()


@contextmanager
def _user_errors() -> Iterator[None]:
    """Show a user's mistake as one sentence, and a bug by type and place only.

    The text of an exception may quote a header, a table or a path.
    """
    try:
        yield
    except (
        CacheError,
        FolderBusyError,
        ImporterError,
        ManifestError,
        PlanError,
        SecretError,
        WorkerError,
    ) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command goes on.", err=True)
        raise typer.Exit(130) from None
    except OSError as error:
        typer.echo(f"{type(error).__name__}: {error.strerror}.", err=True)
        raise typer.Exit(2) from None
    except typer.Exit:
        raise
    except Exception as error:
        typer.echo(f"This is a bug of mammofed. {describe(error)}", err=True)
        raise typer.Exit(1) from None


def _counts(manifest: pd.DataFrame) -> dict[str, int]:
    return {"files": len(manifest)} | status_counts(manifest)


def _print_counts(view: View, counts: dict[str, int]) -> None:
    grid = Table(box=None, show_header=False)
    grid.add_column(justify="right")
    grid.add_column()
    grid.add_column(style="dim")
    for name, count in counts.items():
        code = name.removeprefix("reason:")
        meaning = "" if code == name else REASONS[code]
        words = code if code != name else name.replace("_", " ")
        grid.add_row(str(count), words, escape(meaning))
    view.console.print(grid)


def _print_problems(view: View, result: Check) -> None:
    view.say(", ".join(f"{count} {name}" for name, count in result.counts.items()))
    grid = Table(box=None, show_header=False)
    for problem in result.problems:
        style = {"error": "red", "warning": "yellow", "note": "dim"}[problem.severity]
        grid.add_row(
            problem.severity,
            str(problem.count),
            problem.code,
            escape(f"{problem.what}. {problem.remedy}"),
            style=style,
        )
    view.console.print(grid)


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
