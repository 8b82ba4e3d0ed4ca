"""What the page shows and report.json does not hold: pictures' raw material and words.

Everything here is optional; a section without material is left out. Curves and sample
images come from patients, so only a simulation, or a hospital on its own machine, has
them. They never travel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.units import Floats, Integers

_MOST_POINTS = 400


@dataclass(frozen=True)
class Curve:
    """ROC and precision-recall curve of one arm at one site.

    Attributes
    ----------
    false_positive_rate, sensitivity : float64, shape (point,); from (0, 0) to (1, 1)
    recall, precision : float64, shape (step,); one entry for each gain in recall
    prevalence : share of positive units, the chance level of the precision
    """

    arm: str
    site: str
    false_positive_rate: Floats
    sensitivity: Floats
    recall: Floats
    precision: Floats
    prevalence: float


@dataclass(frozen=True)
class History:
    """How one arm learned at one site.

    Attributes
    ----------
    rounds : evaluated rounds, ascending
    validation : the metric that selects the round; None where undefined
    loss : training loss of the same rounds; None where unknown
    """

    arm: str
    site: str
    rounds: Sequence[int]
    validation: Sequence[float | None]
    loss: Sequence[float | None]


@dataclass(frozen=True)
class Sample:
    """One preprocessed image as the model sees it.

    Attributes
    ----------
    label : row of the picture it stands in, for example ``malignant``
    pixels : uint8, shape (rows, columns), MONOCHROME2
    """

    site: str
    label: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Extras:
    """Everything beside report.json that `common.report.build.write_report` takes.

    Attributes
    ----------
    title : heading of the page
    question : one sentence under the heading; what was compared
    curves, histories, samples : any number, any order
    selection_metric : what `History.validation` holds, a name of `METRICS`
    plan_words : the plan in plain words, one line each; a line may be indented
    command : what to type to get this report again
    facts : further lines of "how to reproduce", for example versions, threads, hash
    """

    title: str = "Federated adaptation of a mammography model"
    question: str = ""
    curves: Sequence[Curve] = ()
    histories: Sequence[History] = ()
    samples: Sequence[Sample] = ()
    selection_metric: str = "roc_auc"
    plan_words: Sequence[str] = ()
    command: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


def curve_from_scores(
    arm: str, site: str, target: Integers, score: Floats
) -> Curve | None:
    """Trace both curves from the scores of one arm at one site.

    Parameters
    ----------
    target : int64, shape (unit,); 0 or 1
    score : float64, shape (unit,)

    Returns
    -------
    Curve with at most 401 points, or None with one class only. Tied scores are one
    step.
    """
    positives, negatives = int((target == 1).sum()), int((target == 0).sum())
    if not (positives and negatives):
        return None
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.flatnonzero(np.diff(score[order], append=-np.inf))
    true = np.cumsum(target[order] == 1)[last_of_tie]
    false = np.cumsum(target[order] == 0)[last_of_tie]
    points = len(last_of_tie)
    kept = np.unique(np.linspace(0, points - 1, min(points, _MOST_POINTS)).astype(int))
    true, false = true[kept].astype(np.float64), false[kept].astype(np.float64)
    found = np.diff(true, prepend=0.0) > 0
    return Curve(
        arm=arm,
        site=site,
        false_positive_rate=np.concatenate([[0.0], false / negatives]),
        sensitivity=np.concatenate([[0.0], true / positives]),
        recall=true[found] / positives,
        precision=true[found] / (true[found] + false[found]),
        prevalence=positives / (positives + negatives),
    )
