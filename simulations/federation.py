"""One federation of virtual hospitals in one process: the deployed apps, called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from flwr.app import Context, Message, RecordDict

from client.approval import approve
from client.client_app import Connect, Session, make_client_app
from client.data.cache import Snapshot
from client.data.dataset import build_dataset
from client.dump import write_message
from client.policy import SitePolicy
from client.resident import Resident
from client.session import SiteFolders, SiteSession
from common.atomic import write_atomic
from common.observer import Observer, Silent
from common.plan import Plan, plan_to_json
from server.rounds import Federation, Outcome
from server.server_app import make_server_app
from simulations.grid import Answer, InProcessGrid

Populations = Mapping[str, Mapping[str, Snapshot]]
"""Site of the roster to its populations, each with its prepared images."""


@dataclass(frozen=True)
class Machine:
    """Local settings of one run; none of them enters the plan.

    Attributes
    ----------
    device : of the model
    threads : of torch; None leaves them as they are
    start_file : file of the plan's start
    policies : by site; a site that is not named releases exact counts
    dump : write every reply down in ``sent/<site>/`` of the run, as `client.dump` does
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threads: int | None = None
    start_file: Path | None = None
    policies: Mapping[str, SitePolicy] = field(default_factory=dict)
    dump: bool = False

    def policy_of(self, site: str) -> SitePolicy:
        """Return a site's own limits."""
        return self.policies.get(site, SitePolicy())


def sessions_of(
    plan: Plan,
    populations: Populations,
    folder: Path,
    machine: Machine,
    *,
    synthetic: bool,
) -> Connect:
    """Have a session for every site, all taking turns in one model.

    Returns
    -------
    What the ClientApp calls: node configuration to session. It is opened when it is
    first asked for, so that a site which cannot take part refuses at the handshake.
    """
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    resident = Resident(plan, machine.device, machine.start_file)
    sessions: dict[str, Session] = {}

    def connect(node_config: Mapping[str, object]) -> Session:
        site = str(node_config["site"])
        if site not in sessions:
            own = folder / "sites" / site
            sessions[site] = SiteSession(
                site,
                plan,
                resident,
                build_dataset(populations[site], plan),
                SiteFolders(own / "state", own),
                machine.policy_of(site),
                synthetic=synthetic,
            )
        return sessions[site]

    return connect


def approve_everywhere(plan: Plan, folder: Path) -> None:
    """Approve a plan for every virtual hospital and write it down."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "plan.json", plan_to_json(plan))
    for site in plan.roster.sites:
        approve(folder / "sites" / site / "state", plan)


def run_in_process(
    plan: Plan,
    populations: Populations,
    folder: Path,
    machine: Machine,
    *,
    synthetic: bool,
    observer: Observer | None = None,
    on_reply: Callable[[str], None] = lambda site: None,
) -> Outcome:
    """Run a federation, or go on with it if its folder holds a part of it.

    Parameters
    ----------
    plan : approved here for every virtual hospital
    populations : prepared images of every site
    folder : gets ``plan.json``, ``coordinator/`` and ``sites/<site>/``; ``sent/`` too
        where the machine's settings want it
    on_reply : told after each site's answer

    Raises
    ------
    RunFailed
        As `server.rounds.Federation.run`.
    """
    approve_everywhere(plan, folder)
    connect = sessions_of(plan, populations, folder, machine, synthetic=synthetic)
    app_of_sites: Answer = make_client_app(connect)
    if machine.dump:
        app_of_sites = _dumping(app_of_sites, folder / "sent", machine)
    grid = InProcessGrid(app_of_sites, plan.roster.sites, on_reply)
    federation = Federation(
        plan, folder / "coordinator", machine.start_file, observer or Silent()
    )
    outcomes: list[Outcome] = []
    app = make_server_app(lambda grid, _: outcomes.append(federation.run(grid)))
    app(grid=grid, context=_server_context())
    return outcomes[0]


def _dumping(app: Answer, folder: Path, machine: Machine) -> Answer:
    """Let a ClientApp answer, and write down the very message that it returns."""

    def answer(*, message: Message, context: Context) -> Message:
        reply = app(message=message, context=context)
        site = str(context.node_config["site"])
        write_message(folder / site, site, reply, machine.policy_of(site))
        return reply

    return answer


def _server_context() -> Context:
    return Context(
        run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={}
    )
