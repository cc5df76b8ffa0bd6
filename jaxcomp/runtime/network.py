"""Check once whether a server is reachable, before clients retry for long."""

from __future__ import annotations

import contextlib
import socket
import urllib.request
from urllib.parse import urlsplit

_WAIT_S = 8.0  # for all addresses of a server


def reachable(url: str) -> bool:
    """Whether a server accepts connections at `url`; True behind a proxy, where only it knows."""
    at = urlsplit(url)
    if urllib.request.getproxies().get(at.scheme):
        return True
    with contextlib.suppress(OSError):
        port = at.port or (80 if at.scheme == "http" else 443)
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(at.hostname, port)}
        for address in found:
            with contextlib.suppress(OSError):
                socket.create_connection((address, port), timeout=_WAIT_S / len(found)).close()
                return True
    return False
