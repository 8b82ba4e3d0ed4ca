"""Whether a site's data folder can be written, told before any work is done."""

from __future__ import annotations

import os
from pathlib import Path


def obstacle_to_writing(folder: Path) -> str:
    """Say in a sentence why a folder cannot be made or written; empty if it can.

    The system's own message would come late, name neither the folder nor the remedy.
    """
    nearest = folder.absolute()
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        return (
            f"{nearest} is no folder, so {folder} cannot be the site's data folder. "
            "Choose another folder, or move what is there."
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        return (
            f"You may not write into {nearest}. Change its permissions, work as the "
            "user it belongs to, or choose another folder."
        )
    return ""
