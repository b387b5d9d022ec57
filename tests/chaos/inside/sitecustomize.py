"""What the matrix puts inside every process of a run: SIGUSR1 holds Python's lock for 10 s, and where CHAOS_PROXY
names a socket, what is registered for links to come to is the address of a proxy.
"""

import ctypes
import os
import signal
import socket
import sys

HOG_S = 10


def hog(*_: object) -> None:
    """Sleep in C without letting go of Python's lock."""
    for _second in range(HOG_S):
        ctypes.PyDLL(None).usleep(999_999)


def front(endpoint: str) -> str:
    """Ask the proxy for an address that leads here."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(os.environ["CHAOS_PROXY"])
        asking.sendall(f"{os.environ['ZPIPE_WORKER']} {os.getpid()} {endpoint}\n".encode())
        return asking.makefile().readline().strip()


def put_proxy_in_front() -> None:
    """Let inboxes and channels of acks be reached through the proxy alone."""
    from zpipe.transport import sockets

    bind = sockets.bind_pull

    def bind_pull(*args: object, **options: object) -> tuple[object, list[str]]:
        pull, endpoints = bind(*args, **options)  # type: ignore[arg-type]
        return pull, [front(endpoint) for endpoint in endpoints]

    sockets.bind_pull = bind_pull  # type: ignore[assignment]


if not {"zpipe.processes.forkserver", "zpipe.processes.worker", "zpipe.processes.registry"}.isdisjoint(sys.orig_argv):
    signal.signal(signal.SIGUSR1, hog)
    if os.environ.get("CHAOS_PROXY"):  # a registry has no inbox
        put_proxy_in_front()
