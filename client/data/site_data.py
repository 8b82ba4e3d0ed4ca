"""A site's data, from the archive to prepared images: what simulation and client call.

import_site(...)   archive -> manifest and linkage, once
prepare_site(...)  manifest -> cache for one preprocessing
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from client.data.cache import Progress, prepare
from client.data.codes import NOTES
from client.data.importers import IMPORTERS, Imported, ImporterError, Source
from client.data.manifest import (
    NEW_FOLDER,
    SLUG,
    parquet_bytes,
    read_manifest,
    write_manifest,
)
from client.data.pseudonyms import Pseudonymiser, site_secret
from client.data.site_folder import obstacle_to_writing
from client.data.snapshot import Snapshot
from common.atomic import write_atomic
from common.canonical import canonical_json, sha256_hex, sha256_of_file
from common.plan import Preprocessing

IMPORT_FILE = "import.json"
WHEREABOUTS_FILE = "linkage.json"  # a path may name a patient: part of the linkage


@dataclass(frozen=True)
class ImportSummary:
    """What an import found, in numbers only.

    Attributes
    ----------
    counts : files in total and by status, reason codes with ``reason:`` in front, and
        what the importer notes; counts by status add up to ``files``
    repeated : the folder already held exactly this
    """

    counts: dict[str, int]
    repeated: bool


def import_site(
    importer_id: str,
    archive_root: Path,
    site_folder: Path,
    site: str,
    options: Mapping[str, Any] | None = None,
    *,
    secret: bytes | None = None,
    synthetic: bool = False,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> ImportSummary:
    """Import an archive into a site folder, which is made if it is absent.

    Parameters
    ----------
    importer_id : key of `client.data.importers.IMPORTERS`
    archive_root : folder with the files; for ``synthetic`` that of the one site
    site : name of the site
    options : of the importer
    secret : pseudonymisation secret of a virtual hospital; a real site draws its own.
        For ``synthetic`` it is read from the archive's ``site.json``
    synthetic : marks a given secret as derived
    workers : processes, where there are enough files for them; changes no byte
    progress : called with files read and files found

    Raises
    ------
    ImporterError
        If the importer is unknown or cannot use its input; or the folder lies in the
        archive, cannot be written, or already holds another import. The same content
        again changes nothing.
    WorkerError
        If the workers cannot run at all.
    """
    if importer_id not in IMPORTERS:
        raise ImporterError(
            f"No importer {importer_id}. There are: {', '.join(sorted(IMPORTERS))}."
        )
    if not archive_root.is_dir():
        raise ImporterError(f"No archive folder {archive_root}.")
    if not re.fullmatch(SLUG, site):
        raise ImporterError(
            f"{site!r} is no name of a site: lower-case letters, digits and _ only, a "
            "letter first."
        )
    if importer_id == "synthetic" and secret is None:
        secret, synthetic = _synthetic_secret(archive_root), True
    _refuse_folder(site_folder, archive_root)
    site_folder.mkdir(parents=True, exist_ok=True)
    site_folder.chmod(0o700)
    pseudonymiser = Pseudonymiser(site_secret(site_folder, secret, synthetic=synthetic))
    source = Source(archive_root, pseudonymiser, progress, workers)
    imported = IMPORTERS[importer_id](source, site, options or {})
    counts = _counts(imported)
    facts = {
        "digest": _digest(imported),
        "importer": importer_id,
        "asked": _asked(importer_id, archive_root, options or {}),
        "counts": counts,
    }
    done = site_folder / IMPORT_FILE
    if done.is_file():
        _refuse_other(json.loads(done.read_bytes()), facts, site_folder)
    whereabouts = json.dumps({"archive": str(archive_root.resolve())}).encode()
    write_atomic(site_folder / WHEREABOUTS_FILE, whereabouts, mode=0o600)
    repeated = done.is_file()
    if not repeated:
        write_manifest(site_folder, imported.manifest, imported.linkage)
    write_atomic(done, canonical_json(facts), mode=0o600)
    return ImportSummary(counts, repeated)


def is_imported(
    importer_id: str,
    archive_root: Path,
    site_folder: Path,
    options: Mapping[str, Any],
) -> bool:
    """Tell whether a folder holds what these settings import.

    Options and the label table they name are compared, images are not. Without the
    archive an import counts as it is.
    """
    done = site_folder / IMPORT_FILE
    if not done.is_file() or not archive_root.is_dir():
        return done.is_file()
    asked = _asked(importer_id, archive_root, options)
    return bool(json.loads(done.read_bytes()).get("asked") == asked)


def prepare_site(
    site_folder: Path,
    archive_root: Path,
    preprocessing: Preprocessing,
    *,
    also: Sequence[Preprocessing] = (),
    workers: int = 1,
    progress: Progress = lambda done, total: None,
    verify: bool = False,
) -> Snapshot:
    """Prepare an imported site; see `client.data.cache.prepare`."""
    return prepare(
        site_folder,
        archive_root,
        preprocessing,
        also=also,
        workers=workers,
        progress=progress,
        verify=verify,
    )


def archive_of(site_folder: Path) -> Path:
    """Tell where the archive of a site folder was when it was imported.

    Raises
    ------
    ImporterError
        If nothing was imported, or the file that tells cannot be read.
    """
    path = site_folder / WHEREABOUTS_FILE
    try:
        return Path(json.loads(path.read_bytes())["archive"])
    except (FileNotFoundError, NotADirectoryError):
        told = f"{site_folder} holds no import. Run mammo-data import."
    except OSError as error:
        told = (
            f"Cannot read {path} ({error.strerror}). Only the user who imported may: "
            "work as that user, or say where the archive is with --archive."
        )
    except (ValueError, KeyError, TypeError):
        told = f"{path} is damaged. Say where the archive is with --archive."
    raise ImporterError(told)


def site_counts(site_folder: Path) -> dict[str, int]:
    """Count files by status and reason as they stand now, after any preparation."""
    return status_counts(read_manifest(site_folder))


def import_notes(site_folder: Path) -> dict[str, int]:
    """Return what the import counted and has to explain, see `client.data.codes.NOTES`.

    Counts of zero, and all of a folder without an import, are left out.
    """
    done = site_folder / IMPORT_FILE
    counts = json.loads(done.read_bytes())["counts"] if done.is_file() else {}
    return {name: counts[name] for name in NOTES if counts.get(name)}


def status_counts(manifest: pd.DataFrame) -> dict[str, int]:
    """Count rows: ``ok``, ``excluded``, ``quarantined``, and each reason code."""
    counts = {
        status: int((manifest["status"] == status).sum())
        for status in ("ok", "excluded", "quarantined")
    }
    codes = manifest["reason"].dropna().str.split().explode().value_counts()
    return counts | {f"reason:{code}": int(codes[code]) for code in sorted(codes.index)}


def read_options(path: Path) -> dict[str, Any]:
    """Read an importer's options from YAML; a site's settings hold some too.

    Raises
    ------
    ImporterError
        If the file is absent, no YAML, or no mapping.
    """
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ImporterError(
            f"Cannot read the options {path}: {error.strerror}. Correct the path or "
            "its permissions."
        ) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ImporterError(
            f"The options {path} are no YAML in UTF-8{_place_in_yaml(error)}. Look "
            "for a missing colon, quote or bracket, a tab, or lines that are not "
            "indented alike, there or just before."
        ) from None
    if not isinstance(options, dict):
        raise ImporterError(f"{path} must hold a mapping of option to value.")
    nested = options.get("options")
    return nested if isinstance(nested, dict) else options


def _place_in_yaml(error: Exception) -> str:
    """Tell line and column where YAML's reader knows them; never the text there."""
    mark = getattr(error, "problem_mark", None)
    return f": line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _refuse_folder(site_folder: Path, archive_root: Path) -> None:
    place, archive = site_folder.resolve(), archive_root.resolve()
    if place == archive or archive in place.parents:
        raise ImporterError(
            f"The data folder {site_folder} lies in the archive {archive_root}, into "
            "which nothing is written. Choose a folder outside the archive."
        )
    if obstacle := obstacle_to_writing(site_folder):
        raise ImporterError(obstacle)


def _synthetic_secret(archive_root: Path) -> bytes:
    path = archive_root / "site.json"
    try:
        return bytes.fromhex(json.loads(path.read_bytes())["secret"])
    except (OSError, ValueError, KeyError):
        raise ImporterError(
            f"{path} is no site of the synthetic consortium. Make one: mammo-sim synth"
        ) from None


def _counts(imported: Imported) -> dict[str, int]:
    return imported.notes | status_counts(imported.manifest)


def _asked(importer_id: str, archive_root: Path, options: Mapping[str, Any]) -> str:
    table = options.get("table")
    file = archive_root / str(table.get("file", "") if isinstance(table, dict) else "")
    content = sha256_of_file(file) if file.is_file() else ""
    words = json.dumps([importer_id, options, content], sort_keys=True, default=str)
    return sha256_hex(words.encode())


def _digest(imported: Imported) -> str:
    # A copied archive is the same archive: its files have new times.
    linkage = imported.linkage.drop(columns="file_mtime_ns")
    tables = parquet_bytes(imported.manifest), parquet_bytes(linkage)
    return sha256_hex(b"".join(tables))


def _refuse_other(
    stored: dict[str, Any], facts: dict[str, Any], site_folder: Path
) -> None:
    if stored["digest"] != facts["digest"]:
        raise ImporterError(
            f"{site_folder} already holds another import ({stored['counts']['files']} "
            f"files, importer {stored['importer']}); the archive, the table or the "
            f"options have changed ({facts['counts']['files']} files now). "
            f"{NEW_FOLDER}"
        )
