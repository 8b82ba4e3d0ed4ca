"""The component that a bundle names: ``flwr run . NAME -c "plan='/path/plan.json'"``.

Everything a run keeps lies beside its plan, in a folder of the plan's name. The same
command goes on with what is there, so that it is also the one that resumes, and the one
that offers what a finished run has shared to a site that joined later.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flwr.serverapp import Grid

from common.allocator import return_freed_memory
from common.audit import FOLDER, open_log
from common.lock import locked
from common.plan import Plan, PlanError, read_plan
from server.audit_trail import AuditedGrid, coordinator_key, note_rounds
from server.finished import is_finished, serve
from server.participation import RunFailed
from server.progress_log import ProgressLog
from server.pulling import ApartPull, Pull, look_again_soon
from server.rounds import Federation
from server.server_app import make_server_app

EXAMPLE = "flwr run . NAME -c \"plan='/path/plan.json'\""

START_FILE = "start.safetensors"
"""Beside the plan, where its start is a checkpoint."""

LOG_FILE = "run.log"

log = logging.getLogger(__name__)


def play(grid: Grid, run_config: Mapping[str, object], *, apart: bool = False) -> None:
    """Play the plan that the run-config names.

    Parameters
    ----------
    apart : pull each reply for itself, see `server.pulling`; a grid that computes
        replies when they are pulled must not be asked so

    Raises
    ------
    PlanError
        If it names none, or the file is no plan.
    FolderBusyError
        If a run of this plan is under way.
    AuditError, KeyFileError
        If the audit log cannot be kept.
    RunFailed
        As `server.rounds.Federation.run`.
    """
    path = Path(str(run_config.get("plan", "")))
    if not path.is_absolute():
        raise PlanError(f"Name the plan by its whole path, as in {EXAMPLE}")
    plan = read_plan(path)
    start = path.with_name(START_FILE)
    folder = run_folder(path)
    with locked(folder), _logging_to(folder / LOG_FILE):
        try:
            used = start if start.is_file() else None
            _play_audited(grid, plan, folder, used, ApartPull(grid) if apart else None)
        except RunFailed as error:
            log.error("the run failed: %s", error)
            raise
        except Exception:
            log.exception("the run ended by a mistake of the coordinator's")
            raise


def _play_audited(
    grid: Grid, plan: Plan, folder: Path, start_file: Path | None, pull: Pull | None
) -> None:
    key = coordinator_key(folder)
    with open_log(folder / FOLDER, key, "coordinator", "coordinator") as audit:
        audited = AuditedGrid(grid, audit, pull)
        if is_finished(folder):
            serve(audited, plan, folder)
            return
        note = note_rounds(audit)
        federation = Federation(
            plan, folder, start_file, ProgressLog(), note, own_machines=True
        )
        federation.run(audited)


@contextmanager
def _logging_to(file: Path) -> Iterator[None]:
    """Keep what is said of a run beside it, and say it to Flower's log too."""
    root, before = logging.getLogger(), logging.getLogger().level
    handlers: list[logging.Handler] = [
        logging.FileHandler(file),
        logging.StreamHandler(),
    ]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(before)


def run_folder(plan_file: Path) -> Path:
    """Name the folder of a plan's run: checkpoints, ledger and outcome."""
    return plan_file.with_suffix("")


def _play_deployed(grid: Grid, run_config: Mapping[str, object]) -> None:
    return_freed_memory()  # bodies of messages, by many threads, for hundreds of rounds
    look_again_soon()
    play(grid, run_config, apart=True)


app = make_server_app(_play_deployed)
