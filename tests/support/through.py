"""An archive on its whole way: import, check with its page, preparation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from client.data.check import CHECKED, check_site
from client.data.check_page import write_check
from client.data.manifest import read_linkage
from client.data.site_data import import_site, prepare_site


def goes_through(importer: str, root: Path, folder: Path, **options: Any) -> int:
    """Take an archive through, hold its counts together, return the usable images.

    Parameters
    ----------
    folder : of the site; outside the archive
    options : of the importer
    """
    import_site(importer, root, folder, "ours", options)
    result = check_site(folder, root)
    page = write_check(folder, result, "ours")
    counts = result.counts
    assert counts["found"] == len(read_linkage(folder)) > 0
    assert counts["found"] == sum(counts[name] for name in list(counts)[1:])
    document = json.loads((folder / "check.json").read_bytes())
    assert {name: document[name] for name in counts} == counts
    text = page.read_text()
    assert "data:image/png" in text and str(root) not in text
    snapshot = prepare_site(folder, root, CHECKED)
    assert len(snapshot) == counts["cached"] > 0
    return counts["cached"]
