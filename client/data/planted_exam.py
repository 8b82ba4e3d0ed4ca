"""An archive with a canary in every place of a DICOM file that can name somebody.

Whole mammograms that training can use, one more for every element of the keep-list with
a canary in it, and files that fail: what fails must keep silent too.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian

from client.data.canary import FILE_CONTENT, STEMS, Canaries
from client.data.dicom_header import NUMBERS, SEQUENCES, TEXTS, quiet

PATIENTS = 16
TABLE_FILE = "labels.csv"
ARCHIVE_NAME = f"{STEMS['folder name']}archive"
OPTIONS: dict[str, Any] = {
    "dataset": "planted",
    "join": "sop_instance_uid",
    "table": {
        "file": TABLE_FILE,
        "key": "uid",
        "columns": {"cancer_pathology": "cancer"},
        "level": "breast",
    },
}
"""Options of importer ``hospital`` for this archive."""

_MG = "1.2.840.10008.5.1.4.1.1.1.2"
_TOMOSYNTHESIS, _CT = "1.2.840.10008.5.1.4.1.1.13.1.3", "1.2.840.10008.5.1.4.1.1.2"
_JPEG_LOSSLESS, _JPEG_2000 = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90"
_ROWS, _COLUMNS = 64, 48
_KIND_OF_VR = {
    "PN": "name",
    "UI": "UID",
    "DA": "other date",
    "TM": "time",
    "IS": "number as text",
    "DS": "number as text",
    **dict.fromkeys(
        ("AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT"), "text element"
    ),
}
_NOT_PLANTED = {0x0000, 0x0002, 0x0004, 0xFFFE}  # commands, file meta, DICOMDIR, items
_READ = {*TEXTS, *NUMBERS, *SEQUENCES, "SpecificCharacterSet"}


@dataclass
class _Archive:
    """The archive while it is written."""

    root: Path
    canaries: Canaries
    elements: Dataset
    files: int = 0

    def image(self, patient: int, side: str = "L") -> FileDataset:
        """Return the next whole mammogram."""
        return _mammogram(self.canaries, self.elements, self.files, patient, side)

    def write(self, content: bytes, patient: int) -> None:
        """Write a file under names that are canaries."""
        folder = self.canaries.plant("folder name", patient)
        name = self.canaries.plant("file name", self.files)
        path = Path(folder, name)
        (self.root / folder).mkdir(exist_ok=True)
        (self.root / path).write_bytes(content)
        self.canaries.watch("file name", str(path).encode())
        if content:
            self.canaries.watch(FILE_CONTENT, content)
        self.files += 1


def plant_exams(root: Path) -> tuple[Canaries, int]:
    """Write the archive.

    Parameters
    ----------
    root : folder that does not exist yet

    Returns
    -------
    What was planted, and the number of files, the label table not counted. The first
    ``2 * PATIENTS`` files are whole: a left and a right breast of each patient.
    """
    root.mkdir(parents=True)
    canaries = Canaries()
    with quiet():
        archive = _Archive(root, canaries, _all_text_elements(canaries))
        table = [f"uid,cancer,Name,{canaries.plant('label table', 0)}"]
        for patient in range(PATIENTS):
            for side in "LR":
                ds = archive.image(patient, side)
                texts = [canaries.plant("label table", patient) for _ in range(2)]
                table.append(",".join([ds.SOPInstanceUID, str(patient % 2), *texts]))
                archive.write(_to_bytes(ds), patient)
        (root / TABLE_FILE).write_text("\n".join(table))
        _write_spoilt(archive)
        _write_broken(archive)
    return canaries, archive.files


def _write_spoilt(archive: _Archive) -> None:
    """Write an image for each element that is read, with a canary in it."""
    for keyword in sorted(_READ):
        ds = archive.image(PATIENTS)
        text = archive.canaries.plant("kept element", archive.files)
        if keyword in SEQUENCES:
            item = Dataset()
            item.CodeValue = item.CodeMeaning = item.LUTExplanation = text
            setattr(ds, keyword, [item])
        else:  # text also where a number belongs: that is where parsers complain
            ds.add_new(tag_for_keyword(keyword), "LO", text)
        archive.write(_to_bytes(ds), PATIENTS)


def _write_broken(archive: _Archive) -> None:
    """Write files that fail, each in its own way, and tomosynthesis."""
    patient = PATIENTS + 1
    whole = _to_bytes(archive.image(patient))
    archive.write(whole, patient)
    archive.write(whole, patient)  # a duplicate
    archive.write(_to_bytes(archive.image(patient))[:-900], patient)
    archive.write(_to_bytes(archive.image(patient))[:1500], patient)
    for syntax in (_JPEG_LOSSLESS, _JPEG_2000):
        ds = archive.image(patient)
        ds.file_meta.TransferSyntaxUID = syntax
        text = archive.canaries.plant("pixels that are none").encode()
        frame = b"\xff\xd8" + 20 * text + b"\xff\xd9"
        ds.add_new(tag_for_keyword("PixelData"), "OB", encapsulate([frame]))
        archive.write(_to_bytes(ds), patient)
    volume = archive.image(patient)
    volume.SOPClassUID, volume.NumberOfFrames = _TOMOSYNTHESIS, 2
    volume.PixelData = 2 * volume.PixelData
    archive.write(_to_bytes(volume), patient)
    one_slice = archive.image(patient)
    one_slice.SOPClassUID, one_slice.Modality, one_slice.InstanceNumber = _CT, "CT", 1
    one_slice.ImageType = ["DERIVED", "PRIMARY", "TOMO"]
    archive.write(_to_bytes(one_slice), patient)
    report = archive.image(patient)
    report.Modality = "SR"
    archive.write(_to_bytes(report), patient)
    text = archive.canaries.plant("text element", archive.files).encode()
    archive.write(text, patient)
    archive.write(b"\x1f\x8b" + text, patient)
    archive.write(b"", patient)


def _all_text_elements(canaries: Canaries) -> Dataset:
    """Fill every text element of the standard that is not read, and what hides more."""
    ds = Dataset()
    for keyword, tag in keyword_dict.items():
        vr = dictionary_VR(tag)
        if keyword in _READ or tag >> 16 in _NOT_PLANTED:
            continue
        if vr == "DT":
            moment = canaries.plant("other date") + canaries.plant("time")
            setattr(ds, keyword, moment)
        elif kind := _KIND_OF_VR.get(vr):
            serial = 1 if kind == "UID" else None
            setattr(ds, keyword, canaries.plant(kind, serial))
    nested = Dataset()
    nested.PatientName = nested.PatientID = canaries.plant("nested sequence", 1)
    deeper = Dataset()
    deeper.ReferringPhysicianName = canaries.plant("nested sequence", 2)
    nested.ReferencedStudySequence = [deeper]
    ds.RequestAttributesSequence = [nested]
    _add_private(ds, canaries)
    _add_icon_and_overlay(ds, canaries)
    return ds


def _add_private(ds: Dataset, canaries: Canaries) -> None:
    block = ds.private_block(0x0099, canaries.plant("private block", 1), create=True)
    block.add_new(1, "LO", canaries.plant("private block", 2))
    block.add_new(2, "UN", canaries.plant("private block", 3).encode() + b" ")
    # Left behind by tools that remove odd groups only.
    ds.add_new(0xEAEA0102, "LO", canaries.plant("private block", 4))


def _add_icon_and_overlay(ds: Dataset, canaries: Canaries) -> None:
    icon = Dataset()
    icon.Rows = icon.Columns = 8
    icon.SamplesPerPixel, icon.PhotometricInterpretation = 1, "MONOCHROME2"
    icon.BitsAllocated, icon.BitsStored, icon.HighBit = 8, 8, 7
    icon.PixelRepresentation = 0
    pixels = 8 * canaries.plant("icon").encode()
    icon.add_new(tag_for_keyword("PixelData"), "OB", pixels)
    ds.IconImageSequence = [icon]
    for element, vr, value in (
        (0x0010, "US", 8),
        (0x0011, "US", 64),
        (0x0022, "LO", canaries.plant("overlay", 1)),
        (0x0040, "CS", "G"),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x1500, "LO", canaries.plant("overlay", 2)),
        (0x3000, "OW", 8 * canaries.plant("overlay").encode()),
    ):
        ds.add_new(0x60000000 + element, vr, value)


def _mammogram(
    canaries: Canaries, elements: Dataset, number: int, patient: int, side: str
) -> FileDataset:
    """Return an image that the importer takes, with canaries in all it drops."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = _MG
    meta.MediaStorageSOPInstanceUID = canaries.plant("UID", 1000 + number)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationVersionName = canaries.plant("file meta information", 1)
    meta.SourceApplicationEntityTitle = canaries.plant("file meta information", 2)
    meta.PrivateInformationCreatorUID = canaries.plant("UID", 2)
    meta.PrivateInformation = canaries.plant("file meta information").encode()
    preamble = 16 * canaries.plant("file meta information").encode()
    ds = FileDataset("", {}, file_meta=meta, preamble=preamble)
    ds.update(elements)
    ds.SOPClassUID, ds.SOPInstanceUID = _MG, meta.MediaStorageSOPInstanceUID
    ds.PatientID = canaries.plant("patient", patient)
    ds.PatientAge = "057Y"
    ds.StudyInstanceUID = canaries.plant("UID", 100 + patient)
    ds.StudyDate = canaries.plant("study date")
    ds.AccessionNumber = canaries.plant("accession number", patient)
    ds.Modality, ds.PresentationIntentType = "MG", "FOR PRESENTATION"
    free = canaries.plant("kept element", 999)
    ds.ImageType = ["ORIGINAL", "PRIMARY", free]
    ds.Manufacturer = f"Hologic {free}"
    ds.ManufacturerModelName = ds.SeriesDescription = ds.PaddleDescription = free
    ds.AcquisitionDeviceProcessingDescription = free
    ds.ImageLaterality, ds.ViewPosition = side, "CC"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = _ROWS, _COLUMNS
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 0
    ds.ImagerPixelSpacing = [0.07, 0.07]
    pixels = _phantom(number).astype("<u2").tobytes()
    ds.add_new(tag_for_keyword("PixelData"), "OW", pixels)
    return ds


def _phantom(seed: int) -> np.ndarray:
    """Draw half an ellipse at the left edge, uint16 [row, column] below 4096."""
    row, column = np.mgrid[0:_ROWS, 0:_COLUMNS]
    inside = ((row - _ROWS / 2) / (_ROWS * 0.42)) ** 2
    inside = inside + (column / (_COLUMNS * 0.7)) ** 2
    texture = np.random.default_rng(seed).integers(1000, 3500, (_ROWS, _COLUMNS))
    return np.where(inside < 1, texture, 0).astype(np.uint16)


def _to_bytes(ds: FileDataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
