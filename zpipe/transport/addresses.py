"""Addresses: which are of this machine alone, and from which of its own this machine reaches another."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress

from zpipe.values.errors import ConfigError, RegistryError

LOOPBACK = "127.0.0.1"
NAMES = ("localhost", "lo")
DISCARD = 9  # a port to aim at: nothing is sent


def host_of(endpoint: str) -> str:
    """Return the host of tcp://HOST:PORT, LOOPBACK of any other endpoint."""
    scheme, _, rest = endpoint.partition("://")
    return rest.rpartition(":")[0].strip("[]") if scheme == "tcp" else LOOPBACK


def is_loopback(host: str) -> bool:
    """Tell whether a host is reached from this machine alone."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host in NAMES


def check_bindable(host: str) -> None:
    """Raise ConfigError for an address that stands for all of this host's: it is none that others can be told."""
    if host in ("*", "0.0.0.0", "::"):
        raise ConfigError(
            f"{host} stands for every address of this host: bind one of them, e.g. tcp://10.0.0.1:5570, or an "
            "interface, e.g. tcp://eth0:5570"
        )


def towards(endpoint: str) -> str:
    """Return the address of this host by which it reaches an endpoint.  Raises RegistryError."""
    host = host_of(endpoint)
    if is_loopback(host):
        return LOOPBACK
    try:
        family, _, _, _, address = socket.getaddrinfo(host, DISCARD, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise RegistryError(f"cannot reach {endpoint}: {error.strerror or error}: check the address") from error
