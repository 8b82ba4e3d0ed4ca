"""Divide one folder of images into virtual hospitals, by patient, each with its LUT."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from client.data.preprocessing import apply_lut
from common.atomic import write_atomic
from common.canonical import canonical_json, sha256_hex
from common.plan import PlanError
from common.progress import View
from common.seeds import derive_seed
from simulations.settings import DataSettings

_DONE = "division.json"
_GREY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH


def divide_folder(data: DataSettings, view: View) -> dict[str, Path]:
    """Copy a folder's images to one archive per site, each through the site's LUT.

    The original stays untouched. Copies are 16-bit PNG, so that a LUT costs no grey
    level. All images of a patient go to one site (an image without a patient is its
    own); patients are dealt out in turn, in an order that the seed draws.

    Parameters
    ----------
    data : ``root`` with the label table that ``importer`` describes; ``luts`` by site

    Returns
    -------
    Archive folder by site; one that is complete is not made again.

    Raises
    ------
    PlanError
        If the folder, the table or a column of it is missing.
    """
    root, table = Path(data.root), data.importer.get("table") or {}
    if not {"file", "key"} <= set(table):
        raise PlanError("data.importer.table must name its file and its key column")
    rows = _read_table(root / table["file"], table)
    if not rows:
        raise PlanError(f"{root / table['file']} lists no image")
    groups = _assign(rows, table, data)
    if empty := [site for site, own in groups.items() if not own]:
        raise PlanError(f"{len(rows)} rows leave nothing for {', '.join(empty)}")
    archives = {}
    for site in data.sites:
        description = {
            "lut": data.luts.get(site, {"kind": "linear"}),
            "importer": data.importer,
            "files": [row[table["key"]] for row in groups[site]],
            "seed": data.seed,
        }
        name = sha256_hex(canonical_json(description))[:8]
        archives[site] = Path(data.prepared) / "archives" / f"{site}-{name}"
        if not (archives[site] / _DONE).is_file():
            _write_site(root, archives[site], groups[site], description, table, view)
    return archives


def _read_table(path: Path, table: dict[str, Any]) -> list[dict[str, str]]:
    if not path.is_file():
        raise PlanError(
            f"No label table at {path}. Set data.root to the folder that holds it, or "
            "data.importer.table.file to its name."
        )
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter=table.get("delimiter", ",")))
    wanted = {table["key"], table.get("patient") or table["key"]}
    if rows and not wanted <= set(rows[0]):
        raise PlanError(f"{path} lacks the columns {sorted(wanted - set(rows[0]))}")
    return rows


def _assign(
    rows: list[dict[str, str]], table: dict[str, Any], data: DataSettings
) -> dict[str, list[dict[str, str]]]:
    """Deal patients out to the sites in turn, in an order drawn from the seed."""
    column = table.get("patient") or table["key"]
    patients = sorted(
        {row[column] for row in rows}, key=lambda p: derive_seed(data.seed, "site", p)
    )
    site_of = {p: data.sites[i % len(data.sites)] for i, p in enumerate(patients)}
    groups: dict[str, list[dict[str, str]]] = {site: [] for site in data.sites}
    for row in rows:
        groups[site_of[row[column]]].append(row)
    return groups


def _write_site(
    root: Path,
    archive: Path,
    rows: list[dict[str, str]],
    description: dict[str, Any],
    table: dict[str, Any],
    view: View,
) -> None:
    archive.mkdir(parents=True, exist_ok=True)
    with view.bar(f"images for {archive.name}", len(rows)) as bar:
        for number, row in enumerate(rows, start=1):
            name = row[table["key"]]
            _copy(root / name, archive / _copy_name(name), description["lut"])
            bar.move(number)
    with (archive / Path(table["file"]).name).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {table["key"]: _copy_name(row[table["key"]])})
    write_atomic(archive / _DONE, json.dumps(description).encode())


def _copy(source: Path, target: Path, lut: dict[str, Any]) -> None:
    """Write one image through a LUT; one that cannot be read is copied as it is.

    A damaged file then meets the importer, which quarantines and counts it.
    """
    content = source.read_bytes() if source.is_file() else b""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), _GREY) if content else None
    if image is None:
        target.write_bytes(content)
        return
    maximum = np.iinfo(image.dtype).max
    shaped = apply_lut(image.astype(np.float32) / np.float32(maximum), lut)
    encoded, png = cv2.imencode(".png", np.rint(shaped * 65535.0).astype(np.uint16))
    assert encoded
    target.write_bytes(png.tobytes())


def _copy_name(name: str) -> str:
    """Name a copy; two images of one name in different folders stay apart."""
    return f"{Path(name).stem}-{sha256_hex(name.encode())[:8]}.png"
