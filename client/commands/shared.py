"""What ``mammo-data`` and ``mammo-client`` share: steps on a folder, and how they look.

Both turn an archive into prepared images with these functions; one takes its settings
from the command line, the other from the site's file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.markup import escape
from rich.table import Table

from client.data.cache import CacheError
from client.data.check import Check, check_site
from client.data.check_page import write_check
from client.data.codes import NOTES, REASONS
from client.data.importers import ImporterError
from client.data.manifest import (
    MANIFEST_FILE,
    ManifestError,
    read_linkage,
    read_manifest,
)
from client.data.pseudonyms import SecretError
from client.data.site_data import (
    ImportSummary,
    import_site,
    prepare_site,
    status_counts,
)
from client.data.snapshot import open_snapshot
from client.data.withdrawn import (
    UnknownPatientError,
    WithdrawnError,
    read_withdrawn,
)
from client.data.workers import WorkerError, describe
from client.policy import PolicyError
from client.site import Site, SiteError, known_sites, read_site
from common.audit import AuditError
from common.keys import KeyFileError
from common.lock import FolderBusyError
from common.plan import ModalityKind, PlanError, Preprocessing, read_plan
from common.progress import View

CPUS = os.cpu_count() or 1

MAX_FAILURES = 0.1
"""Share of images that may fail in an archive that was copied whole."""

PlanFile = Annotated[
    Path | None, typer.Option("--plan", help="plan whose preprocessing is wanted")
]
Rows = Annotated[int, typer.Option(min=1, help="without a plan")]
Columns = Annotated[int, typer.Option(min=1, help="without a plan")]
Also = Annotated[
    list[str] | None,
    typer.Option(
        "--also", metavar="ROWSxCOLUMNS", help="a further size from the same decoding"
    ),
]
MaxFailures = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="share of unreadable images that gives exit status 3"
    ),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="hash all files and images again")
]


_FLAT: tuple[ModalityKind, ...] = ("SFM", "CESM_LE", "SYNTH2D")
"""Kinds of one image a file, beside full-field digital mammograms."""


@dataclass(frozen=True)
class Chosen:
    """Which site a ``mammo-client`` is for, and where its settings are."""

    site: str
    config_dir: Path

    @property
    def words(self) -> list[str]:
        """What another process is started with, to be for the same site."""
        return ["--config-dir", str(self.config_dir.absolute()), "--site", self.site]


def settings_of(context: typer.Context) -> Site:
    """Read the settings of the chosen site.

    Raises
    ------
    SiteError
        If none was chosen, or as `client.site.read_site`.
    """
    chosen: Chosen = context.obj
    if not chosen.site:
        raise SiteError(
            "Which site? Type mammo-client --site NAME, then the verb. "
            + known_sites(chosen.config_dir)
        )
    return read_site(chosen.config_dir, chosen.site)


def import_folder(
    view: View,
    importer: str,
    root: Path,
    out: Path,
    site: str,
    options: Mapping[str, Any],
    workers: int,
) -> ImportSummary:
    """Import an archive, and tell what was found in it."""
    with view.bar(f"reading {importer}", 1) as bar:
        summary = import_site(
            importer, root, out, site, options, workers=workers, progress=bar.move
        )
    print_counts(view, summary.counts)
    return summary


def check_folder(view: View, out: Path, archive: Path, workers: int) -> None:
    """Check what was imported, and tell the problems."""
    before = read_withdrawn(out)
    with view.bar("checking", 1) as bar:
        result = check_site(out, archive, workers=workers, progress=bar.move)
    if read_withdrawn(out) != before:
        raise CacheError("A patient has withdrawn meanwhile. Run the check again.")
    names = result.manifest["site"].unique()
    page = write_check(out, result, str(names[0]) if len(names) else out.name)
    _print_problems(view, result)
    view.say(f"Page: {page} (shows images: it stays here)")
    view.say(f"To share: {out / 'summary.json'} (counts in tens, none below ten)")


def prepare_folder(
    view: View,
    out: Path,
    archive: Path,
    wanted: Preprocessing,
    workers: int,
    *,
    also: Sequence[Preprocessing] = (),
    verify: bool = False,
    max_failures: float = MAX_FAILURES,
) -> None:
    """Prepare what was imported, and tell what became of every file.

    Where too many failed, a script that goes on would train on what is left.

    Raises
    ------
    typer.Exit
        With status 3 if more than ``max_failures`` of the images could not be prepared;
        the others are, all the same.
    """
    with view.bar("preparing", 1) as bar:
        snapshot = prepare_site(
            out,
            archive,
            wanted,
            also=also,
            workers=workers,
            progress=bar.move,
            verify=verify,
        )
    manifest = read_manifest(out)
    print_counts(view, counts_of(manifest))
    usable = manifest.loc[manifest["status"] == "ok", "modality_kind"]
    left = usable[~usable.isin(wanted.modalities)].value_counts()
    for kind, count in sorted(left.items()):
        view.say(f"{count} files are {kind}: left for a plan that reads them")
    for made in [snapshot, *(open_snapshot(out, one) for one in also)]:
        view.say(f"{len(made)} images in {made.folder}")
    failed = int(read_linkage(out)["stage"].str.startswith("prepare:").sum())
    if failed > max_failures * (failed + len(usable)):
        typer.echo(
            f"{failed} of {failed + len(usable)} images could not be prepared, more "
            f"than {max_failures:.0%}: see the codes above, and mend them, or allow "
            "more with --max-failures.",
            err=True,
        )
        raise typer.Exit(3)


def wanted_preprocessing(
    view: View, out: Path, plan: Path | None, rows: int, columns: int
) -> Preprocessing:
    """Take the preprocessing of a plan, or the default one of a size.

    A site without full-field images, such as one of digitised film, would have none by
    default: without a plan it gets the flat kinds it has, and is told so.
    """
    if plan is not None:
        return read_plan(plan).preprocessing
    default = Preprocessing(rows=rows, columns=columns)
    if not (out / MANIFEST_FILE).is_file():  # preparation says what is missing
        return default
    manifest = read_manifest(out)
    usable = set(manifest.loc[manifest["status"] == "ok", "modality_kind"].dropna())
    if usable & set(default.modalities):
        return default
    others: tuple[ModalityKind, ...] = tuple(k for k in _FLAT if k in usable)
    if not others:
        return default
    view.say(
        f"There is no {' or '.join(default.modalities)} image here: prepares "
        f"{', '.join(others)}, as a plan does that names preprocessing.modalities."
    )
    return replace(default, modalities=others)


def other_sizes(
    wanted: Preprocessing, sizes: Sequence[str] | None
) -> tuple[Preprocessing, ...]:
    """Read sizes such as ``256x128``; the rest is as wanted.

    Raises
    ------
    PlanError
        If one is no size.
    """
    others = []
    for size in sizes or ():
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size)
        if found is None:
            raise PlanError(f"--also {size!r} is no size; give ROWSxCOLUMNS: 256x128")
        rows, columns = map(int, found.groups())
        others.append(replace(wanted, rows=rows, columns=columns))
    return tuple(others)


@contextmanager
def user_errors() -> Iterator[None]:
    """Show a user's mistake as one sentence, and a bug by type and place only.

    The text of an exception may quote a header, a table or a path.
    """
    try:
        yield
    except (
        AuditError,
        CacheError,
        FolderBusyError,
        ImporterError,
        KeyFileError,
        ManifestError,
        PlanError,
        PolicyError,
        SecretError,
        SiteError,
        UnknownPatientError,
        WithdrawnError,
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
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        typer.echo(f"This is a bug of mammofed. {describe(error)}", err=True)
        raise typer.Exit(1) from None


def counts_of(manifest: pd.DataFrame) -> dict[str, int]:
    """Count files in total, by status and by reason code."""
    return {"files": len(manifest)} | status_counts(manifest)


def print_counts(view: View, counts: dict[str, int]) -> None:
    """Print counts, reason codes with their meaning."""
    grid = Table(box=None, show_header=False)
    grid.add_column(justify="right")
    grid.add_column()
    grid.add_column(style="dim")
    for name, count in counts.items():
        code = name.removeprefix("reason:")
        words, meaning = code, REASONS.get(code, "")
        if code == name:
            words, meaning = NOTES.get(name, (name.replace("_", " "), ""))
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
