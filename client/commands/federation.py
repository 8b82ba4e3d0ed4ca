"""Verbs around a federation: ``init approve pause resume leave``."""

from __future__ import annotations

import difflib
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from client.approval import approve as record_approval
from client.approval import has_left, last_approved
from client.approval import leave as record_leave
from client.commands.shared import Chosen, settings_of, user_errors
from client.commands.start import policy_file
from client.data.manifest import SLUG
from client.health import PAUSED_FILE
from client.local_state import used_rounds
from client.policy import PolicyError, read_policy
from client.preflight.plan import cache, training
from client.preflight.rehearsed import rehearse_apart
from client.site import SiteError, settings_file
from common.atomic import write_atomic
from common.keys import make_key, public_text, read_key
from common.plan import Plan, read_plan
from common.plan_words import describe_plan
from common.progress import View
from common.records import Refusal

_PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="the plan's JSON file")]
_Yes = Annotated[bool, typer.Option("--yes", help="do not ask, nor try what it takes")]


def init(context: typer.Context) -> None:
    """Make settings to adapt and the site's key pair; print the public key."""
    view = View()
    with user_errors():
        chosen: Chosen = context.obj
        path = settings_file(chosen.config_dir, chosen.site)
        if not re.fullmatch(SLUG, chosen.site):
            raise SiteError(
                "A site's name has small letters, digits and _ only, a letter first."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            view.say(f"Settings: {path} (were there; not changed)")
        else:
            example = files("configs").joinpath("examples/hctp.yaml").read_text("utf-8")
            write_atomic(path, example.replace("hctp", chosen.site).encode())
            view.say(f"Settings: {path} (an example to adapt)")
        private = chosen.config_dir / "keys" / chosen.site
        public = private.with_suffix(".pub")
        if private.exists():
            view.say(f"Private key: {private} (was there; not changed)")
        else:
            private.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            make_key(private)
            view.say(f"Private key: {private} (stays here; back it up)")
        if not public.exists():
            write_atomic(public, f"{public_text(read_key(private))}\n".encode())
        view.say(f"Public key, for the coordinator to register: {public}")
        view.say(public.read_text().strip())


def approve(context: typer.Context, plan: _PlanFile, yes: _Yes = False) -> None:
    """Show a plan in plain words, what has changed, and record that you agree.

    The node refuses every plan but the one approved last. A site that is not in the
    plan's roster agrees to receive the shared part of a finished run, no more.
    """
    view = View()
    with user_errors():
        site = settings_of(context)
        wanted = read_plan(plan)
        _check_objectives(wanted)
        try:
            read_policy(policy_file(context.obj)).require(wanted)
        except Refusal as refusal:
            raise PolicyError(f"Not approved: {refusal}.") from None
        words = describe_plan(wanted)
        before = last_approved(site.state_folder)
        if before is not None and before.hash == wanted.hash:
            view.say("\n".join(words))
            view.say("This plan is approved already.")
            return
        if before is None:
            view.say("\n".join(words))
        else:
            view.say(f"Compared with the plan approved last, {before.hash[:12]}:")
            changes = difflib.unified_diff(
                describe_plan(before), words, lineterm="", n=99
            )
            view.say("\n".join(list(changes)[3:]))
        trains = site.site in wanted.roster.sites
        if not trains:
            view.say(
                f"{site.site} is not in the roster ({', '.join(wanted.roster.sites)}): "
                "it takes no part in training, it may receive the shared part."
            )
        if trains and not yes:
            view.say("What it takes here, from one step of training:")
            found = rehearse_apart(context.obj.words, plan)
            view.say(f"  {training(wanted, found).said}")
        if not yes:
            typer.confirm("Approve this plan?", abort=True)
        record_approval(site.state_folder, wanted)
        view.say(f"Approved: {wanted.hash}")
        if trains and (images := cache(site, wanted)).state == "problem":
            view.say(f"Not ready to train yet. {images.said} {images.remedy}")


def _check_objectives(plan: Plan) -> None:
    """Refuse a misspelt objective before anyone agrees to it."""
    from client.objectives import check_objective  # it brings torch, seconds of it

    for stage in plan.stages:
        check_objective(stage.objective)


def pause(context: typer.Context) -> None:
    """Refuse work until `resume`; training that is under way ends within a step."""
    with user_errors():
        site = settings_of(context)
        site.state_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (site.state_folder / PAUSED_FILE).touch(mode=0o600)
        View().say("Paused: what the coordinator asks is refused. `resume` ends it.")


def resume(context: typer.Context) -> None:
    """Take part again after `pause`."""
    with user_errors():
        site = settings_of(context)
        (site.state_folder / PAUSED_FILE).unlink(missing_ok=True)
        View().say("No longer paused.")
        if has_left(site.state_folder):
            View().say(f"{site.site} has left the federation: {_back(site.site)}.")


def leave(context: typer.Context, yes: _Yes = False) -> None:
    """Leave the federation for good; what the site has stays on its disk.

    Training under way ends within a step, what is asked is refused, the approval is
    withdrawn, and node and worker end.
    """
    view = View()
    with user_errors():
        site = settings_of(context)
        state = site.state_folder
        if has_left(state):
            view.say(f"{site.site} has left already; {_back(site.site)}.")
            return
        view.say(
            f"{site.site} would leave the federation for good: training under way ends "
            "within a step, and every question is refused from then on."
        )
        view.say(f"Stays here, nothing is deleted: {state}, with models/ and audit/.")
        trained = [
            f"{used.run} (rounds {used.first} to {used.last})"
            for used in used_rounds(state)
        ]
        view.say(
            "Cannot be taken back: the averages of rounds that counted, which the "
            "coordinator and the other sites hold. This site trained in: "
            f"{', '.join(trained) or 'no run'}."
        )
        if not yes:
            typer.confirm("Leave the federation?", abort=True)
        record_leave(state)
        view.say(
            f"{site.site} has left. Its node tells the coordinator and ends, if it "
            f"runs; {_back(site.site)}."
        )


def _back(site: str) -> str:
    return f"mammo-client --site {site} approve PLAN takes part again"
