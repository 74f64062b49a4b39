"""The ports that are listened on."""

import errno
import socket

from questlog.settings import SettingsError


def listen(host: str, port: int, named: str) -> socket.socket:
    """A socket that listens; raises SettingsError, naming what the port is `named` by, where that cannot be."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(f"port {port} of {host} is taken: choose another with {named}") from None
        raise SettingsError(f"{host} port {port} cannot be listened on: {error.strerror}") from None
