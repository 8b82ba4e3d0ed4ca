"""Label tables: a column map from a hospital's words to the manifest's facts.

Texts are read as texts: ``utf-8-sig``, stripped, nothing guessed as a number or a
missing value. An unknown word is an error that names column and rows, never the word:
a column that is mapped by mistake may hold names.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from client.data.dicom_rules import side_of, vendor, view_of
from client.data.importers.files import ImporterError, unopened
from client.data.manifest import FIELDS, LABEL_FIELDS

AS_PUBLISHED = (
    "The download may be incomplete, of another version, or changed since: restore the "
    "table as it was published."
)

STRICT = ConfigDict(extra="forbid")

Value = int | str | None
Kind = Literal["FFDM", "SFM", "SYNTH2D", "CESM_LE"]
Level = Literal["lesion", "image", "breast", "exam", "patient"]
Source = Literal["pathology", "registry", "radiologist", "dataset", "assumed"]
FactField = Literal[
    "laterality",
    "view",
    "cancer_pathology",
    "pathology_class",
    "birads",
    "density",
    "age_years",
    "implant",
    "vendor",
    "machine",
    "split_official",
    "bits_stored",
]

_BIRADS = {str(score): score for score in range(7)}
_CLASSES = ("malignant", "high_risk", "benign", "benign_no_callback", "normal")


@dataclass(frozen=True, config=STRICT)
class LabelTable:
    """Where a table is and what its columns mean.

    Attributes
    ----------
    file : path, relative to the archive unless absolute
    key : column that names what a row is about
    columns : manifest field -> column; one column may serve several fields. A
        ``machine`` enters the manifest as a pseudonym, ``machine-1a2b3c4d``
    values : manifest field -> word in the table -> value, for words of your own;
        null says "unknown"
    patient, exam : columns with identifiers, where headers do not have them
    level : what a row's label was recorded for
    source : where that truth comes from
    """

    file: str
    key: str
    columns: dict[FactField, str]
    values: dict[FactField, dict[str, Value]] = field(default_factory=dict)
    patient: str = ""
    exam: str = ""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    level: Level = "image"
    source: Source = "pathology"

    @model_validator(mode="after")
    def _values_fit_their_field(self) -> LabelTable:
        for name, words in self.values.items():
            for word, value in words.items():
                if value is not None and not FIELDS[name].holds(value):
                    raise ValueError(f"values.{name}.{word} is no value of {name}")
        return self


def read_options(
    kind: type[Any], options: Mapping[str, Any], importer: str, example: str = ""
) -> Any:
    """Check an importer's options.

    Parameters
    ----------
    example : YAML, for the error of an importer that cannot do without options

    Raises
    ------
    ImporterError
        Naming every option that is missing, unknown or ill-typed, and where they go.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(options))
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, item['loc'])) or importer}: "
            f"{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
        raise ImporterError(
            f"The options of importer {importer} are not valid:\n"
            + "\n".join(lines)
            + "\nThey stand in a YAML file, mammo-data import ... --options FILE, or "
            "under options in a site's settings. They are described in "
            f"client/data/importers/{importer}.py."
            + (f" For example:\n{example}" if example else "")
        ) from None


def table_path(root: Path, table: LabelTable) -> Path:
    """Locate the table."""
    return root / table.file


def read_rows(root: Path, table: LabelTable) -> list[dict[str, str]]:
    """Read all rows as stripped texts.

    Raises
    ------
    ImporterError
        If the file or one of the mapped columns is missing.
    """
    path = table_path(root, table)
    if not path.is_file():
        raise ImporterError(f"No label table {path}. Correct the option table.file.")
    wanted = {table.key, table.patient, table.exam, *table.columns.values()} - {""}
    remedy = "Correct the column map, or the delimiter."
    return read_table(path, wanted, table.delimiter, remedy)


def read_table(
    path: Path,
    wanted: Collection[str],
    delimiter: str = ",",
    remedy: str = AS_PUBLISHED,
) -> list[dict[str, str]]:
    """Read all rows of a CSV file as stripped texts, whatever else it holds.

    Parameters
    ----------
    wanted : columns that must be there
    remedy : sentence on what to do where one is missing

    Raises
    ------
    ImporterError
        If the file or one of the wanted columns is missing, or it cannot be read.
    """
    if not path.is_file():
        raise ImporterError(
            f"No table {path}. It belongs to the archive: complete the download."
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter)
            names = {str(name).strip() for name in reader.fieldnames or ()}
            rows = [
                {
                    str(name).strip(): (value or "").strip()
                    for name, value in row.items()
                    if name is not None and not isinstance(value, list)
                }
                for row in reader
            ]
    except OSError as error:
        raise unopened(path, error) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImporterError(
            f"The table {path.name} is no CSV file in UTF-8 that can be read "
            f"({type(error).__name__}). Save it as one."
        ) from None
    if missing := sorted(set(wanted) - names):
        raise ImporterError(
            f"The table {path.name} lacks the columns {missing}; it has "
            f"{len(names)} columns. {remedy}"
        )
    return rows


def table_facts(rows: list[dict[str, str]], table: LabelTable) -> list[dict[str, Any]]:
    """Translate every row to manifest facts; an empty cell is unknown.

    Raises
    ------
    ImporterError
        If a cell holds a word that neither we nor ``values`` know.
    """
    translated: list[dict[str, Any]] = [{} for _ in rows]
    for name, column in table.columns.items():
        own = {key.lower(): value for key, value in table.values.get(name, {}).items()}
        bad = []
        for number, row in enumerate(rows):
            try:
                translated[number] |= _translate(name, row[column], own)
            except (ValueError, KeyError):
                bad.append(number + 2)
        if bad:
            raise ImporterError(
                f"Column {column}, mapped to {name}: {len(bad)} cells hold a word that "
                f"is not known, first in lines {bad[:5]}. Translate it in "
                f"values.{name}, or correct columns.{name}."
            )
    for facts in translated:
        if any(facts.get(name) is not None for name in LABEL_FIELDS):
            facts |= {"label_level": table.level, "label_source": table.source}
    return translated


def _translate(name: str, text: str, own: Mapping[str, Value]) -> dict[str, Any]:
    if text.lower() in own:
        return {name: own[text.lower()]}
    if not text:
        return {name: None}
    if name == "birads":
        return _birads(text)
    return {name: _READERS[name](text)}


def _birads(text: str) -> dict[str, Any]:
    word = text.lower().replace("bi-rads", "").replace("birads", "").strip()
    if word in ("4a", "4b", "4c"):
        return {"birads": 4, "birads_sub": word}
    return {"birads": _BIRADS[word.removesuffix(".0")]}


def _flag(text: str) -> int:
    word = text.lower()
    return {"0": 0, "1": 1, "no": 0, "yes": 1, "false": 0, "true": 1}[
        word.removesuffix(".0")
    ]


def _density(text: str) -> str:
    word = text.upper().removeprefix("DENSITY").strip().removesuffix(".0")
    return {"1": "A", "2": "B", "3": "C", "4": "D"}.get(word) or {
        letter: letter for letter in "ABCD"
    }[word]


def _side(text: str) -> str:
    side = "B" if text.upper() in ("B", "BOTH") else side_of(text)
    if side is None:
        raise ValueError
    return side


def _view(text: str) -> str:
    found = view_of(text)
    if found in (None, "OTHER") and text.upper() != "OTHER":
        raise ValueError
    return str(found)


def _class(text: str) -> str:
    word = text.lower().replace(" ", "_").replace("-", "_")
    word = "benign_no_callback" if word == "benign_without_callback" else word
    if word not in _CLASSES:
        raise ValueError
    return word


def _split(text: str) -> str:
    return {"train": "train", "training": "train", "test": "test"}[text.lower()]


def _years(text: str) -> int:
    years = float(text.lower().removesuffix("y"))
    if not 0 <= years <= 130:
        raise ValueError
    return min(int(years), 89)


def _bits(text: str) -> int:
    bits = int(text.removesuffix(".0"))
    if not 1 <= bits <= 16:
        raise ValueError
    return bits


def _vendor(text: str) -> str:
    return vendor(text) or "other"


def _machine(text: str) -> str:
    word = text.lower()
    if not word.replace("_", "").replace("-", "").isalnum() or not word.isascii():
        raise ValueError
    return word


_READERS: dict[str, Callable[[str], Value]] = {
    "laterality": _side,
    "view": _view,
    "cancer_pathology": _flag,
    "pathology_class": _class,
    "density": _density,
    "age_years": _years,
    "implant": _flag,
    "vendor": _vendor,
    "machine": _machine,
    "split_official": _split,
    "bits_stored": _bits,
}
