"""``mammo-client --site NAME VERB``: what a hospital types.

Settings are those of one YAML file per site, see `client.site`. Each verb is a function
of `client.commands`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.commands import audit, data, withdraw
from client.commands.shared import Chosen

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,  # they print the values of variables
    help="""A hospital's part in a federation: its images stay here.

    Settings are in DIR/NAME.yaml; configs/examples/hctp.yaml is one to copy and adapt.
    """,
)
_audit = typer.Typer(no_args_is_help=True, help="Prove what this installation does.")


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
        verbs = [verb.name for verb in app.registered_commands]
        verbs += [group.name for group in app.registered_groups]
        names = ", ".join(map(str, verbs))
        typer.echo(f"Starting the node is not built yet; verbs are: {names}.", err=True)
        raise typer.Exit(2)


app.command("check")(data.check)
app.command("prepare")(data.prepare)
# Else the parser would repeat a part of the patient's name in its errors.
_WORDS = {"ignore_unknown_options": True, "allow_extra_args": True}
app.command("withdraw", context_settings=_WORDS)(withdraw.withdraw_patient)
app.add_typer(_audit, name="audit")
_audit.command("phi")(audit.phi)


def main() -> None:
    """Run the command."""
    app()


if __name__ == "__main__":
    main()
