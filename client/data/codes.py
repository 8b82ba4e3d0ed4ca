"""Every reason code a row of the manifest can carry, and what it means.

``X_`` excluded by rule: the file is fine, but it is not what we train on.
``Q_`` quarantined: the file is broken or cannot be read here.
``W_`` remark on a row that is used all the same.
"""

from __future__ import annotations

REASONS: dict[str, str] = {
    "X_PROCESSING": "raw image for processing; only those for presentation are used",
    "X_DBT": "tomosynthesis projections, or frames that are no reconstructed volume",
    "X_SPOT": "spot compression",
    "X_MAG": "magnification view",
    "X_SPECIMEN": "specimen radiograph",
    "X_STEREO": "stereotactic or biopsy image",
    "X_TANGENTIAL": "tangential, nipple in profile, inframammary or anterior view",
    "X_PARTIAL": "declared a partial view of the breast",
    "X_QC": "quality control image or phantom",
    "X_SECONDARY_CAPTURE": "secondary capture; allowed with film: true",
    "X_NOT_IMAGE": "report, presentation state, directory or text: no pixels",
    "X_NOT_MG": "not a mammogram",
    "X_COLOUR": "colour image",
    "X_SUBTRACTED": "recombined contrast image; only the low-energy one is used",
    "X_DUPLICATE": "the same image is already in the archive under another name",
    "X_CONFLICT": "the same bytes stand under several names with other labels",
    "X_NO_SIDE": "neither header nor table tells left from right",
    "X_NO_VIEW": "neither header nor table tells the view",
    "X_NO_PATIENT": "no patient known, so no honest split; see smoke_test",
    "X_8BIT": "8-bit or colour raster; accept with allow_8bit: true",
    "X_ROI": "crop or mask of a lesion, not a mammogram",
    "X_OTHER_SITE": "not known to be of the site that the option site_id names",
    "X_WITHDRAWN": "the patient has withdrawn; in no new snapshot",
    "Q_NOT_DICOM": "no DICOM preamble and file meta information",
    "Q_NO_SYNTAX": "the file does not name its transfer syntax",
    "Q_TRUNCATED": "fewer pixels than the header declares",
    "Q_TOO_LARGE": "declared or real size above the cap",
    "Q_FRAMES": "the numbers of frames, or the sizes of slices, contradict each other",
    "Q_STRUCTURE": "the DICOM structure cannot be parsed",
    "Q_SYNTAX": "no pinned decoder for this transfer syntax",
    "Q_CODESTREAM": "the compressed pixels are corrupt",
    "Q_HEADER": "an element that is needed is missing or impossible",
    "Q_CONTAINER": "an archive (gz, zip) instead of an image; unpack it first",
    "Q_EMPTY": "the file holds no byte",
    "Q_UNREADABLE": "the file cannot be opened, or is no plain file",
    "Q_UID_CONFLICT": "several files with one SOP instance UID and other content",
    "Q_CHANGED": "the file is not the one that was imported; import again",
    "Q_BLANK": "all pixels are equal",
    "Q_CRASH": "a decoder crashed on this file",
    "Q_TIMEOUT": "a decoder hung on this file",
    "W_PADDED": "more pixel bytes than the header declares; the rest is ignored",
    "W_VALUE": "an element has a value that its type does not allow",
    "W_RANGE": "pixels beyond BitsStored; clipped",
    "W_DIM": "no pixel reaches a tenth of the display range",
    "W_CHARSET": "unknown character set",
    "W_VOI": "VOI LUT or window unusable; the stored range is used",
    "W_SIDE": "header and table disagree on the side",
    "W_TEXT": "the header says that text is burned into the image",
    "W_SLICES": "slices of this volume are missing or broken",
}

REMEDIES: dict[str, str] = {
    "X_CONFLICT": "Correct the label table: one image cannot have two labels.",
    "X_NO_SIDE": "Give the laterality in the label table.",
    "X_NO_VIEW": "Give the view in the label table.",
    "X_NO_PATIENT": "Give the patient in the label table, column table.patient.",
    "X_8BIT": "Export 16 bits if you can; otherwise set allow_8bit: true.",
    "X_SECONDARY_CAPTURE": "If this is digitised film, set film: true.",
    "Q_NOT_DICOM": "If these should be images, export them again as DICOM files.",
    "Q_TRUNCATED": "Copy or export the files again; the transfer was cut short.",
    "Q_SYNTAX": "Export them uncompressed or as JPEG Lossless, JPEG 2000 or JPEG-LS.",
    "Q_CONTAINER": "Unpack the archive files, then import again.",
    "Q_UNREADABLE": "Check the permissions of the files and the disk.",
    "Q_UID_CONFLICT": "Find out which file is the right one and remove the other.",
    "Q_CHANGED": "Files have changed since the import: import again, into a new folder "
    "with the secret.key and the withdrawn.json of this one.",
    "Q_CRASH": "Export these files again in another transfer syntax.",
    "Q_TIMEOUT": "Export these files again in another transfer syntax.",
    "W_SIDE": "Find out whether table or header is right, and correct the table.",
    "W_TEXT": "Look at them: a name in the pixels is not removed, only cropped away if "
    "it stands beside the breast.",
    "W_SLICES": "Export these volumes again: a finding may be in what is missing.",
    "W_VOI": "Their grey values are not comparable to the others: look at them.",
    "W_RANGE": "Look at them: bright areas may be cut off.",
    "W_DIM": "Look at them: the window, or the depth, may be that of another image.",
}
"""What the person who prepares the data can do; codes without an entry need nothing,
or only a look."""

NOTES: dict[str, tuple[str, str]] = {
    "patients_moved_to_train": (
        "patients were in both official parts",
        "they are kept in train, so that none is in two",
    ),
}
"""What an importer counts beside files and has to explain: the words for a count."""


class Rejected(Exception):  # noqa: N818 - a verdict on one file, not a failure
    """One file cannot be used. Carries a code, never a value of the file.

    Attributes
    ----------
    code : key of `REASONS`
    stage : ``read``, ``classify``, ``decode`` or ``preprocess``
    exception_type : class name of what was caught, empty if a rule decided
    """

    def __init__(self, code: str, stage: str, exception_type: str = "") -> None:
        if code not in REASONS:
            raise KeyError(f"{code} is no reason code of client.data.codes")
        super().__init__(f"{code} at {stage}: {REASONS[code]}")
        self.code = code
        self.stage = stage
        self.exception_type = exception_type

    @property
    def status(self) -> str:
        """``excluded`` for a rule, ``quarantined`` for a broken file."""
        return "excluded" if self.code.startswith("X_") else "quarantined"
