"""From recorded facts to the label of a plan: 1, 0 or unknown."""

from __future__ import annotations

import pandas as pd

from common.plan import Target

DOUBTED = "X_CONFLICT"
"""Reason of rows whose recorded label contradicts that of a copy."""


def label(
    rows: pd.DataFrame, target: Target, beside: pd.DataFrame | None = None
) -> pd.Series:
    """Label every row as the plan's target says; unknown is never 0.

    Unknown is: no recorded fact; a source the target does not accept; BI-RADS 0, which
    means "assessment incomplete"; a positive exam or patient, which does not tell the
    breast (a negative one does). BI-RADS of a row with known pathology, whose source
    is that of the pathology, counts as the radiologist's. With ``unit=breast`` all
    images of a breast get one label: 1 if any is 1, unknown if any is unknown, else 0.

    Images that cannot be used speak for their breast too: if the one film that shows
    the cancer is damaged, the other view is not that of a healthy breast. They make it
    positive; unknown only where their label is in doubt, because nobody labels what is
    not for reading, such as raw images.

    Parameters
    ----------
    rows : manifest rows to label
    target : field, rule, unit and accepted sources
    beside : further manifest rows of the same breasts, whatever their status

    Returns
    -------
    Int8 Series with the index of `rows`: 1, 0 or <NA>

    Raises
    ------
    ValueError
        If the unit is the breast and rows do not say which breast they show.
    """
    own = _of_image(rows, target)
    if target.unit == "image":
        return own
    label_ = _per_breast(own, rows["breast_key"])
    if beside is None or beside.empty:
        return label_
    doubted = (beside["reason"] == DOUBTED).fillna(False)
    sick = (_of_image(beside, target) == 1).fillna(False) & ~doubted
    label_ = label_.mask(
        rows["breast_key"].isin(beside.loc[doubted, "breast_key"]) & (label_ == 0)
    )
    return label_.mask(rows["breast_key"].isin(beside.loc[sick, "breast_key"]), 1)


def _of_image(rows: pd.DataFrame, target: Target) -> pd.Series:
    fact = rows[target.field].astype("Int64")
    if target.field == "birads":
        fact = fact.mask(fact == 0)
    own = (fact >= target.at_least).astype("Int8")
    source = rows["label_source"]
    if target.field == "birads":  # a judgement, also where a specimen was taken later
        source = source.mask(rows["cancer_pathology"].notna(), "radiologist")
    own = own.mask(~source.isin(target.label_sources))
    coarse = rows["label_level"].isin(("exam", "patient"))
    return own.mask(coarse & (own == 1).fillna(False))


def _per_breast(own: pd.Series, breasts: pd.Series) -> pd.Series:
    if breasts.isna().any():
        raise ValueError(
            f"{int(breasts.isna().sum())} rows have no breast key, but target.unit is "
            "breast. Give the laterality in the label table, or use target.unit=image."
        )
    keys = breasts.to_numpy()
    positive = (own == 1).fillna(False).groupby(keys).transform("max")
    unknown = own.isna().groupby(keys).transform("max")
    return positive.astype("Int8").mask(unknown & ~positive)
