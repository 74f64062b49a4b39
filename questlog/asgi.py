"""The API for an ASGI server (`uvicorn --factory questlog.asgi:app`), and the API process that `serve` starts."""

import socket
import sys

import uvicorn
from starlette.applications import Starlette

from questlog import enter


def app() -> Starlette:
    """The API as the environment's settings have it; raises SettingsError."""
    enter()
    from questlog.app import create_app
    from questlog.log import configure
    from questlog.settings import load

    settings = load()
    configure("api", settings.log_level)
    return create_app(settings)


def main() -> None:
    """Serve the listening socket whose file descriptor is the first argument."""
    config = uvicorn.Config(
        "questlog.asgi:app",
        factory=True,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    uvicorn.Server(config).run([socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
