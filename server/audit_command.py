"""Check the coordinator's audit log: ``python -m server.audit_command FOLDER``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.audit import FOLDER, LOG_FILE
from common.audit_compare import report
from common.keys import KeyFileError, public_text, read_key
from server.audit_trail import KEY_FILE

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def verify(
    folder: Annotated[
        Path, typer.Argument(help="of a run: the plan's file without its ending")
    ],
    peer: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="a site's log, which holds what it received from here"
        ),
    ] = None,
) -> None:
    """Tell whether the log of a run was changed. Exits with 1 if it was.

    An end that was cut off, or a log that was written anew, shows only with --peer.
    """
    try:
        key = public_text(read_key(folder.resolve().parent / KEY_FILE))
        said, well = report(folder / FOLDER / LOG_FILE, key, peer)
    except (KeyFileError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    typer.echo("\n".join(said))
    if not well:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
