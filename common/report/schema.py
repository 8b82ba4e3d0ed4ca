"""The shape of report.json, checked before it is written.

Other tools read that file, so a change here raises ``schema``. Every number that cannot
be given is null and has a reason; NaN never gets in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.metrics import METRICS

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(min_length=1)]
UnitName = Literal["breast", "exam", "image"]
MetricName = Literal[
    "roc_auc",
    "average_precision",
    "sensitivity",
    "specificity",
    "accuracy",
    "f1",
    "brier",
    "brier_corrected",
]


class ReportError(ValueError):
    """A report that does not follow the schema; the text names every field."""


def _check_nulls(
    value: float | None, low: float | None, high: float | None, reason: str | None
) -> None:
    if (low is None) != (high is None):
        raise ValueError("low and high must both be numbers or both be null")
    if (value is None or low is None) and not reason:
        raise ValueError("a null number needs a reason")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Estimate(_Part):
    value: Number | None
    low: Number | None
    high: Number | None
    reason: str | None

    @model_validator(mode="after")
    def _null_has_a_reason(self) -> _Estimate:
        _check_nulls(self.value, self.low, self.high, self.reason)
        return self


class _Bin(_Part):
    units: Count
    positives: Count
    observed: Number
    predicted: Number
    predicted_corrected: Number


_Metrics = dict[MetricName, _Estimate]


class _WithMetrics(_Part):
    @model_validator(mode="after")
    def _has_every_metric(self) -> _WithMetrics:
        for name in ("metrics", "mean"):
            found = getattr(self, name, None)
            if found is not None and set(found) != set(METRICS):
                missing = sorted(set(METRICS) - set(found))
                raise ValueError(f"{name} lacks {', '.join(missing)}")
        return self


class _Site(_WithMetrics):
    site: Name
    patients: Count
    positives: Count
    prevalence: Number | None
    threshold: Number | None
    metrics: _Metrics
    calibration: list[_Bin]


class _Result(_WithMetrics):
    unit: UnitName
    at: Literal["selected", "last"]
    sites: Annotated[list[_Site], Field(min_length=1)]
    mean: _Metrics


class _Seed(_WithMetrics):
    seed: int
    metrics: _Metrics


class _Arm(_Part):
    name: Name
    start: str
    selected_round: Count | None
    last_round: Count | None
    results: list[_Result]
    seeds: list[_Seed]


class _Paired(_Part):
    a: Name
    b: Name
    unit: UnitName
    metric: MetricName
    site: Name
    difference: Number | None
    low: Number | None
    high: Number | None
    reason: str | None

    @model_validator(mode="after")
    def _null_has_a_reason(self) -> _Paired:
        _check_nulls(self.difference, self.low, self.high, self.reason)
        return self


class _CrossSite(_Part):
    arm: Name
    rows: list[Name]
    columns: list[Name]
    roc_auc: list[list[Number | None]]
    notes: list[str] = []

    @model_validator(mode="after")
    def _is_a_matrix(self) -> _CrossSite:
        widths = {len(row) for row in self.roc_auc}
        if len(self.roc_auc) != len(self.rows) or widths - {len(self.columns)}:
            raise ValueError(
                f"roc_auc must have {len(self.rows)} rows of {len(self.columns)} values"
            )
        return self


class _LedgerEntry(_Part):
    """One site in one round; further fields are allowed, ``arm`` among them."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    stage: Name
    round: Count
    site: Name
    expected: bool | None = None
    configured: bool | None = None
    replied: bool | None = None
    counted: bool | None = None
    samples: Number | None = None
    weight_share: Number | None = None
    update_norm: Number | None = None
    seconds: Number | None = None
    reestimated: bool | None = None
    reason: str | None = None


class _Data(_Part):
    kind: Literal["synthetic", "real"]
    patients_known: bool


class _Report(_Part):
    schema_: Literal[1] = Field(alias="schema")
    data: _Data
    arms: Annotated[list[_Arm], Field(min_length=1)]
    paired: list[_Paired]
    cross_site: list[_CrossSite] | None
    ledger: list[_LedgerEntry]
    status: Literal["complete", "complete_with_absences", "failed"]
    plan: dict[str, Any]

    @model_validator(mode="after")
    def _names_exist(self) -> _Report:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError("arms must have different names")
        for pair in self.paired:
            for name in (pair.a, pair.b):
                if name not in names:
                    raise ValueError(f"paired names the arm {name}, which is not there")
        return self


def check_report(report: Mapping[str, Any]) -> None:
    """Check a report against the schema.

    Parameters
    ----------
    report : plain data, as it will be written

    Raises
    ------
    ReportError
        Naming each wrong field by its path, at most twelve of them.
    """
    try:
        _Report.model_validate(report)
    except ValidationError as error:
        raise ReportError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    lines = ["The report does not follow its schema; correct what builds it:"]
    for item in error.errors()[:12]:
        where = ".".join(str(part) for part in item["loc"]) or "report"
        lines.append(f"  {where}: {item['msg'].removeprefix('Value error, ')}")
    if error.error_count() > 12:
        lines.append(f"  and {error.error_count() - 12} more")
    return "\n".join(lines)
