"""The API for an ASGI server (`uvicorn --factory questlog.asgi:app`), and the API process that `serve` starts."""

import asyncio
import socket
import sys

import uvicorn
from starlette.applications import Starlette

from questlog import enter

SECONDS_TO_LET_GO = 2
SECONDS_TO_FINISH = 5
SECONDS_OF_IDLENESS = 75  # longer than proxies keep a connection: who closes it first should be who sends


def app() -> Starlette:
    """The API as the environment's settings have it; raises SettingsError."""
    enter()
    from questlog.app import create_app
    from questlog.log import configure
    from questlog.process import settle_memory
    from questlog.settings import load

    settings = load()
    configure("api", settings.log_level)
    made = create_app(settings)
    settle_memory()
    return made


class Server(uvicorn.Server):
    """uvicorn's, which closes no connection under somebody who is just sending."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer whoever is connected, or connects still, once more and let them go with that; then end."""
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        for _ in range(SECONDS_TO_LET_GO * 5):
            await asyncio.sleep(0.2)
            if not self.server_state.connections:
                break
        await super().shutdown(sockets)


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
        proxy_headers=False,  # the app reads them, as QUESTLOG_TRUSTED_PROXIES says
        server_header=False,
        timeout_keep_alive=SECONDS_OF_IDLENESS,
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )
    Server(config).run([socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
