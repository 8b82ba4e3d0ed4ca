"""A whole archive of synthetic DICOM files, one folder per hospital."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import pandas as pd

from common.atomic import sync_folder, write_atomic
from common.canonical import canonical_json, sha256_hex
from simulations.synthetic.dicom_writer import (
    ImageIdentity,
    encode_image,
    sop_instance_uid,
)
from simulations.synthetic.patients import Patient, draw_patient
from simulations.synthetic.profiles import ALL_SITES, SiteProfile
from simulations.synthetic.render import (
    draw_views,
    finding_boxes,
    make_grid,
    render_patient,
)
from simulations.synthetic.tomosynthesis import encode_objects, object_names

GENERATOR_VERSION = 1
PARAMETERS = "site.json"
PATIENTS_PER_TASK = 5
TRUTH_COLUMNS = (
    "patient_id",
    "sop_instance_uid",
    "laterality",
    "view",
    "density",
    "pathology",
    "findings",
    "age_years",
)
FINDING_COLUMNS = (
    "patient_id",
    "laterality",
    "view",
    "kind",
    "pathology",
    "row0",
    "column0",
    "row1",
    "column1",
    "conspicuity",
)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SiteJob:
    """What one site's folder is made from; other values need another folder.

    Attributes
    ----------
    profile : the hospital
    seed : of the archive
    patients : number of this hospital's patients
    rows, columns : matrix size of every image
    lesions : False leaves every finding out of the pixels, and changes nothing else
    tomosynthesis : some patients also have a volume and a 2D image made from it
    """

    profile: SiteProfile
    seed: int
    patients: int
    rows: int
    columns: int
    lesions: bool = True
    tomosynthesis: bool = False

    def parameters(self) -> dict[str, Any]:
        """Return the plain content of ``site.json``."""
        profile = asdict(self.profile)
        secret = f"mammofed synthetic secret {self.seed} {self.profile.site}"
        return {
            "site": self.profile.site,
            "generator_version": GENERATOR_VERSION,
            "synthetic": True,
            "seed": self.seed,
            "secret": sha256_hex(secret.encode()),
            "patients": self.patients,
            "rows": self.rows,
            "columns": self.columns,
            "lesions": self.lesions,
            "profile": profile,
        } | ({"tomosynthesis": True} if self.tomosynthesis else {})


def generate(
    root: Path,
    *,
    seed: int,
    patients_per_site: int = 200,
    rows: int = 512,
    columns: int = 256,
    sites: Sequence[SiteProfile] = ALL_SITES,
    workers: int = 2,
    lesions: bool = True,
    tomosynthesis: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the synthetic archive; continue where an interrupted call stopped.

    A site's folder appears under its name when it is complete; until then it grows as
    ``.<site>.partial``. Complete sites with the same parameters are left as they are.

    Parameters
    ----------
    root : archive; made when absent
    seed : the same seed gives the same decoded pixels, for any number of workers
    patients_per_site : each site makes ``patient_share`` times as many
    rows, columns : matrix size of every image; at least 64 each, and columns at least
        half of rows, which is what a breast needs
    sites : hospitals to make
    workers : processes; 1 stays in this one
    lesions : False renders the same patients without their findings; the tables still
        name them, so that what remains of the label in the pixels can be measured
    tomosynthesis : writes both for every third patient; changes no other image
    progress : called with site, patients done, patients of the site

    Raises
    ------
    ValueError
        If the size is too small, or a site's folder was made with other parameters;
        nothing is written then.
    """
    if min(rows, columns) < 64 or 2 * columns < rows:
        raise ValueError(
            f"Cannot render a breast in {rows} rows x {columns} columns: both must be "
            "at least 64 and columns at least half of rows. Choose a larger matrix."
        )
    jobs = []
    for profile in sites:
        patients = max(1, round(patients_per_site * profile.patient_share))
        jobs.append(
            SiteJob(profile, seed, patients, rows, columns, lesions, tomosynthesis)
        )
    for job in jobs:
        _refuse_other_parameters(root, job)
    for job in jobs:
        if not _site_folder(root, job).exists():
            _generate_site(root, job, workers, progress or _silent)


def _silent(site: str, done: int, total: int) -> None:
    """Report nothing."""


def _site_folder(root: Path, job: SiteJob) -> Path:
    return root / job.profile.site


def _partial_folder(root: Path, job: SiteJob) -> Path:
    return root / f".{job.profile.site}.partial"


def _refuse_other_parameters(root: Path, job: SiteJob) -> None:
    """Raise if the site's folder, complete or partial, came from other parameters."""
    complete, partial = _site_folder(root, job), _partial_folder(root, job)
    expected = json.loads(canonical_json(job.parameters()))
    for folder in (complete, partial):
        path = folder / PARAMETERS
        if not folder.exists() or (folder == partial and not path.exists()):
            continue
        found = json.loads(path.read_text()) if path.exists() else {}
        keys = sorted({*expected, *found} - {"secret"})
        other = [k for k in keys if found.get(k) != expected.get(k)]
        if other:
            raise ValueError(
                f"Cannot generate site {job.profile.site}: its folder was made with "
                f"other {', '.join(other)}. Choose another archive folder, or delete "
                f"{folder.name} in this one."
            )


def _generate_site(root: Path, job: SiteJob, workers: int, progress: Progress) -> None:
    """Render every missing patient, write the tables, then give the folder its name."""
    folder = _start_site(root, job)
    done = {path.name for path in folder.glob("P*")}
    names = [f"P{index:04d}" for index in range(job.patients)]
    missing = [index for index, name in enumerate(names) if name not in done]
    finished = job.patients - len(missing)
    progress(job.profile.site, finished, job.patients)
    for number in _write_patients(folder, job, missing, workers):
        finished += number
        progress(job.profile.site, finished, job.patients)
    write_atomic(folder / "truth.csv", _csv(truth_rows(job), TRUTH_COLUMNS))
    write_atomic(folder / "findings.csv", _csv(finding_rows(job), FINDING_COLUMNS))
    folder.rename(_site_folder(root, job))
    sync_folder(root)


def _start_site(root: Path, job: SiteJob) -> Path:
    """Make the partial folder, or clear what a killed call left half written in it."""
    folder = _partial_folder(root, job)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PARAMETERS).exists():
        write_atomic(folder / PARAMETERS, canonical_json(job.parameters()))
    for leftover in folder.glob(".P*"):
        shutil.rmtree(leftover)
    return folder


def _write_patients(
    folder: Path, job: SiteJob, missing: list[int], workers: int
) -> Iterator[int]:
    """Write the missing patients; yield how many each finished task has written."""
    step = PATIENTS_PER_TASK
    tasks = [missing[i : i + step] for i in range(0, len(missing), step)]
    if workers <= 1 or len(tasks) <= 1:
        yield from (_write_some(folder, job, task) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _use_one_thread) as pool:
        futures = [pool.submit(_write_some, folder, job, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _use_one_thread() -> None:
    """Keep OpenCV's threads from competing with the other processes."""
    cv2.setNumThreads(1)


def _write_some(folder: Path, job: SiteJob, indices: Iterable[int]) -> int:
    """Write some patients; a patient's folder is whole or absent."""
    number = 0
    for index in indices:
        patient = draw_patient(job.profile, job.seed, index)
        temporary = folder / f".{patient.patient_id}.{os.getpid()}"
        temporary.mkdir(exist_ok=True)
        _write_images(temporary, job, index, patient)
        temporary.rename(folder / patient.patient_id)
        number += 1
    return number


def _write_images(folder: Path, job: SiteJob, index: int, patient: Patient) -> None:
    images = render_patient(
        job.profile, job.seed, index, job.rows, job.columns, with_lesions=job.lesions
    )
    for (laterality, view), stored in images.items():
        identity = _identity(job, patient, laterality, view)
        content = encode_image(job.profile, identity, stored)
        (folder / f"{laterality}_{view}.dcm").write_bytes(content)
    grid = make_grid(job.profile, job.rows, job.columns)
    for drawn in draw_views(job.profile, job.seed, index) if job.tomosynthesis else ():
        identity = _identity(job, patient, drawn.laterality, drawn.view)
        objects = encode_objects(job.profile, identity, index, drawn, grid, job.lesions)
        for name, content in objects:
            path = folder / f"{drawn.laterality}_{drawn.view}_{name}.dcm"
            path.write_bytes(content)


def _identity(
    job: SiteJob, patient: Patient, laterality: str, view: str
) -> ImageIdentity:
    return ImageIdentity(
        job.seed, patient.patient_id, patient.age_years, laterality, view
    )


def truth_rows(job: SiteJob) -> list[dict[str, Any]]:
    """Return the truth table: one row per file."""
    rows = []
    for index in range(job.patients):
        patient = draw_patient(job.profile, job.seed, index)
        names = object_names(job.profile, index) if job.tomosynthesis else ()
        breasts = {breast.laterality: breast for breast in patient.breasts}
        views = draw_views(job.profile, job.seed, index)
        for view, name in product(views, ("", *names)):
            breast = breasts[view.laterality]
            identity = _identity(job, patient, view.laterality, view.view)
            identity = replace(identity, name=name)
            rows.append(
                {
                    "patient_id": patient.patient_id,
                    "sop_instance_uid": sop_instance_uid(job.profile, identity),
                    "laterality": view.laterality,
                    "view": view.view,
                    "density": patient.density,
                    "pathology": breast.pathology,
                    "findings": len(breast.findings),
                    "age_years": patient.age_years,
                }
            )
    return rows


def finding_rows(job: SiteJob) -> list[dict[str, Any]]:
    """Return the table of findings: one row per finding and view."""
    rows = []
    grid = make_grid(job.profile, job.rows, job.columns)
    for index in range(job.patients):
        for view in draw_views(job.profile, job.seed, index):
            boxes = finding_boxes(job.profile, view, grid)
            for finding, box in zip(view.findings, boxes, strict=True):
                rows.append(
                    {
                        "patient_id": f"P{index:04d}",
                        "laterality": view.laterality,
                        "view": view.view,
                        "kind": finding.kind,
                        "pathology": "malignant" if finding.malignant else "benign",
                        **asdict(box),
                        "conspicuity": round(finding.conspicuity, 4),
                    }
                )
    return rows


def _csv(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> bytes:
    stream = io.StringIO()
    pd.DataFrame(rows, columns=pd.Index(columns)).to_csv(
        stream, index=False, lineterminator="\n"
    )
    return stream.getvalue().encode()
