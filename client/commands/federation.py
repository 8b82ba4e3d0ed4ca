"""Verbs around a federation: ``init approve status pause resume``."""

from __future__ import annotations

import difflib
import json
import os
import time
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rich.table import Table

from client.approval import approve as record_approval
from client.approval import last_approved
from client.commands.shared import Chosen, settings_of, user_errors
from client.commands.start import PAUSED_FILE, policy_file
from client.node_status import read_status
from client.policy import PolicyError, read_policy
from client.site import SiteError, settings_file
from client.supervisor import SILENT_SECONDS
from common.atomic import write_atomic
from common.plan import PlanError, read_plan
from common.plan_words import describe_plan
from common.progress import View
from common.records import Refusal

_PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="the plan's JSON file")]
_Yes = Annotated[bool, typer.Option("--yes", help="do not ask")]


def init(context: typer.Context) -> None:
    """Make settings to adapt and the site's key pair; print the public key."""
    view = View()
    with user_errors():
        chosen: Chosen = context.obj
        path = settings_file(chosen.config_dir, chosen.site)
        if not chosen.site.isidentifier() or not chosen.site.islower():
            raise SiteError("A site's name has small letters, digits and _ only.")
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
            _make_keys(private, public)
            view.say(f"Private key: {private} (stays here; back it up)")
        view.say(f"Public key, for the coordinator to register: {public}")
        view.say(public.read_text().strip())


def approve(context: typer.Context, plan: _PlanFile, yes: _Yes = False) -> None:
    """Show a plan in plain words, what has changed, and record that you agree.

    The node refuses every plan but the one approved last.
    """
    view = View()
    with user_errors():
        site = settings_of(context)
        wanted = read_plan(plan)
        if site.site not in wanted.roster.sites:
            raise PlanError(
                f"{site.site} is not in the plan's roster: "
                f"{', '.join(wanted.roster.sites)}."
            )
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
        if not yes:
            typer.confirm("Approve this plan?", abort=True)
        record_approval(site.state_folder, wanted)
        view.say(f"Approved: {wanted.hash}")


def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Tell how the node is doing; exits with 1 where it is not at work."""
    view = View()
    with user_errors():
        site = settings_of(context)
        found = read_status(site.state_folder)
        plan = last_approved(site.state_folder)
        paused = (site.state_folder / PAUSED_FILE).exists()
        at_work = _is_at_work(found)
        facts = {
            "site": site.site,
            "at_work": at_work and not paused,
            "paused": paused,
            "doing": found.get("doing", "never started") if at_work else "not running",
            "last_heartbeat_seconds": _age(found.get("heartbeat")),
            "last_contact_seconds": _age(found.get("contact")),
            "last_answer": found.get("last_answer"),
            "trouble": found.get("trouble"),
            "plan": plan.hash if plan else None,
        }
        if as_json:
            typer.echo(json.dumps(facts))
        else:
            grid = Table(box=None, show_header=False)
            for name, value in facts.items():
                grid.add_row(name.replace("_", " "), _shown(value))
            view.console.print(grid)
    raise typer.Exit(0 if facts["at_work"] else 1)


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


def _make_keys(private: Path, public: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    private.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    write_atomic(private, content, 0o600)
    shown = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    write_atomic(public, shown + b"\n")


def _is_at_work(found: dict[str, object]) -> bool:
    """Tell whether the node's process lives, speaks, and reaches the coordinator."""
    try:
        os.kill(int(str(found["pid"])), 0)
    except (KeyError, ValueError, OSError):
        return False
    alive, beat = _age(found.get("alive")), _age(found.get("heartbeat"))
    return (
        bool(found.get("online"))
        and alive is not None
        and alive < SILENT_SECONDS
        and beat is not None
        and beat < 2 * SILENT_SECONDS
    )


def _age(moment: object) -> float | None:
    return round(time.time() - float(str(moment)), 1) if moment else None


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(one)}" for key, one in value.items())
    return "no" if value is False else "yes" if value is True else str(value or "-")
