"""``python -m simulations.benchmark ingest``: how fast an archive becomes a cache.

Three things in turns over the same full-field files, so that a machine that slows down
slows all of them: decoding alone with our decoder (the floor), our whole preparation,
and the script that most projects start with.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import gdcm
import numpy as np
import pydicom
import torch
from pydicom.pixels import apply_voi_lut
from rich.table import Table

from client.data.dataset import Loader, SiteDataset, draw_batches
from client.data.dicom_decode import decode
from client.data.dicom_header import header_of, read_dataset
from client.data.site_data import import_site, prepare_site
from common.plan import Augmentation, Preprocessing, Work
from common.progress import View
from simulations.benchmark_data import BATCH, PlainLoop, hospitals, job
from simulations.benchmark_runs import resident_bytes
from simulations.benchmark_stages import measure_stages
from simulations.synthetic.generate import generate
from simulations.synthetic.profiles import ALL_SITES

ROWS, COLUMNS = 3062, 2394
SIZE = Preprocessing(rows=1024, columns=512)
TRAINED = Preprocessing(rows=128, columns=64)
AUGMENTED = Augmentation(
    rotation=10.0, shift=0.05, zoom=0.1, gamma=0.2, noise=0.01, flip=0.5
)
FLOOR_RATIO, READING_RATIO = 1.25, 10.0
SYNTAXES = {
    "JPEG Lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "JPEG 2000": gdcm.TransferSyntax.JPEG2000Lossless,
    "uncompressed": gdcm.TransferSyntax.ExplicitVRLittleEndian,
}
_PATIENTS, _TURNS, _READ_STEPS, _TRAIN_STEPS = 2, 3, 500, 20


@dataclass(frozen=True)
class Times:
    """Seconds per image over the same files.

    Attributes
    ----------
    floor : our decoding step alone, with the range check (two passes over the pixels,
        about a hundredth of it); one core, files in memory
    prepared : whole preparation by one worker, less its start and first chunk
    together : wall time per image by one worker per core, their start counted
    plain : pydicom, VOI LUT, min-max, OpenCV resize, PNG; one core
    """

    floor: float
    prepared: float
    together: float
    plain: float


def measure_ingest(images: int, view: View) -> dict[str, Any]:
    """Measure every transfer syntax.

    Parameters
    ----------
    images : files of one syntax
    """
    result: dict[str, Any] = {
        "images": images,
        "matrix": [ROWS, COLUMNS],
        "cache": [SIZE.rows, SIZE.columns],
        "cpus": os.cpu_count(),
        "syntaxes": {},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = _full_fields(folder / "synthetic", view)
        for title, syntax in SYNTAXES.items():
            archive = folder / title.replace(" ", "_")
            _write_archive(archive, sources, images, syntax)
            times = _measure(archive, folder / "site", title, view)
            result["syntaxes"][title] = _document(times)
            if "reading" not in result:  # of JPEG Lossless, the commonest
                paths = sorted(archive.iterdir())
                result["stages"] = measure_stages(paths, SIZE)
                result["memory"] = _memory(folder / "site", archive)
                result["reading"] = _reading(archive, folder / "site")
            shutil.rmtree(archive)
            shutil.rmtree(folder / "site")
    lossless = result["syntaxes"]["JPEG Lossless"]["ratio_to_floor"]
    targets = {
        "ratio_to_floor": lossless <= FLOOR_RATIO,
        "reading_ratio": result["reading"]["ratio"] >= READING_RATIO,
    }
    return result | {"targets": targets}


def stages_table(result: dict[str, Any]) -> Table:
    """Lay out where the time goes."""
    grid = Table(title="JPEG Lossless, milliseconds per image", show_header=False)
    grid.add_column()
    grid.add_column(justify="right")
    for name, seconds in result["stages"].items():
        grid.add_row(name, f"{1000 * seconds:.1f}")
    return grid


def ingest_table(result: dict[str, Any]) -> Table:
    """Lay the result out for a person."""
    rows, columns = result["matrix"]
    grid = Table(title=f"Ingest of {rows} x {columns}, milliseconds per image and core")
    titles = ("syntax", "decoding", "prepare", "ratio", "plain script", "all cores")
    for title in titles:
        grid.add_column(title, justify="left" if title == "syntax" else "right")
    for name, entry in result["syntaxes"].items():
        grid.add_row(
            name,
            f"{1000 * entry['floor_seconds']:.0f}",
            f"{1000 * entry['prepare_seconds']:.0f}",
            f"{entry['ratio_to_floor']:.2f}",
            f"{1000 * entry['plain_seconds']:.0f}",
            f"{entry['images_per_second_all_cores']:.1f}/s",
        )
    return grid


def _document(times: Times) -> dict[str, float]:
    return {
        "floor_seconds": times.floor,
        "prepare_seconds": times.prepared,
        "plain_seconds": times.plain,
        "ratio_to_floor": times.prepared / times.floor,
        "ratio_to_plain": times.prepared / times.plain,
        "images_per_second_and_core": 1 / times.prepared,
        "images_per_second_all_cores": 1 / times.together,
    }


def _measure(archive: Path, site: Path, title: str, view: View) -> Times:
    import_site("hospital", archive, site, "benchmark", {"dataset": "benchmark"})
    paths = sorted(path for path in archive.rglob("*") if path.is_file())
    floors, ours, all_cores, scripts = [], [], [], []
    with view.bar(title, _TURNS) as bar:
        for turn in range(_TURNS):
            floors.append(_floor(paths))
            ours.append(_prepare(site, archive, len(paths)))
            all_cores.append(_prepare_together(site, archive, len(paths)))
            scripts.append(_plain_script(paths, site.parent / "png"))
            bar.move(turn + 1)
    return Times(median(floors), median(ours), median(all_cores), median(scripts))


def _floor(paths: Sequence[Path]) -> float:
    """Decode pixels and check their range: reading and parsing are off the clock."""
    inside = 0.0
    for path in paths:
        content = path.read_bytes()
        ds = read_dataset(content, pixels=True)
        header = header_of(ds)
        began = time.perf_counter()
        decode(content, ds, header)
        inside += time.perf_counter() - began
    return inside / len(paths)


def _prepare_together(site: Path, archive: Path, images: int) -> float:
    """Prepare from nothing with a worker for each core, their start counted."""
    shutil.rmtree(site / "cache", ignore_errors=True)
    began = time.perf_counter()
    prepare_site(site, archive, SIZE, workers=os.cpu_count() or 1)
    return (time.perf_counter() - began) / images


def _prepare(site: Path, archive: Path, images: int) -> float:
    """Prepare from nothing; the first chunk, with the worker's start, is off."""
    shutil.rmtree(site / "cache", ignore_errors=True)
    clock: list[tuple[float, int]] = []  # when, images done; the first entry is 0 done
    prepare_site(
        site,
        archive,
        SIZE,
        progress=lambda done, total: clock.append((time.perf_counter(), done)),
    )
    ended = time.perf_counter()
    started, done = clock[1]
    if done == images:  # too few files for several chunks: count all
        started, done = clock[0]
    return (ended - started) / (images - done)


def _memory(site: Path, archive: Path) -> dict[str, float]:
    """Watch the memory of a preparation: of this process and of its one worker."""
    shutil.rmtree(site / "cache", ignore_errors=True)
    used: list[int] = []

    def watch(done: int, total: int) -> None:
        if done:
            processes = ["self", *_children()]
            used.append(sum(byte for one in processes for byte in resident_bytes(one)))

    prepare_site(site, archive, SIZE, progress=watch)
    return {"first_megabytes": used[0] / 1e6, "last_megabytes": used[-1] / 1e6}


def _children() -> list[str]:
    threads = Path("/proc/self/task").glob("*/children")
    return [pid for file in threads for pid in file.read_text().split()]


def _reading(archive: Path, site: Path) -> dict[str, float]:
    """Load batches for a model that does nothing, beside what resnet18 trains.

    The images are few and stay in memory, as those of a site of usual size do; on a GPU
    in its own. resnet18 trains on the CPU.
    """
    snapshot = prepare_site(site, archive, TRAINED)
    rows = snapshot.rows.assign(
        part="train", target=0.0, source=0, position=np.arange(len(snapshot))
    )
    dataset = SiteDataset({"benchmark": snapshot}, rows)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = Loader(dataset, device, 0.5, 0.5, 1)
    work = Work("steps", _READ_STEPS, BATCH)
    batches = draw_batches(np.arange(len(snapshot)), work, seed=0)

    def speed(augmentation: Augmentation | None) -> float:
        list(loader.batches(batches[:1], augmentation))
        began = time.perf_counter()
        read = sum(len(x.images) for x in loader.batches(batches, augmentation))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return read / (time.perf_counter() - began)

    loaded, augmented = speed(None), speed(AUGMENTED)
    plan = job(1, 1, _TRAIN_STEPS, rows=TRAINED.rows)
    loop = PlainLoop(plan, hospitals(plan))
    loop.play(0)
    trained = _TRAIN_STEPS * BATCH / loop.play(1)
    return {
        "on_gpu": float(device.type == "cuda"),
        "images_per_second": loaded,
        "augmented_images_per_second": augmented,
        "resnet18_images_per_second": trained,
        "ratio": loaded / trained,
        "augmented_ratio": augmented / trained,
    }


def _plain_script(paths: Sequence[Path], folder: Path) -> float:
    """Do what most projects do: read, window, stretch, resize, write PNG."""
    folder.mkdir(exist_ok=True)
    began = time.perf_counter()
    for number, path in enumerate(paths):
        ds = pydicom.dcmread(path)
        image = apply_voi_lut(ds.pixel_array, ds).astype(np.float32)
        image = (image - image.min()) / (image.max() - image.min())
        if ds.PhotometricInterpretation == "MONOCHROME1":
            image = 1.0 - image
        resized = cv2.resize(image, (SIZE.columns, SIZE.rows))
        target = folder / f"{number}.png"
        cv2.imwrite(str(target), (resized * 65535).astype(np.uint16))
    return (time.perf_counter() - began) / len(paths)


def _full_fields(root: Path, view: View) -> list[Path]:
    """Render a few full-field mammograms of the synthetic consortium."""
    profile = ALL_SITES[0]
    with view.bar("full-field images", _PATIENTS) as bar:
        generate(
            root,
            seed=0,
            patients_per_site=_PATIENTS,
            rows=ROWS,
            columns=COLUMNS,
            sites=[profile],
            workers=1,
            progress=lambda site, done, total: bar.move(done, total),
        )
    return sorted((root / profile.site).rglob("*.dcm"))


def _write_archive(
    root: Path, sources: Sequence[Path], images: int, syntax: Any
) -> None:
    """Write copies with a UID and a shift of their own, in one transfer syntax."""
    root.mkdir()
    for number in range(images):
        ds = pydicom.dcmread(sources[number % len(sources)])
        pixels = np.roll(ds.pixel_array, 3 * (number // len(sources)), axis=0)
        ds.PixelData = pixels.tobytes()
        ds.SOPInstanceUID = f"1.2.3.{number + 1}"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        path = root / f"{number:04d}.dcm"
        ds.save_as(path)
        _transcode(path, syntax)


def _transcode(path: Path, syntax: Any) -> None:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
