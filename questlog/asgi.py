"""The API for an ASGI server (`uvicorn --factory questlog.asgi:app`), and the API process that `serve` starts."""

import asyncio
import os
import socket
import sys
from typing import cast

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from questlog import enter
from questlog.process import take_short_turns

SECONDS_FOR_HEADERS = 30
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


class Protocol(HttpToolsProtocol):
    """uvicorn's, which waits for the headers of a request only so long."""

    _patience: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._patience = self.loop.call_later(SECONDS_FOR_HEADERS, transport.close)

    def on_message_begin(self) -> None:
        """Wait for the headers of a request that has begun."""
        super().on_message_begin()
        self._patience.cancel()
        self._patience = self.loop.call_later(SECONDS_FOR_HEADERS, self.transport.close)

    def on_headers_complete(self) -> None:
        """Go on: the body has a time limit of its own."""
        self._patience.cancel()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._patience.cancel()
        super().connection_lost(exc)


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
    take_short_turns(os.getpid())
    config = uvicorn.Config(
        "questlog.asgi:app",
        factory=True,
        http=Protocol,
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
