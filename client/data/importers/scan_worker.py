"""What one worker process of an import does: read the headers of some files.

The site's secret stays with the import: identifiers go back over the pipe as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from client.data.codes import Rejected
from client.data.importers.archive import scan_one
from client.data.importers.files import Found, as_plain, decode_path
from client.data.workers import LOST_CODES, serve


def scan_files(
    setup: dict[str, Any], task: dict[str, Any], starting: Callable[[int], None]
) -> dict[str, Any]:
    """Read some files of an archive.

    Parameters
    ----------
    setup : ``root`` of the archive, and ``film`` as in `archive.scan_dicom`
    task : ``files``, each with its encoded ``path``, and ``lost`` after a death
    starting : called with the position of each file before it is touched

    Returns
    -------
    ``files``: of each what is known, as `files.as_plain` writes it
    """
    root, found = decode_path(setup["root"]), []
    for position, file in enumerate(task["files"]):
        starting(position)
        path = decode_path(file["path"])
        if "lost" in file:
            verdict = Rejected(LOST_CODES[file["lost"]], "read", "WorkerDied")
            found.append(Found(path, verdict=verdict))
        else:
            found.append(scan_one(root, path, setup["film"]))
    return {"files": list(map(as_plain, found))}


if __name__ == "__main__":
    serve(scan_files)
