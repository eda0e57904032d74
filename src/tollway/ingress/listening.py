"""The API's own socket, bound before anything else starts; apart from the server, so that who only looks loads no
framework."""

import socket

from tollway.domain.errors import ConfigError


def listen(host: str, port: int) -> socket.socket:
    """Bind, before anything else starts; port 0 is any free one. Raises ConfigError when it cannot be had."""
    listener: socket.socket | None = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        if listener is not None:
            listener.close()
        remedy = f"cannot listen on {host}: {error.strerror}; choose another with --port or server.port"
        raise ConfigError("server.port", port, remedy) from error
    listener.setblocking(False)
    return listener
