"""Nothing that identifies a patient leaves the linkage, not even when files fail."""

from __future__ import annotations

import base64
import hashlib
import logging
from pathlib import Path
from types import ModuleType

import pytest
from pydicom.datadict import dictionary_VR, keyword_dict
from pydicom.dataset import Dataset

from client.data.cache import CacheError
from client.data.manifest import read_manifest
from client.data.site_data import import_site, prepare_site
from common.plan import Preprocessing

CANARY = "CANARY7XQ"
UID = "1.2.826.0.77.1234567"
DATE = "19471123"
KEPT = {
    "SOPClassUID",
    "Modality",
    "ImageType",
    "PresentationIntentType",
    "ImageLaterality",
    "PhotometricInterpretation",
    "ViewPosition",
    "SpecificCharacterSet",
    "QualityControlImage",
    "PartialView",
    "VOILUTFunction",
    "ModalityLUTType",
    "PatientAge",
}
TEXTS = {"LO", "SH", "PN", "ST", "LT", "UT", "UC", "CS", "AE"}


def _poison(ds: Dataset) -> Dataset:
    """Plant the canary in every element that is not needed to accept the image."""
    for keyword in keyword_dict:
        vr = dictionary_VR(keyword)
        if keyword in KEPT or keyword.startswith(("FileSet", "MediaStorage")):
            continue
        if keyword_dict[keyword] >> 16 in (0x0000, 0x0002, 0x0004, 0xFFFE):
            continue
        if vr in TEXTS:
            setattr(ds, keyword, CANARY)
        elif vr == "UI" and keyword.endswith("InstanceUID"):
            setattr(ds, keyword, UID)
        elif vr == "DA":
            setattr(ds, keyword, DATE)
    nested = Dataset()
    nested.PatientName, nested.PatientID = CANARY, CANARY
    ds.RequestAttributesSequence = [nested]
    block = ds.private_block(0x0099, CANARY, create=True)
    block.add_new(1, "LO", CANARY)
    ds.add_new(0xEAEA0102, "LO", CANARY)
    return ds


def _traces() -> list[bytes]:
    found = []
    for secret in (CANARY, UID, DATE):
        raw = secret.encode()
        found += [raw, secret.encode("utf-16-le"), base64.b64encode(raw)]
        for digest in (hashlib.md5, hashlib.sha1, hashlib.sha256):
            found.append(digest(raw).hexdigest().encode())
    return found


def test_canary_stays_in_the_linkage(
    tmp_path: Path,
    dicom: ModuleType,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    root, site = tmp_path / "archive" / CANARY, tmp_path / "site"
    root.mkdir(parents=True)
    whole = dicom.to_bytes(_poison(dicom.dataset()))
    broken = dicom.to_bytes(_poison(dicom.dataset(dicom.phantom(seed=1))))
    broken = broken.replace(UID.encode(), UID[:-1].encode() + b"8")
    volume = _poison(dicom.volume(dicom.stack(2)))
    volume.SOPInstanceUID = UID + "9"
    for name, content in {
        "whole": whole,
        "short": broken[:-3000],
        "volume": dicom.to_bytes(volume),
        "cut": whole[:1500],
        "report": whole.replace(b"CS\x02\x00MG", b"CS\x02\x00SR"),
    }.items():
        (root / f"{CANARY}{name}").write_bytes(content)
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    recwarn.clear()
    counts = import_site("hospital", root.parent, site, "s", {"dataset": "test"}).counts
    assert counts["files"] == 5
    with pytest.raises(CacheError) as caught:
        prepare_site(site, root.parent, Preprocessing(modalities=("SFM",)))
    snapshot = prepare_site(site, root.parent, Preprocessing(rows=32, columns=16))
    assert len(snapshot) == 1
    assert read_manifest(site)["volume_key"].notna().sum() == 1
    outputs = {
        str(path.relative_to(site)): path.read_bytes()
        for path in site.rglob("*")
        if path.is_file() and path.name not in ("linkage.parquet", "secret.key")
    }
    outputs["manifest in words"] = snapshot.rows.to_csv().encode()
    outputs["index in words"] = snapshot.index.to_csv().encode()
    printed = capfd.readouterr()
    said = [caplog.text, printed.out, printed.err, str(caught.value), str(counts)]
    outputs["said"] = "".join([*said, *[str(w.message) for w in recwarn]]).encode()
    assert len(outputs) >= 6
    leaks = [
        (n, t) for n, content in outputs.items() for t in _traces() if t in content
    ]
    assert leaks == []
