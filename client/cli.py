"""``mammo-client --site NAME VERB``: what a hospital types.

Settings are those of one YAML file per site, see `client.site`. Each verb is a function
of `client.commands`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.commands import (
    audit,
    data,
    federation,
    predict,
    start,
    status,
    withdraw,
)
from client.commands.shared import Chosen

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,  # they print the values of variables
    help="""A hospital's part in a federation: its images stay here.

    Without a verb it starts the site's node. Settings are in DIR/site/NAME.yaml, what
    the hospital allows in DIR/policy.yaml; `init` makes settings to adapt, and keys.
    """,
)
_audit = typer.Typer(
    no_args_is_help=True, help="Prove what this installation does, and did."
)


@app.callback(invoke_without_command=True)
def choose(
    context: typer.Context,
    site: Annotated[str, typer.Option(metavar="NAME", help="which site this is")] = "",
    config_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="folder of the settings; default: mammofed in the user's own",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Keep which site the verb is for."""
    context.obj = Chosen(site, config_dir or Path(typer.get_app_dir("mammofed")))
    if context.invoked_subcommand is None:
        start.start(context)


app.command("init")(federation.init)
app.command("approve")(federation.approve)
app.command("status")(status.status)
app.command("pause")(federation.pause)
app.command("resume")(federation.resume)
app.command("leave")(federation.leave)
app.command("run-node", hidden=True)(start.run_node)
app.command("run-worker", hidden=True)(start.run_worker)
app.command("run-rehearsal", hidden=True)(start.run_rehearsal)
app.command("check")(data.check)
app.command("prepare")(data.prepare)
app.command("predict")(predict.predict)
# Else the parser would repeat a part of the patient's name in its errors.
_WORDS = {"ignore_unknown_options": True, "allow_extra_args": True}
app.command("withdraw", context_settings=_WORDS)(withdraw.withdraw_patient)
app.add_typer(_audit, name="audit")
_audit.command("phi")(audit.phi)
_audit.command("egress")(audit.egress)
_audit.command("verify")(audit.verify)


def main() -> None:
    """Run the command."""
    app()


if __name__ == "__main__":
    main()
