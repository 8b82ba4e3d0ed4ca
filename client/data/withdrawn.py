"""Who has withdrawn: the pseudonyms of patients that no new snapshot holds.

A file of its own in the site's folder, mode 0600. An import of the same archive leaves
it alone; `client.data.manifest.read_manifest` shows its patients as excluded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from common.atomic import write_atomic
from common.canonical import canonical_json

WITHDRAWN_FILE = "withdrawn.json"


class WithdrawnError(ValueError):
    """The list of withdrawn patients cannot be read; nobody may be taken for in."""


class UnknownPatientError(ValueError):
    """No file of the site is of the patient; the text does not repeat who."""


def read_withdrawn(site_folder: Path) -> tuple[str, ...]:
    """Return the pseudonyms of withdrawn patients, sorted; none without a list.

    Raises
    ------
    WithdrawnError
        If the list is damaged.
    """
    path = site_folder / WITHDRAWN_FILE
    if not path.is_file():
        return ()
    try:
        keys = json.loads(path.read_bytes())
        if isinstance(keys, list) and all(
            re.fullmatch(r"[0-9a-f]{32}", key) for key in keys
        ):
            return tuple(sorted(keys))
    except (ValueError, TypeError):
        pass
    raise WithdrawnError(
        f"{path} is no list of pseudonyms. Restore it from your backup: without it, "
        "patients who have withdrawn would be used again."
    )


def write_withdrawn(site_folder: Path, keys: Iterable[str]) -> None:
    """Write the whole list; it is sorted, and each pseudonym stands in it once."""
    content = canonical_json(sorted(set(keys)))
    write_atomic(site_folder / WITHDRAWN_FILE, content, mode=0o600)
