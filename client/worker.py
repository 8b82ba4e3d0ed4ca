"""A site's resident process: it holds the model, the images and the local state.

It has no network. The node asks it over a local socket, see `client.link`; when the
node hangs up, training ends within a step and nothing of the round is kept.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from client.approval import approved_plan
from client.client_app import Session
from client.data.dataset import build_dataset
from client.data.snapshot import CacheError, open_snapshot
from client.health import WORKER_LOCK
from client.link import HungUpError, has_hung_up, listen, receive_request, send_answer
from client.newcomer import Newcomer
from client.policy import SitePolicy, read_policy
from client.resident import Resident
from client.session import SiteFolders, SiteSession
from client.site import Site
from common.lock import held
from common.plan import Plan
from common.records import Code, Refusal, Reply, Request

log = logging.getLogger(__name__)


class Worker:
    """Answers one request after the other.

    Parameters
    ----------
    site : whose images and state
    policy_file : of the site's limits; need not exist
    """

    def __init__(self, site: Site, policy_file: Path) -> None:
        self._site = site
        self._policy_file = policy_file
        self._session: Session | None = None
        self._plan = ""
        self._stopped: Callable[[], bool] = lambda: False

    def serve(self) -> None:
        """Answer until the process ends; the socket is in the working directory."""
        with listen() as listener:
            while True:
                with listener.accept() as connection:
                    self._serve_one(connection)

    def _serve_one(self, connection: Connection) -> None:
        try:
            request = receive_request(connection)
            self._stopped = lambda: has_hung_up(connection)
            send_answer(connection, self._answer(request))
        except HungUpError:
            log.warning("the node hung up; what was begun is dropped")

    def _answer(self, request: Request) -> Reply | Refusal:
        try:
            return self._session_for(str(request.fields["plan"])).answer(request)
        except Refusal as refusal:
            return refusal
        except CacheError as error:
            return Refusal(Code.CACHE, str(error))
        except OSError as error:
            log.exception("a file cannot be read or written")
            return Refusal(Code.DISK, f"{type(error).__name__}: {error.strerror}")
        except Exception as error:  # the node tells a code, the log has the rest
            log.exception("the session failed")
            return Refusal(Code.INTERNAL, type(error).__name__)

    def _session_for(self, plan_hash: str) -> Session:
        if self._session is None or self._plan != plan_hash:
            plan = approved_plan(self._site.state_folder, plan_hash)
            self._session = self._open(plan)
            self._plan = plan_hash
        return self._session

    def _open(self, plan: Plan) -> Session:
        site, policy = self._site, read_policy(self._policy_file)
        _require_permitted(plan, policy)
        if site.site not in plan.roster.sites:  # it needs no image for what it gets
            return Newcomer(site.site, plan, site.state_folder)
        state = site.state_folder
        return open_session(site, plan, policy, state, lambda: self._stopped())[0]


def _require_permitted(plan: Plan, policy: SitePolicy) -> None:
    if plan.version != version("mammofed"):
        raise Refusal(
            Code.VERSION, f"the plan is for mammofed {plan.version}, not ours"
        )
    policy.require(plan)


def open_session(
    site: Site,
    plan: Plan,
    policy: SitePolicy,
    state: Path,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[SiteSession, Resident]:
    """Open a site's prepared images and build the model of a plan.

    Parameters
    ----------
    state : gets local state, models and scores; the plan's approval is there
    stopped : as of `client.resident.Resident`

    Raises
    ------
    Refusal
        If the plan is for another version, against the policy or the data.
    CacheError
        If the images are not prepared.
    """
    _require_permitted(plan, policy)
    if threads := plan.threads or site.threads:
        torch.set_num_threads(threads)
    snapshot = open_snapshot(site.folder, plan.preprocessing)
    resident = Resident(plan, device_of(site), site.start_file, stopped)
    session = SiteSession(
        site.site,
        plan,
        resident,
        build_dataset({site.site: snapshot}, plan),
        SiteFolders(state, state),
        policy,
        synthetic=site.importer == "synthetic",
    )
    return session, resident


def device_of(site: Site) -> torch.device:
    """Return the device that a site's settings name.

    Raises
    ------
    Refusal
        If they name a GPU, and torch finds none.
    """
    if site.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if site.device == "cuda" and not torch.cuda.is_available():
        raise Refusal(Code.INTERNAL, "device: cuda, but torch finds no GPU")
    return torch.device(site.device)


def run_worker(site: Site, policy_file: Path) -> None:
    """Serve as the worker of a site until the process is ended."""
    site.state_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chdir(site.state_folder)
    with held(Path(WORKER_LOCK)):
        Worker(site, policy_file).serve()
