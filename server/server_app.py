"""The coordinator's Flower ServerApp: hand the grid to whoever plays the rounds."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp


def make_server_app(play: Callable[[Grid], None]) -> ServerApp:
    """Build the app; ``play`` is `server.rounds.Federation.run` and what follows it."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        play(grid)

    return app
