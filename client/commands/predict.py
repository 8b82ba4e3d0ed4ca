"""``mammo-client predict``: new DICOM files, scored by a model that the site kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.data import Workers
from client.commands.shared import (
    CPUS,
    counts_of,
    print_counts,
    settings_of,
    user_errors,
)
from client.data.manifest import read_manifest
from client.site import Site
from common.progress import View

if TYPE_CHECKING:
    import pandas as pd

    from client.prediction import Finished

_Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="DICOM files in any tree of folders")
]
_Model = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="such as models/PLAN/ROUND; default: of the plan approved last the "
        "selected one, else the newest",
        show_default=False,
    ),
]
_Out = Annotated[Path, typer.Option(metavar="FILE", help="the table of scores, CSV")]
_Force = Annotated[bool, typer.Option("--force", help="replace FILE if it is there")]


def predict(
    context: typer.Context,
    folder: _Folder,
    model: _Model = None,
    out: _Out = Path("scores.csv"),
    force: _Force = False,
    workers: Workers = None,
) -> None:
    """Score new DICOM files with a model of this site. Not a medical device.

    mammo-client --site NAME predict /pacs/export --out scores.csv

    FOLDER is any tree of DICOM files, such as an export of the PACS. Nothing
    is written into it; what is made of it is deleted when the command ends.

    The table has a row for each breast of an exam: the mean over its images,
    whose views it lists. And one for each exam: the higher of its breasts.
    `above_threshold` compares with the operating point, which was chosen on
    validation images; of an exam it tells that a breast is above.

    Every file is accounted for. Not scored, but counted with the reason, are
    images of a kind or vendor that the model has not learnt, raw images,
    copies, special views, patients who have withdrawn, and what cannot be read.
    Exits with 2 where nothing can be scored.

    The table names patients as the hospital does: PatientID, accession number,
    study. Only you can read it (mode 0600), and it stays at the site. Read the
    model card first: it tells what the model was trained on. For research only.
    """
    view = View()
    with user_errors():
        site = settings_of(context)
        from client import prediction, score_table  # torch takes seconds: only here

        try:
            score_table.require_free(out, folder, replace=force)
            device = prediction.device_of(site.device, site.threads)
            chosen = model or prediction.choose_model(site.state_folder)
            finished = prediction.load_model(chosen, device)
            _introduce(view, finished, site.site)
            workers = workers or site.workers or CPUS
            with prediction.lent_folder(site.state_folder, folder) as lent:
                table = _score(view, site, folder, lent, finished, workers)
            score_table.require_free(out, folder, replace=force)
            score_table.write_table(out, table)
        except prediction.PredictionError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("Stopped. Nothing was written.", err=True)
            raise typer.Exit(130) from None
        rows = table["level"].value_counts()
        view.say(f"{rows['breast']} breasts of {rows['exam']} exams in {out}")
        view.say("The table names patients: mode 0600, it stays at this site.")
        view.say(f"{score_table.NOTE.capitalize()}.")


def _introduce(view: View, finished: Finished, site: str) -> None:
    """Tell which model scores, and what its scores are worth."""
    info, threshold = finished.info, finished.threshold(site)
    view.say(
        f"Model: plan {info.plan}, round {info.round} ({info.role}), of {info.site}, "
        f"{finished.hash[:12]}, in {finished.folder}"
    )
    if info.site != site:
        view.say(f"It was finished at {info.site}: nobody has measured it at {site}.")
    view.say(
        "Operating point: none, so above_threshold stays empty"
        if threshold is None
        else f"Operating point: {threshold:.4f} by breast"
    )
    if info.synthetic:
        view.say("Trained on SYNTHETIC images: not for use on people.")


def _score(
    view: View, site: Site, root: Path, lent: Path, finished: Finished, workers: int
) -> pd.DataFrame:
    """Take the files through to their scores; ``lent`` holds what is made of them."""
    from client import prediction, score_table

    wanted = finished.preprocessing
    with view.bar("reading", 1) as bar:
        prediction.import_new(
            root,
            lent,
            site.site,
            site.folder,
            film=bool(site.options.get("film")),
            workers=workers,
            progress=bar.move,
        )
    with view.bar("preparing", 1) as bar:
        snapshot = prediction.prepare_new(
            root, lent, wanted, workers=workers, progress=bar.move
        )
    manifest = read_manifest(lent)
    print_counts(view, counts_of(manifest))
    for sentence in prediction.left_out(manifest, finished):
        view.say(sentence)
    if snapshot is None or not finished.fits(snapshot.rows).any():
        raise prediction.PredictionError(
            f"Nothing to score: none of {len(manifest)} files is an image that the "
            "model reads. What stands above says why."
        )
    with view.bar("scoring", len(snapshot)) as bar:
        scores = prediction.score_new(finished, snapshot, bar.move)
    with view.bar("naming exams", 1) as bar:
        names = score_table.identify(scores, lent, root, bar.move)
    threshold = finished.threshold(site.site)
    return score_table.table_of(scores, names, threshold, finished.hash)
