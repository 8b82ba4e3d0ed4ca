"""What may come with a run: three files that name our installed apps, and nothing else.

A hospital runs the version of mammofed that it installed. Flower's bundle is looked at
as data; nothing of it is unpacked to disk, installed or imported.
"""

from __future__ import annotations

import io
import tomllib
import zipfile
from collections.abc import Mapping
from typing import Any

from common.records import Code, Refusal

FILES = frozenset({"pyproject.toml", "LICENSE", ".info/CONTENT"})
COMPONENTS = {
    "serverapp": "server.flower_app:app",
    "clientapp": "client.flower_app:app",
}
RUN_CONFIG = frozenset({"plan"})
"""The coordinator's own path of the plan, which no site reads."""

_LARGEST = 1024**2


def require_permitted(content: bytes, overrides: Mapping[str, Any]) -> None:
    """Refuse a bundle that could bring anything along.

    Parameters
    ----------
    content : Flower's app bundle, a zip archive
    overrides : run-config values of the command that started the run

    Raises
    ------
    Refusal
        With ``BUNDLE``; the text names no content.
    """
    if len(content) > _LARGEST:
        raise _refusal("is too large")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(names) != len(set(names)) or set(names) != FILES:
                others = len([name for name in names if name not in FILES])
                raise _refusal(f"has {others} files beside the permitted three")
            if any(entry.file_size > _LARGEST for entry in entries):
                raise _refusal("is too large")
            document = tomllib.loads(archive.read("pyproject.toml").decode("utf-8"))
        app = document["tool"]["flwr"]["app"]
        components, config = app["components"], app.get("config", {})
    except Refusal:
        raise
    except Exception as error:  # hostile bytes: whatever a parser makes of them
        raise _refusal(f"cannot be read ({type(error).__name__})") from None
    if components != COMPONENTS:
        raise _refusal("names other components than the installed ones")
    if not isinstance(config, dict) or set(config) - RUN_CONFIG:
        raise _refusal("sets run-config values other than the plan's path")
    if set(overrides) - RUN_CONFIG:
        raise _refusal("comes with run-config values other than the plan's path")


def _refusal(what: str) -> Refusal:
    return Refusal(Code.BUNDLE, f"the bundle of the run {what}")
