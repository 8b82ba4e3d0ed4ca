"""``python -m simulations.benchmark overhead``: what federating costs beside training.

``ingest`` is in `simulations.benchmark_ingest`, ``objectives`` in
`simulations.benchmark_objectives`.

Real runs with ledger, checkpoints and local state on disk, on the CPU. From inside: how
much of a run is not training steps. From outside: federated rounds against plain loops
over the same batches, played in turns, so that a machine that slows down slows both.
Messages, hashes, files, averaging, loading of images and evaluation all count as
overhead; each site validates on one patient only, because evaluation is no overhead.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from common.allocator import keep_freed_memory
from common.atomic import write_atomic
from common.models import MODELS
from common.plan import Plan, PlanError
from common.progress import View, duration
from server.participation import RunFailed
from simulations.benchmark_confirm import measure_confirm
from simulations.benchmark_data import PlainLoop, hospitals, job
from simulations.benchmark_ingest import ingest_table, measure_ingest, stages_table
from simulations.benchmark_objectives import measure_objectives, objectives_table
from simulations.benchmark_runs import (
    median_interval,
    null_ratios,
    play,
    ratios,
    slope,
)

PAIR_SITES, RAY_PAIRS = 4, 2  # as many sites as the synthetic consortium
MEMORY_SITES, MEMORY_ROUNDS, SETTLED = 2, 60, 5
SHORT_ROUNDS = 5
MARGIN = 1.15  # of steps: machines were seen to run faster later than at the start
OVERHEAD, RATIO, MEGABYTES = 0.03, 1.03, 1.0

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Settings:
    """What is measured; the defaults of `overhead` are the published job.

    Attributes
    ----------
    seconds : of training per site and round, at least
    pairs : neighbouring pairs of federated round and plain loop; even
    sites : numbers of sites
    """

    seconds: float
    pairs: int
    sites: tuple[int, ...]
    ray: bool
    model: str = "resnet18"
    rows: int = 128

    def job(self, sites: int, rounds: int, steps: int) -> Plan:
        """Describe one run."""
        return job(sites, rounds, steps, self.model, self.rows)


def measure(settings: Settings, view: View) -> dict[str, Any]:
    """Measure everything; print what is coming and how long it will take first."""
    keep_freed_memory()  # as every session does, or the first loops run slower
    step = step_seconds(settings)
    steps = math.ceil(MARGIN * settings.seconds / step)
    short = math.ceil(MARGIN * min(1.0, settings.seconds) / step)
    rounds = settings.pairs + 1
    view.say(_expected(settings, step, steps, short))

    small = play(settings.job(MEMORY_SITES, MEMORY_ROUNDS, 1), view)
    main = play(settings.job(PAIR_SITES, rounds, steps), view, paired=True)
    runs = [play(settings.job(n, _rounds(n), steps), view) for n in settings.sites]
    second = play(settings.job(settings.sites[0], SHORT_ROUNDS, short), view)
    ratio, low, high = median_interval(ratios(main.federated, main.plain))
    null, null_low, null_high = median_interval(null_ratios(main.plain))
    result: dict[str, Any] = {
        "accounted_overhead": main.overhead(rounds),
        "in_process_ratio": ratio,
        "low": low,
        "high": high,
        "pairs": len(main.plain),
        "null_ratio": null,
        "null_low": null_low,
        "null_high": null_high,
        "by_sites": {str(run.sites): run.overhead(rounds) for run in runs},
        "accounted_overhead_at_1_s": second.overhead(rounds),
        **ray_ratio(settings, view, steps),
        **memory_growth(small.memory),
        "machine": facts(settings, step, steps),
        "runs": {
            "pairs": main.facts(),
            "by_sites": [run.facts() for run in runs],
            "at_1_s": second.facts(),
            "memory_mb": [round(size / 1e6) for size in small.memory],
        },
    }
    return result | {"targets": targets(result)}


def step_seconds(settings: Settings) -> float:
    """Measure the time of one step: the best of four short plain loops."""
    plan = settings.job(1, 1, 10)
    loop = PlainLoop(plan, hospitals(plan))
    loop.play(1)
    return min(loop.play(1) for _ in range(4)) / 10


def _rounds(sites: int) -> int:
    """Play at least two rounds: nothing is evaluated and read back in the first."""
    return max(2, 6 // sites + 1)


def _expected(settings: Settings, step: float, steps: int, short: int) -> str:
    in_turns = PAIR_SITES * (2 * settings.pairs + 2)
    by_sites = sum(n * _rounds(n) for n in settings.sites)
    on_ray = PAIR_SITES * (2 * RAY_PAIRS + 2) * settings.ray
    seconds = step * (
        steps * (in_turns + by_sites + on_ray)
        + short * SHORT_ROUNDS * settings.sites[0]
        + MEMORY_ROUNDS * MEMORY_SITES * 4  # an estimate: overhead of three steps
    )
    expected = duration(1.04 * seconds + 30 * settings.ray)
    return (
        f"{settings.model}, {settings.rows} x {settings.rows // 2}, "
        f"{torch.get_num_threads()} threads: {1000 * step:.0f} ms a step, "
        f"{steps} steps per site and round. About {expected} in all."
    )


def ray_ratio(settings: Settings, view: View, steps: int) -> dict[str, Any]:
    """Compare rounds on Ray, start-up left out, with plain loops beside them."""
    if not settings.ray:
        return {"ray_ratio": None, "ray_reason": "not asked for (--no-ray)"}
    try:
        plan = settings.job(PAIR_SITES, RAY_PAIRS + 1, steps)
        run = play(plan, view, paired=True, ray=True)
    except (PlanError, RunFailed) as error:
        return {"ray_ratio": None, "ray_reason": str(error)}
    return {"ray_ratio": median(ratios(run.federated, run.plain)), "ray_reason": None}


def memory_growth(memory: Sequence[int]) -> dict[str, Any]:
    """Return MB per round after round 5 by least squares, or null with a reason."""
    if not memory:
        reason = "resident memory is read from /proc, which only Linux has"
        return {"memory_mb_per_round": None, "memory_reason": reason}
    settled = [size / 1e6 for size in memory[SETTLED:]]
    return {"memory_mb_per_round": slope(settled), "memory_reason": None}


def facts(settings: Settings, step: float, steps: int) -> dict[str, Any]:
    """Describe the machine and the job."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "model": settings.model,
        "image": [settings.rows, settings.rows // 2],
        "seconds_per_site_round": settings.seconds,
        "seconds_per_step": step,
        "steps_per_round": steps,
    }


def targets(result: Mapping[str, Any]) -> dict[str, bool | None]:
    """Tell which targets hold; None where nothing was measured."""
    growth = result["memory_mb_per_round"]
    return {
        "accounted_overhead": result["accounted_overhead"] <= OVERHEAD,
        "in_process_ratio": result["low"] <= RATIO,
        "memory_mb_per_round": None if growth is None else growth < MEGABYTES,
    }


def table(result: Mapping[str, Any]) -> Table:
    """Lay the result out for a person."""
    rounds = result["pairs"] + 1
    grid = Table(title=f"Overhead of a run of {rounds} rounds, opening and closing too")
    for title in ("measure", "value", "target", "holds"):
        grid.add_column(title, justify="left" if title == "measure" else "right")
    holds = {True: "yes", False: "NO", None: "not measured"}
    kept = {name: holds[value] for name, value in result["targets"].items()}

    def percent(value: float) -> str:
        return f"{100 * value:.1f} %"

    def interval(name: str, low: str, high: str) -> str:
        return f"{result[name]:.3f} ({result[low]:.3f} to {result[high]:.3f})"

    trained = result["runs"]["pairs"]["training_seconds_per_site_round"]
    grid.add_row("training per site and round", f"{trained:.1f} s")
    grid.add_row(
        f"beside training, {PAIR_SITES} sites",
        percent(result["accounted_overhead"]),
        f"<= {percent(OVERHEAD)}",
        kept["accounted_overhead"],
    )
    for sites, value in result["by_sites"].items():
        grid.add_row(f"  {sites} sites", percent(value))
    grid.add_row("  at 1 s per round", percent(result["accounted_overhead_at_1_s"]))
    grid.add_row(
        f"federated / plain, {result['pairs']} pairs",
        interval("in_process_ratio", "low", "high"),
        f"low <= {RATIO}",
        kept["in_process_ratio"],
    )
    grid.add_row("  plain / plain", interval("null_ratio", "null_low", "null_high"))
    ray, growth = result["ray_ratio"], result["memory_mb_per_round"]
    grid.add_row("Ray / plain", result["ray_reason"] if ray is None else f"{ray:.3f}")
    grid.add_row(
        f"memory a round, from {SETTLED} on",
        result["memory_reason"] if growth is None else f"{growth:.2f} MB",
        f"< {MEGABYTES:.0f} MB",
        kept["memory_mb_per_round"],
    )
    return grid


@app.callback()
def main() -> None:
    """Measure mammofed against plain PyTorch on this machine."""
    logging.getLogger("flwr").propagate = False


@app.command()
def overhead(
    json_file: Annotated[Path | None, typer.Option("--json", help="also here")] = None,
    seconds: Annotated[float, typer.Option(min=0.01)] = 5.0,
    pairs: Annotated[int, typer.Option(min=2, help="even")] = 40,
    sites: Annotated[str, typer.Option(help="numbers of sites")] = "3,10,30",
    ray: Annotated[bool, typer.Option("--ray/--no-ray")] = True,
    model: Annotated[str, typer.Option(hidden=True)] = "resnet18",
    rows: Annotated[int, typer.Option(hidden=True)] = 128,
) -> None:
    """Measure what a federated run costs beside its training steps.

    Files go to the system's temporary folder (TMPDIR), threads follow OMP_NUM_THREADS.
    Leave the machine alone meanwhile.
    """
    try:
        numbers = tuple(int(word) for word in sites.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"--sites {sites!r} is not a list such as 3,10,30")
    _require_folder(json_file)
    view = View()
    result = measure(
        Settings(seconds, pairs + pairs % 2, numbers, ray, model, rows), view
    )
    view.console.print(table(result))
    _write(json_file, result, view)


@app.command()
def ingest(
    json_file: Annotated[Path | None, typer.Option("--json", help="also here")] = None,
    images: Annotated[int, typer.Option(min=2, help="of each transfer syntax")] = 64,
    stubs: Annotated[int, typer.Option(min=1, help="tiny files to confirm")] = 50_000,
) -> None:
    """Measure how fast full-field DICOM becomes prepared images, and is read again.

    Files go to the system's temporary folder (TMPDIR). Leave the machine alone
    meanwhile.
    """
    _require_folder(json_file)
    view = View()
    result = measure_ingest(images, view)
    result["confirming"] = confirming = measure_confirm(stubs, view)
    view.console.print(ingest_table(result))
    view.console.print(stages_table(result))
    memory, reading = result["memory"], result["reading"]
    view.say(
        f"Memory, this process and one worker: {memory['first_megabytes']:.0f} MB "
        f"after the first block of images, {memory['last_megabytes']:.0f} MB after the "
        "last."
    )
    view.say(
        f"Reading prepared images: {reading['images_per_second']:.0f}/s, "
        f"{reading['ratio']:.0f} times what resnet18 trains; with augmentation "
        f"{reading['augmented_images_per_second']:.0f}/s, "
        f"{reading['augmented_ratio']:.0f} times."
    )
    view.say(
        f"A finished preparation of {stubs} files is confirmed in "
        f"{confirming['confirm_seconds']:.1f} s, with --verify in "
        f"{confirming['verify_seconds']:.1f} s."
    )
    _write(json_file, result, view)


@app.command()
def objectives(
    json_file: Annotated[Path | None, typer.Option("--json", help="also here")] = None,
    model: Annotated[str, typer.Option(help="backbone")] = "resnet_small",
    rows: Annotated[int, typer.Option(min=32, help="images are half as wide")] = 128,
    turns: Annotated[int, typer.Option(min=1, help="of five steps each")] = 20,
) -> None:
    """Measure what each term of the loss costs in images per second beside ce alone."""
    _require_folder(json_file)
    if model not in MODELS:
        raise typer.BadParameter(f"--model {model}: there is {', '.join(MODELS)}")
    view = View()
    result = measure_objectives(model, rows, turns, view)
    view.console.print(objectives_table(result))
    _write(json_file, result, view)


def _require_folder(json_file: Path | None) -> None:
    """Find out now, and not after the measurement, that a file cannot be written."""
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise typer.BadParameter(f"--json {json_file}: there is no such folder")


def _write(json_file: Path | None, result: Mapping[str, Any], view: View) -> None:
    if json_file is not None:
        write_atomic(json_file, json.dumps(result, indent=2).encode())
        view.say(f"Numbers: {json_file}")


if __name__ == "__main__":
    app()
