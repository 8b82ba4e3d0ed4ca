"""Canaries: texts that must never be seen again, and where to look for them.

Each kind of place that can name somebody has a stem of its own. What is searched: the
stem as text (ASCII and UTF-16, any case, hexadecimal, percent-encoded, base64 at
any position), and MD5, SHA-1 and SHA-256 of every whole value.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter

STEMS: dict[str, str] = {
    "name": "ZQ7XNAME",
    "patient": "ZQ7XPATI",
    "accession number": "ZQ7XACCN",
    "kept element": "ZQ7XKEPT",
    "text element": "ZQ7XTEXT",
    "nested sequence": "ZQ7XNEST",
    "private block": "ZQ7XPRIV",
    "icon": "ZQ7XICON",
    "overlay": "ZQ7XOVER",
    "file meta information": "ZQ7XMETA",
    "pixels that are none": "ZQ7XPIXL",
    "file name": "ZQ7XFILE",
    "folder name": "ZQ7XFOLD",
    "label table": "ZQ7XTABL",
    "UID": "1.2.826.0.1.3680043.10.77031.",
    "study date": "19380923",
    "other date": "19470417",
    "time": "213547.618093",
    "number as text": "1738264951",
}
"""Kind of place -> what stands there. Texts fit the shortest value representation
together with three digits, and their Z and X are no hexadecimal digits."""

FILE_CONTENT = "file content"
_PREFIX = 16
_HEX_RUN = re.compile(rb"[0-9a-f]{%d,}" % _PREFIX)


class Canaries:
    """Hands out the values to plant, and finds them again.

    Attributes
    ----------
    places : how many values of each kind were handed out
    """

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()
        self._digests: dict[bytes, str] = {}
        self._folded = [
            (needle.lower(), kind)
            for kind, stem in STEMS.items()
            for needle in _as_text(stem)
        ]
        self._exact = [
            (needle, kind) for kind, stem in STEMS.items() for needle in _base64(stem)
        ]

    def plant(self, kind: str, serial: int | None = None) -> str:
        """Return a value to plant: the stem of its kind, and a number behind it."""
        value = STEMS[kind] + ("" if serial is None else f"{serial:03d}")
        self.places[kind] += 1
        self.watch(kind, value.encode())
        return value

    def watch(self, kind: str, value: bytes) -> None:
        """Look for the hashes of a value too: a path, a whole file."""
        for digest in (hashlib.md5, hashlib.sha1, hashlib.sha256):
            self._digests[digest(value).hexdigest()[:_PREFIX].encode()] = kind

    def find(self, content: bytes) -> set[str]:
        """Return the kinds that a content holds in any form."""
        low = content.lower()
        found = {kind for needle, kind in self._folded if needle in low}
        found |= {kind for needle, kind in self._exact if needle in content}
        for run in _HEX_RUN.findall(low):
            for start in range(len(run) - _PREFIX + 1):
                kind = self._digests.get(run[start : start + _PREFIX])
                if kind is not None:
                    found.add(kind)
        return found


def _as_text(stem: str) -> list[bytes]:
    encoded = [stem.encode(name) for name in ("ascii", "utf-16-le", "utf-16-be")]
    texts = [*encoded, encoded[0].hex().encode()]
    texts.append("".join(f"%{byte:02x}" for byte in encoded[0]).encode())
    if re.fullmatch(r"\d{8}", stem):  # a date, as people write it
        texts.append(f"{stem[:4]}-{stem[4:6]}-{stem[6:]}".encode())
    return texts


def _base64(stem: str) -> list[bytes]:
    """Encode at the three positions in a longer text, without what is not the stem's.

    RFC 4648, section 4: three bytes give four characters of six bits.
    """
    forms = []
    for before in range(3):
        text = base64.b64encode(bytes(before) + stem.encode()).rstrip(b"=")
        shared_end = (before + len(stem)) % 3 > 0
        forms.append(text[(0, 2, 3)[before] : len(text) - shared_end])
    return forms
