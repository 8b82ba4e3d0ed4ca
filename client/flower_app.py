"""The component that a bundle names; a site's node runs the same app by itself."""

from __future__ import annotations

from client.client_app import make_client_app
from client.node import connect_worker

app = make_client_app(connect_worker)
