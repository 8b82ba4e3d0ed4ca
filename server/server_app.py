"""The coordinator's Flower ServerApp: hand the grid to whoever plays the rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp


def make_server_app(play: Callable[[Grid, Mapping[str, object]], None]) -> ServerApp:
    """Build the app.

    Parameters
    ----------
    play : `server.rounds.Federation.run` and what goes with it; gets the run-config too
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        play(grid, context.run_config)

    return app
