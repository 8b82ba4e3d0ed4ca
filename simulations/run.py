"""``mammo-sim``: virtual hospitals on one machine, from images to a report."""

from __future__ import annotations

import logging
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from common.compose import compose_tree, plan_of
from common.lock import locked
from common.models.check import check_models
from common.plan import Plan, PlanError
from common.progress import View
from simulations.difficulty import measure_difficulty
from simulations.estimate import say_estimate
from simulations.experiment import run_arms, write_chosen_rates
from simulations.laboratory import Laboratory, open_laboratory, with_threads
from simulations.mistakes import MISTAKES
from simulations.reporting import make_report
from simulations.results import Finished
from simulations.settings import (
    Settings,
    check_together,
    claim_folder,
    read_folder,
    settings_of,
)
from simulations.sites import synthesise
from simulations.source import keep_source

USAGE = """\
mammo-sim experiment=NAME [FIELD=VALUE ...]   run an experiment, or go on with it
mammo-sim resume DIR                          go on with an interrupted run
mammo-sim synth [data.root=DIR ...]           only write the synthetic consortium
mammo-sim list                                experiments and arms there are

  mammo-sim experiment=demo
  mammo-sim experiment=compare_sharing run_dir=runs/mine parallel=4
  mammo-sim experiment=demo plan.stages.adapt.rounds=5 arms=[fedbn,fedavg]
  mammo-sim experiment=real_images data.root=FOLDER
  mammo-sim experiment=demo plan.stages.adapt.rounds=2 dump=true

Every FIELD is in configs/simulation.yaml and configs/plan/default.yaml. A run writes
report.html, report.json, TensorBoard curves and each site's models into run_dir. Ctrl-C
leaves it so that the same command, or `resume`, goes on. dump=true writes every reply
of a virtual site into sent/ of its run, a page and a JSON file each: for small runs.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exit 2 on a user's mistake, 1 on a failed run, 130 on Ctrl-C."""
    words = sys.argv[1:] if arguments is None else arguments
    _quiet_logs()
    view = View()
    try:
        _dispatch(words, view)
    except PlanError as error:
        _complain(str(error), 2)
    except MISTAKES as error:
        _complain(str(error), 1)
    except KeyboardInterrupt:
        _complain(
            "Stopped. The same command, or mammo-sim resume DIR, goes on where it was.",
            130,
        )


def _dispatch(words: list[str], view: View) -> None:
    if not words or {"-h", "--help", "help"} & set(words):
        print(USAGE)
        return
    command, rest = words[0], words[1:]
    if "=" in command:
        tree = compose_tree(words)
        run(settings_of(tree), plan_of(tree), view)
    elif command == "resume" and len(rest) == 1:
        settings, plan = read_folder(Path(rest[0]))
        run(settings, plan, view)
    elif command == "synth":
        tree = compose_tree(rest)
        synthesise(settings_of(tree).data, view)
    elif command == "list":
        _list()
    else:
        raise PlanError(f"mammo-sim does not know {' '.join(words)!r}.\n\n{USAGE}")


def run(settings: Settings, plan: Plan, view: View) -> Path:
    """Prepare the sites, run every arm, write the report; returns the page's path."""
    check_together(settings, plan)
    settings = with_threads(settings, plan)
    warnings = check_models(plan)
    with locked(settings.folder):
        return _run(settings, plan, view, warnings)


def _run(settings: Settings, plan: Plan, view: View, warnings: list[str]) -> Path:
    if claim_folder(settings, plan):
        view.say(f"Going on with the run in {settings.folder}")
    for warning in warnings:
        view.say(f"Note: {warning}")
    laboratory = open_laboratory(settings, plan, view)
    say_estimate(laboratory)
    runs = run_arms(laboratory)
    write_chosen_rates(runs, settings.folder)
    with view.bar("report", 1) as bar:
        page = make_report(laboratory, runs)
        bar.move(1)
    finish(laboratory, runs)
    if settings.backend == "deployed":
        view.say(_told(runs, page))
    else:
        view.say(f"Report: {page}")
    return page


def _told(runs: Mapping[str, Sequence[Finished]], page: Path) -> str:
    """Say in one line how a consortium's runs ended."""
    outcomes = [run.outcome for of in runs.values() for run in of]
    states = sorted({str(outcome["status"]) for outcome in outcomes})
    seconds = [one for outcome in outcomes for one in outcome["seconds"].values()]
    beside = [one for outcome in outcomes for one in beside_training(outcome)]
    return (
        f"{', '.join(states)}: {len(seconds)} rounds, "
        f"{statistics.median(seconds):.1f} s per round, of them "
        f"{statistics.median(beside):.1f} s not training, report {page}"
    )


def beside_training(outcome: Mapping[str, Any]) -> list[float]:
    """Return the seconds of each round in which its slowest site was not training."""
    training: dict[int, float] = {}
    for entry in outcome["ledger"]:
        took = float(entry["step_seconds"] or 0.0)
        training[entry["round"]] = max(took, training.get(entry["round"], 0.0))
    return [
        float(took) - training[int(round_)]
        for round_, took in outcome["seconds"].items()
    ]


def finish(laboratory: Laboratory, runs: dict[str, list[Finished]]) -> None:
    """Do what some experiments are for, beside the report."""
    settings, view = laboratory.settings, laboratory.view
    first = runs[settings.arms[0]][0]
    if settings.extra_test:
        measure_difficulty(laboratory, first)
    if settings.keep_source is not None:
        folder = Path(settings.keep_source)
        overrides = keep_source(first, folder, synthetic=laboratory.synthetic)
        view.say("Start another run from this model with:\n  " + " ".join(overrides))


def _list() -> None:
    from importlib.resources import files

    from simulations.arms import ARMS

    print("Experiments:")
    for file in sorted(files("configs.experiment").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml") and file.name != "none.yaml":
            comments = [
                line.removeprefix("# ")
                for line in file.read_text().splitlines()
                if line.startswith("# ") and not line.startswith("# @")
            ]
            print(f"  {file.name.removesuffix('.yaml'):20} {comments[1]}")
    print("Arms:")
    for name, arm in ARMS.items():
        print(f"  {name:20} {arm.title}")


def _quiet_logs() -> None:
    """Let warnings of the sites through, without Flower's own doubled lines."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("flwr").propagate = False


def _complain(text: str, status: int) -> None:
    Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
