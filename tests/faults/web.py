"""A process that serves and does nothing else; it prints its port, and its clock (Unix s)."""

from __future__ import annotations

import time

from host import app
from werkzeug.serving import make_server

if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(server.port, time.time(), flush=True)  # noqa: T201
    server.serve_forever()
