"""Every socket of zpipe and its options; the only module that imports zmq.

Knows libzmq and the traps that the options avoid; refuses to know what a message means.
A socket belongs to the thread that made it, or to the one that holds the lock by which it is handed over.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

import zmq
from zmq.utils import z85

from zpipe.transport.keys import Keys
from zpipe.values.errors import ConfigError, RegistryError

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"
Socket: TypeAlias = "zmq.Socket[bytes]"
Poller = zmq.Poller
Buffer: TypeAlias = bytes | memoryview
IN, OUT = zmq.POLLIN, zmq.POLLOUT

TRANSPORTS = ("auto", "ipc", "tcp")
OutsideKind: TypeAlias = Literal["call", "push", "pull"]
OUTSIDE_HWM = 1000
KEEPALIVE_S = 10  # a host outside that was switched off is found out by the system after about three of these
SOCKETS_MAX = 4095  # of one context; libzmq's own default is 1023
SOCKET_FILES = 4  # that it takes to open one, at most
NO_DESCRIPTORS = ": raise the limit of open files, `ulimit -n`"
IPC_PATH_BYTES = 107  # sun_path, less the NUL
FRAME_BYTES_MAX = 1 << 30  # of a data frame
ACK_BYTES_MAX = 1 << 20  # of an ack frame
ACKS_HWM = 10_000
REQUEST_BYTES_MAX = 4 << 20  # to the registry
REPLY_BYTES_MAX = 4 << 20  # from it: a WELCOME carries the plan
DIALOGUE_HWM = 1000
SEND_HWM = 32768 + 64  # a link's largest window, and room for OPEN, SYNC and CLOSE
HANDSHAKE_MS = 5000
GUARDED_BACKLOG = 4096  # that wait to be let in, so that many who never say who they are do not crowd out the others
LINK_HEARTBEAT_MS, LINK_TIMEOUT_MS, CONNECT_TIMEOUT_MS = 300, 1000, 2000
DIALOGUE_HEARTBEAT_MS, DIALOGUE_TIMEOUT_MS = 200, 800
OUTSIDE_HEARTBEAT_MS, OUTSIDE_TIMEOUT_MS = 2000, 6000
RECONNECT_MS, RECONNECT_MAX_MS = 20, 500
ADMISSION = "inproc://zeromq.zap.01"  # where libzmq asks whom to admit: RFC 27
ADMISSION_HWM = 1000
DENIED = 400  # by the one asked, in the event of a handshake that failed for it


def context() -> Context:
    """Make a context whose sockets never hold up its end."""
    ctx: Context = zmq.Context()
    ctx.max_sockets = SOCKETS_MAX
    ctx.linger = 0
    return ctx


def bind_pull(
    ctx: Context,
    *,
    host: str,
    sockets_dir: str | os.PathLike[str] | None,
    transport: str,
    hwm: int,
    max_frame: int = FRAME_BYTES_MAX,
    port: int = 0,
    keys: Keys | None = None,
) -> tuple[Socket, list[str]]:
    """Bind an inbox or a channel of acks, and return it with its endpoints, ipc first.

    `host` is an IP address that peers can reach; `port` 0 is any free one.  `hwm` must be above twice the messages
    that senders may have under way: a full inbox breaks the heartbeats of living links.  With `keys` only those come
    in whom an Admission of this context admits.  Raises ConfigError.
    """
    if transport not in TRANSPORTS:
        raise ConfigError(f"transport {transport!r} is unknown: choose one of {', '.join(TRANSPORTS)}")
    pull = _new(ctx, zmq.PULL)
    pull.setsockopt(zmq.RCVHWM, hwm)
    pull.setsockopt(zmq.MAXMSGSIZE, max_frame)
    pull.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    pull.setsockopt(zmq.LINGER, 0)
    _guard(pull, keys)
    wanted = []
    if transport != "tcp" and (sockets_dir is not None or transport == "ipc"):
        wanted.append(ipc_name(sockets_dir))
    if transport != "ipc":
        pull.setsockopt(zmq.IPV6, ":" in host)
        wanted.append(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
    try:
        return pull, [_bind(pull, endpoint) for endpoint in wanted]
    except BaseException:
        close(pull)
        raise


def bind_acks(
    ctx: Context, *, host: str, sockets_dir: str | os.PathLike[str] | None, transport: str, port: int = 0,
    keys: Keys | None = None,
) -> tuple[Socket, list[str]]:  # fmt: skip
    """Bind the channel on which a worker's receivers acknowledge; as `bind_pull`."""
    return bind_pull(
        ctx, host=host, sockets_dir=sockets_dir, transport=transport, hwm=ACKS_HWM, max_frame=ACK_BYTES_MAX,
        port=port, keys=keys,
    )  # fmt: skip


def dial_push(
    ctx: Context, endpoints: Sequence[str], *, hwm: int = SEND_HWM, keys: Keys | None = None, peer: str = ""
) -> Socket:
    """Open one life of a link: one attempt to connect, over ipc when the peer's file is here, else over tcp.

    With `keys` nobody but who has the secret of the public key `peer` takes it over tcp.  Until it is up, `send`
    returns False, and afterwards False means that it is dead.  Raises ConfigError when no endpoint can be reached
    from here.
    """
    endpoint = choose(endpoints)
    if keys is not None and endpoint.startswith("tcp://") and not peer:
        raise ConfigError(f"the roster has no key for {endpoint}: it comes with the next")
    _check_is_address(endpoint)
    push = _new(ctx, zmq.PUSH)
    # One attempt, nothing before it is up: libzmq would hand a dead peer's messages to the next on its port.
    push.setsockopt(zmq.RECONNECT_IVL, -1)
    push.setsockopt(zmq.IMMEDIATE, 1)
    push.setsockopt(zmq.SNDHWM, hwm)
    push.setsockopt(zmq.LINGER, 0)
    push.setsockopt(zmq.HEARTBEAT_IVL, LINK_HEARTBEAT_MS)
    push.setsockopt(zmq.HEARTBEAT_TIMEOUT, LINK_TIMEOUT_MS)
    push.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS)
    push.setsockopt(zmq.IPV6, endpoint.startswith("tcp://["))
    if endpoint.startswith("tcp://"):
        _show(push, keys, peer)
    try:
        push.connect(endpoint)
    except zmq.ZMQError as error:
        close(push)
        raise ConfigError(f"cannot dial {endpoint}: {error.strerror}") from error
    return push


def _new(ctx: Context, kind: int) -> Socket:
    try:
        return ctx.socket(kind)
    except zmq.ZMQError as error:
        raise ConfigError(f"cannot have one more socket: {error.strerror}{NO_DESCRIPTORS}") from error


def choose(endpoints: Sequence[str]) -> str:
    """Return the endpoint to dial.  Names of ipc files are random: one that exists here is the peer's."""
    tcp = [endpoint for endpoint in endpoints if endpoint.startswith("tcp://")]
    for endpoint in endpoints:
        if endpoint.startswith("ipc://") and (not tcp or os.path.exists(endpoint[6:])):
            return endpoint
    if not tcp:
        raise ConfigError(f"none of {list(endpoints)} can be dialled from here: use transport 'auto' or 'tcp'")
    return tcp[0]


def _check_is_address(endpoint: str) -> None:
    """Raise ConfigError for a name: to resolve it would hold up every socket of the context."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not endpoint.startswith("tcp://"):
        return
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError, ValueError):
            socket.inet_pton(family, host.strip("[]"))
            if port.isascii() and port.isdigit():
                return
    raise ConfigError(f"{endpoint!r:.80} is not dialled: a worker's endpoint is tcp://IP:PORT")


def trouble(endpoints: Sequence[str]) -> str:
    """Say what is seen to be wrong with a peer that cannot be dialled, and what to do."""
    gone = [endpoint for endpoint in endpoints if endpoint.startswith("ipc://") and not os.path.exists(endpoint[6:])]
    if gone and len(gone) == len(endpoints):
        return f"the file of {gone[0]} is gone: keep cleaners away from it, or use transport 'auto', and run again"
    if not _has_descriptors():
        return f"for no more files may be open here{NO_DESCRIPTORS}"
    return f"nothing answers at {', '.join(endpoints) or 'an address it has not named'}: see the log of that worker"


def _has_descriptors() -> bool:
    """Tell whether this process may open as many files as a socket takes."""
    copies: list[int] = []
    try:
        copies.extend(os.dup(0) for _ in range(SOCKET_FILES))
    except OSError:
        return False
    finally:
        for copy in copies:
            os.close(copy)
    return True


def bind_answers(ctx: Context, endpoint: str) -> Socket:
    """Bind what answers one request after another, of whoever reaches that ipc file."""
    sock = ctx.socket(zmq.REP)
    sock.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
    sock.bind(endpoint)
    return sock


def bind_outside(ctx: Context, kind: OutsideKind, endpoint: str, keys: Keys | None) -> tuple[Socket, str]:
    """Bind an address of a gate, and return it with the endpoint bound.  Raises ConfigError.

    At "call" each is answered, at "push" work goes out in turn, at "pull" whatever comes is taken.
    """
    sock = _new(ctx, {"call": zmq.ROUTER, "push": zmq.PUSH, "pull": zmq.PULL}[kind])
    if kind == "call":
        sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
        sock.setsockopt(zmq.ROUTER_HANDOVER, 1)
    _set_outside(sock, endpoint)
    sock.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    _guard(sock, keys)
    try:
        return sock, _bind(sock, endpoint)
    except ConfigError:
        close(sock)
        raise


def dial_outside(ctx: Context, kind: OutsideKind, endpoint: str, keys: Keys | None, identity: bytes = b"") -> Socket:
    """Connect to an address of a gate, from where libzmq connects again by itself.  Raises ConfigError."""
    sock = _new(ctx, {"call": zmq.DEALER, "push": zmq.PULL, "pull": zmq.PUSH}[kind])
    if identity:
        sock.setsockopt(zmq.ROUTING_ID, identity)
    _set_outside(sock, endpoint)
    sock.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    sock.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    sock.setsockopt(zmq.HEARTBEAT_IVL, OUTSIDE_HEARTBEAT_MS)
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, OUTSIDE_TIMEOUT_MS)
    if keys is not None:
        _show(sock, keys, keys.registry)
    try:
        sock.connect(endpoint)
    except zmq.ZMQError as error:
        close(sock)
        raise ConfigError(f"cannot dial {endpoint}: {error.strerror}: write tcp://HOST:PORT") from error
    return sock


def _set_outside(sock: Socket, endpoint: str) -> None:
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.SNDHWM, OUTSIDE_HWM)
    sock.setsockopt(zmq.RCVHWM, OUTSIDE_HWM)
    sock.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
    sock.setsockopt(zmq.IPV6, endpoint.startswith("tcp://["))
    sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
    sock.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
    sock.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_S)
    sock.setsockopt(zmq.TCP_KEEPALIVE_CNT, 2)


def receive_outside(sock: Socket) -> tuple[list[memoryview], str] | None:
    """Return the frames of the next message and the address of the host that it comes from; None when there is none."""
    try:
        frames = sock.recv_multipart(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None
    try:
        address = str(frames[-1].get("Peer-Address"))
    except zmq.ZMQError:
        address = "this host"  # ipc
    return [frame.buffer for frame in frames], address


def asker(frames: list[memoryview]) -> tuple[tuple[bytes, ...], list[memoryview]]:
    """Return what stands in front of an answer to a message at "call", and the message: a REQ has an empty frame more.

    That one begins with an empty frame by itself cannot be: it would be no msgpack.
    """
    start = 2 if len(frames) > 2 and not len(frames[1]) else 1
    return tuple(bytes(frame) for frame in frames[:start]), frames[start:] or [memoryview(b"")]


def send(push: Socket, frames: Sequence[Buffer]) -> bool:
    """Send without waiting and return whether it was taken.

    Frames over 64 KiB are not copied and must stay as they are.
    """
    try:
        if len(frames) == 1:
            push.send(frames[0], zmq.NOBLOCK, copy=False)
        else:
            push.send_multipart(frames, zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return False
    return True


def receive(pull: Socket) -> list[memoryview] | None:
    """Return the frames of the next message, None when there is none."""
    try:
        frame = pull.recv(zmq.NOBLOCK, copy=False, track=False)
        frames = [frame.buffer]
        while frame.more:
            frame = pull.recv(0, copy=False, track=False)
            frames.append(frame.buffer)
    except zmq.Again:
        return None
    return frames


def descriptor(socket: Socket) -> int:
    """Return what becomes readable when there may be something new for a socket."""
    return int(socket.getsockopt(zmq.FD))


def has_more(pull: Socket) -> bool:
    """Tell whether a message waits: half the price of finding out by an exception that none does."""
    return bool(int(pull.getsockopt(zmq.EVENTS)) & zmq.POLLIN)


def has_room(push: Socket) -> bool:
    """Tell whether what is sent now would be taken."""
    return bool(int(push.getsockopt(zmq.EVENTS)) & zmq.POLLOUT)


def receive_of(router: Socket) -> tuple[list[memoryview], str] | None:
    """Return the frames of the next message and the key of who sent it, "" without keys; None when there is none."""
    try:
        frames = router.recv_multipart(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None
    return [frame.buffer for frame in frames], _key_of(frames[-1])


def _key_of(frame: zmq.Frame) -> str:
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""  # nobody was asked to admit it


def router(ctx: Context, endpoint: str, keys: Keys | None = None) -> tuple[Socket, str]:
    """Bind the registry's side of the dialogue; return it with the endpoint bound.  Raises RegistryError."""
    check_endpoint(endpoint)
    sock = ctx.socket(zmq.ROUTER)
    sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
    sock.setsockopt(zmq.ROUTER_HANDOVER, 1)
    sock.setsockopt(zmq.MAXMSGSIZE, REQUEST_BYTES_MAX)
    sock.setsockopt(zmq.IPV6, endpoint.startswith("tcp://["))
    _set_dialogue(sock)
    _guard(sock, keys)
    try:
        return sock, _bind(sock, endpoint)
    except ConfigError as error:
        close(sock)
        raise RegistryError(str(error)) from error


def dealer(
    ctx: Context, endpoint: str, identity: bytes | None = None, keys: Keys | None = None
) -> tuple[Socket, Socket]:  # fmt: skip
    """Connect a client's side of the dialogue, and return what `watch` does beside it: it misses no news.

    Raises RegistryError when the endpoint is no address.
    """
    check_endpoint(endpoint)
    sock = ctx.socket(zmq.DEALER)
    if identity is not None:
        sock.setsockopt(zmq.ROUTING_ID, identity)
    # Not IMMEDIATE: it would drop what a registry said last before it left.
    sock.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    sock.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    sock.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS)
    sock.setsockopt(zmq.MAXMSGSIZE, REPLY_BYTES_MAX)
    sock.setsockopt(zmq.IPV6, endpoint.startswith("tcp://["))
    _set_dialogue(sock)
    if keys is not None:
        _show(sock, keys, keys.registry)
    monitor = watch(sock)
    try:
        sock.connect(endpoint)
    except zmq.ZMQError as error:
        unwatch(sock)
        close(sock, monitor)
        raise RegistryError(f"cannot dial the registry at {endpoint}: {error.strerror}") from error
    return sock, monitor


def check_endpoint(endpoint: str) -> None:
    """Raise RegistryError unless the text looks like the address of a registry."""
    scheme, _, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    is_tcp = scheme == "tcp" and host and port.isascii() and port.isdigit() and int(port) < 65536
    if is_tcp or (scheme == "ipc" and rest):
        return
    raise RegistryError(f"{endpoint!r} is no registry's address: write tcp://HOST:PORT, e.g. tcp://127.0.0.1:5570")


def ask(sock: Socket, payload: bytes) -> bool:
    """Send one message of the dialogue without waiting; False when too many wait for their registry."""
    return send(sock, (payload,))


def answer(sock: Socket, peer: bytes, payload: bytes) -> bool:
    """Send from the registry without waiting; False when the peer has no connection.

    What a connected peer leaves unread is dropped once too much of it waits.
    """
    try:
        sock.send_multipart((peer, payload), zmq.NOBLOCK)
    except zmq.Again:
        return True
    except zmq.ZMQError as error:
        if error.errno == errno.EHOSTUNREACH:
            return False
        raise
    return True


def watch_outside(sock: Socket) -> Socket:
    """Return a socket that tells of connections to a bound one; poll it and call `visitor`."""
    return sock.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)


def visitor(monitor: Socket) -> tuple[int, bool] | None:
    """Return the number of the next connection that has come, or has gone, and which of the two; None without news.

    Of one that is refused for its kind of socket nothing else is told, so those that are being made count too.
    """
    try:
        event = monitor.recv_multipart(zmq.NOBLOCK)[0]
    except zmq.Again:
        return None
    number, value = int.from_bytes(event[:2], sys.byteorder), int.from_bytes(event[2:6], sys.byteorder)
    return value, number == zmq.EVENT_ACCEPTED


def watch(sock: Socket) -> Socket:
    """Return a socket that tells when connections come and go; poll it and call `watched`."""
    return sock.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_SUCCEEDED
        | zmq.EVENT_DISCONNECTED
        | zmq.EVENT_CLOSED
        | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    )


News: TypeAlias = Literal["up", "down", "absent", "unshaken", "denied"]


def watched(monitor: Socket) -> News | None:
    """Return the next news of a watched connection, None when there is none; call until then, or all sockets freeze.

    "absent": nobody answers there.  "unshaken": who answered there speaks with other keys, or with none, or is going.
    "denied": it does not admit our key, and libzmq never dials it again.
    """
    try:
        # Two frames, the event's number in the first two bytes, its value in the next four (zmq_socket_monitor(3)):
        # what pyzmq's own function reads, but importing that brings asyncio along, a tenth of a worker's start.
        event = monitor.recv_multipart(zmq.NOBLOCK)[0]
    except zmq.Again:
        return None
    number, value = int.from_bytes(event[:2], sys.byteorder), int.from_bytes(event[2:6], sys.byteorder)
    if number == zmq.EVENT_HANDSHAKE_SUCCEEDED:
        return "up"
    if number == zmq.EVENT_DISCONNECTED:
        return "down"
    if number == zmq.EVENT_CLOSED:
        return "absent"
    return "denied" if number == zmq.EVENT_HANDSHAKE_FAILED_AUTH and value == DENIED else "unshaken"


def unwatch(sock: Socket) -> None:
    """Stop watching; before the socket is closed."""
    sock.disable_monitor()


def make_pair() -> tuple[str, str]:
    """Make a public key and its secret."""
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def key_text(key: bytes) -> str:
    """Return a key of 32 bytes as it is written in files."""
    return z85.encode(key).decode()


def bind_admission(ctx: Context) -> Socket:
    """Return the socket at which libzmq asks, for each who knocks at a guarded socket, whether to let it in."""
    sock = ctx.socket(zmq.ROUTER)
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.SNDHWM, ADMISSION_HWM)
    sock.setsockopt(zmq.RCVHWM, ADMISSION_HWM)
    try:
        sock.bind(ADMISSION)
    except zmq.ZMQError:
        close(sock)
        raise
    return sock


def reply(sock: Socket, frames: Sequence[Buffer]) -> bool:
    """Answer one of a ROUTER's peers, its identity first; False when it is gone.  Copies as `send` does."""
    try:
        sock.send_multipart(frames, zmq.NOBLOCK, copy=False)
    except zmq.ZMQError:
        return False
    return True


def close(*sockets: Socket | None, linger_ms: int = 0) -> None:
    """Close sockets, dropping what they have not sent after `linger_ms`."""
    for sock in sockets:
        if sock is not None and not sock.closed:
            sock.close(linger_ms)


def end(ctx: Context) -> None:
    """Close what is open in a context and end it without waiting for anyone."""
    ctx.destroy(linger=0)


def _set_dialogue(sock: Socket) -> None:
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.SNDHWM, DIALOGUE_HWM)
    sock.setsockopt(zmq.RCVHWM, DIALOGUE_HWM)
    sock.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    sock.setsockopt(zmq.HEARTBEAT_IVL, DIALOGUE_HEARTBEAT_MS)
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, DIALOGUE_TIMEOUT_MS)


def _guard(sock: Socket, keys: Keys | None) -> None:
    """Let nobody in but whom the context's Admission admits; where none answers, nobody at all."""
    if keys is not None:
        sock.setsockopt(zmq.BACKLOG, GUARDED_BACKLOG)
        sock.setsockopt(zmq.CURVE_SERVER, 1)
        sock.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
        sock.setsockopt(zmq.ZAP_DOMAIN, b"zpipe")
        sock.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def _show(sock: Socket, keys: Keys | None, peer: str) -> None:
    """Dial as the owner of `keys`, and nobody but the owner of `peer`."""
    if keys is not None:
        sock.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
        sock.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
        sock.setsockopt(zmq.CURVE_SERVERKEY, peer.encode())


def ipc_name(folder: str | os.PathLike[str] | None) -> str:
    """Return an endpoint in a folder that is ours alone.  Raises ConfigError."""
    if folder is None:
        raise ConfigError("transport 'ipc' needs a directory for its sockets: use 'tcp' or name a directory")
    path = Path(folder).absolute() / secrets.token_hex(8)
    if len(os.fsencode(path)) > IPC_PATH_BYTES:
        raise ConfigError(f"{path} is over {IPC_PATH_BYTES} bytes: use a shorter directory or transport 'tcp'")
    if Path(folder).is_dir():  # else binding says what is wrong
        found = os.stat(folder)
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise ConfigError(f"{folder} is open to others: make it yours alone, chmod 700, or use transport 'tcp'")
    return f"ipc://{path}"


def _bind(sock: Socket, endpoint: str) -> str:
    try:
        sock.bind(endpoint)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"{endpoint} is in use: stop what holds it, or bind another port (0: any free one)"
            ) from error
        raise ConfigError(f"cannot bind {endpoint}: {error.strerror}: use an address of this host") from error
    return sock.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
