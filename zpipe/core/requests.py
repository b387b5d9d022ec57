"""What may be said to the registry, checked field by field before anything is believed.

Knows the fields of HELLO and BEAT; refuses to know what follows from them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from zpipe.core.histogram import BUCKETS, Histogram

PROTO = (1, 0)
INC_MAX = 2**64 - 1
NUMBER_MAX = 2**53  # of what is added up: exact as a float, and the sums still travel
TEXT_MAX = 64 * 1024  # characters; of an error's detail
NAME_MAX = 1024
LIST_MAX = 64  # endpoints, counters
SOURCES_MAX = 4096
EDGES_MAX = 4096
TRANSPORTS_MAX = 8
RESOLVED_MAX = 8192
WORKERS_MAX = 4096  # that a stage may be scaled to
TRANSPORT = re.compile("[a-z0-9]{1,16}")
EDGE_COUNTS = ("sent", "sent_bytes", "in_flight", "queued")
STATES = ("joining", "live", "drain")  # a worker only moves to the right

Watermark = tuple[int, int, int]  # position, epoch, the epoch's first position


class Refused(Exception):
    """A request that is answered with ERR."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True)
class SourceNews:
    """How far a worker has come with one of its sources; `position` is what it reads next, if told."""

    watermark: Watermark
    complete: bool
    position: int | None


@dataclass(frozen=True)
class EdgeNews:
    """What a worker tells of one of its edges: of one that it sends along, all but `queued`, which its reader tells.

    `latency` is from sending until the reader is heard to have consumed it, of some items.
    """

    sent: int = 0
    sent_bytes: int = 0
    in_flight: int = 0
    queued: int = 0
    transports: tuple[str, ...] = ()  # of its links
    latency: Histogram = field(default_factory=Histogram)

    def __add__(self, other: EdgeNews) -> EdgeNews:
        return EdgeNews(
            self.sent + other.sent, self.sent_bytes + other.sent_bytes, self.in_flight + other.in_flight,
            self.queued + other.queued, tuple(sorted({*self.transports, *other.transports})),
            self.latency + other.latency,
        )  # fmt: skip

    @property
    def of_the_gone(self) -> EdgeNews:
        """Return what still counts when the life that told it is over."""
        return EdgeNews(self.sent, self.sent_bytes, latency=self.latency)


@dataclass(frozen=True)
class Beat:
    """The changing part of a worker's news."""

    state: str
    inbox: tuple[str, ...]
    acks: tuple[str, ...]
    counters: dict[str, int | float]
    running: dict[str, Any] | None
    sources: dict[int, SourceNews]
    calls: Histogram = field(default_factory=Histogram)  # how long calls took
    resolved: tuple[str, ...] = ()  # paths of suspects that turned out harmless, or were given up
    edges: dict[int, EdgeNews] = field(default_factory=dict)
    waits: str = ""  # what for, in one line: room on a disk
    listen: dict[str, str] = field(default_factory=dict)  # of a gate: its endpoints by kind


@dataclass(frozen=True)
class Hello:
    """Who a worker is; `worker` and `beat` are there when a life that was known before comes back."""

    inc: int
    stage: str
    slot: int | None
    pid: int
    host: str
    supervisor: str | None
    replaces: int | None
    worker: str | None
    beat: Beat | None


def read_hello(message: Mapping[str, Any]) -> Hello:
    """Read a HELLO.  Raises Refused, for another version first: nothing else of it may be understood."""
    proto = message.get("proto")
    if not isinstance(proto, list | tuple) or len(proto) != 2 or not all(_is_count(part) for part in proto):
        raise Refused(400, f"HELLO: proto is {proto!r:.40}, not [major, minor]")
    if proto[0] != PROTO[0]:
        raise Refused(
            426,
            f"the registry speaks protocol {PROTO[0]}.{PROTO[1]} and the worker {proto[0]}.{proto[1]}: "
            "use the same version of zpipe for both",
        )
    worker = None if message.get("worker") is None else text(message, "worker")
    return Hello(
        inc=inc(message),
        stage=text(message, "stage"),
        slot=None if message.get("slot") is None else count(message, "slot"),
        pid=count(message, "pid"),
        host=text(message, "host"),
        supervisor=None if message.get("supervisor") is None else text(message, "supervisor"),
        replaces=None if message.get("replaces") is None else inc(message, "replaces"),
        worker=worker,
        beat=read_beat(message) if worker is not None and "state" in message else None,
    )


def read_beat(message: Mapping[str, Any]) -> Beat:
    """Read the changing part of a BEAT.  Raises Refused."""
    state = message.get("state")
    if state not in STATES:
        raise Refused(400, f"state is {state!r:.40}, not one of {', '.join(STATES)}")
    return Beat(
        state=state,
        inbox=endpoints(message, "inbox"),
        acks=endpoints(message, "acks"),
        counters=read_counters(message),
        running=_running(message),
        sources=_sources(message),
        calls=_histogram(message, "calls"),
        resolved=_resolved(message),
        edges=_edges(message),
        waits=text(message, "waits") if message.get("waits") is not None else "",
        listen=_listen(message),
    )


def read_counters(message: Mapping[str, Any]) -> dict[str, int | float]:
    """Read a worker's counters, none when there are none.  Raises Refused."""
    found = message.get("counters") or {}
    if not isinstance(found, dict) or len(found) > LIST_MAX:
        raise Refused(400, f"counters are no map of at most {LIST_MAX} numbers")
    for name, number in found.items():
        if not isinstance(name, str) or len(name) > NAME_MAX or not _is_number(number):
            raise Refused(400, f"counter {name!r:.40} is {number!r:.40}, not a number")
    return dict(found)


def read_reaches(message: Mapping[str, Any]) -> dict[int, int]:
    """Read how far the partitions of a dead source had got, by number.  Raises Refused."""
    found = message.get("reach") or {}
    if not isinstance(found, dict) or len(found) > SOURCES_MAX or not all(_is_count(n) for n in found.values()):
        raise Refused(400, "reach is no map of positions by source number")
    return {_key("source", key): reach for key, reach in found.items()}


def inc(message: Mapping[str, Any], field: str = "inc") -> int:
    """Read the id of a life.  Raises Refused."""
    value = message.get(field)
    if not _is_count(value) or value == 0:
        raise Refused(400, f"{field} is {value!r:.40}, not a number from 1 to 2**64 - 1")
    return value


def count(message: Mapping[str, Any], field: str) -> int:
    """Read a number that is not negative.  Raises Refused."""
    value = message.get(field)
    if not _is_count(value):
        raise Refused(400, f"{field} is {value!r:.40}, not a number from 0 up")
    return value


def text(message: Mapping[str, Any], field: str, *, longest: int = NAME_MAX) -> str:
    """Read a text, cut to `longest` characters.  Raises Refused."""
    value = message.get(field)
    if not isinstance(value, str):
        raise Refused(400, f"{field} is {value!r:.40}, not a text")
    return value[:longest]


def endpoints(message: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """Read a list of endpoints, empty when there is none.  Raises Refused."""
    value = message.get(field)
    if value is None:
        return ()
    if (
        not isinstance(value, list | tuple)
        or len(value) > LIST_MAX
        or not all(isinstance(endpoint, str) and len(endpoint) <= NAME_MAX for endpoint in value)
    ):
        raise Refused(400, f"{field} is no list of endpoints")
    return tuple(value)


def _listen(message: Mapping[str, Any]) -> dict[str, str]:
    found = message.get("listen") or {}
    if not isinstance(found, dict) or len(found) > LIST_MAX:
        raise Refused(400, "listen is no map of endpoints")
    if not all(isinstance(x, str) and len(x) <= NAME_MAX for pair in found.items() for x in pair):
        raise Refused(400, "listen is no map of endpoints")
    return dict(found)


def _resolved(message: Mapping[str, Any]) -> tuple[str, ...]:
    found = message.get("resolved") or ()
    if not isinstance(found, list | tuple) or len(found) > RESOLVED_MAX or not all(isinstance(x, str) for x in found):
        raise Refused(400, f"resolved is no list of at most {RESOLVED_MAX} paths")
    return tuple(found)


def _running(message: Mapping[str, Any]) -> dict[str, Any] | None:
    value = message.get("running")
    if value is None:
        return None
    if not isinstance(value, dict) or not _is_number(value.get("age_s")):
        raise Refused(400, "running is no map of path and age_s")
    return {"path": text(value, "path"), "age_s": value["age_s"]}


def _edges(message: Mapping[str, Any]) -> dict[int, EdgeNews]:
    found = message.get("edges") or {}
    if not isinstance(found, dict) or len(found) > EDGES_MAX:
        raise Refused(400, f"edges is no map of at most {EDGES_MAX} by edge number")
    return {_key("edge", key): _edge_news(key, value) for key, value in found.items()}


def _edge_news(key: object, value: object) -> EdgeNews:
    if not isinstance(value, dict):
        raise Refused(400, f"edge {key!r:.40} has {value!r:.80}, not a map")
    counts = {name: value[name] for name in EDGE_COUNTS if name in value}
    if not all(_is_count(number, NUMBER_MAX) for number in counts.values()):
        raise Refused(400, f"edge {key!r:.40} has {counts!r:.80}, not counts")
    return EdgeNews(**counts, transports=_transports(key, value), latency=_histogram(value, "latency"))


def _transports(key: object, value: Mapping[str, Any]) -> tuple[str, ...]:
    found = value.get("transports") or ()
    if (
        not isinstance(found, list | tuple)
        or len(found) > TRANSPORTS_MAX
        or not all(isinstance(name, str) and TRANSPORT.fullmatch(name) for name in found)
    ):
        raise Refused(400, f"edge {key!r:.40}: transports is no list of at most {TRANSPORTS_MAX} short names")
    return tuple(found)


def _histogram(message: Mapping[str, Any], field: str) -> Histogram:
    found = message.get(field) or {}
    if not isinstance(found, dict) or len(found) > BUCKETS or not all(_is_count(n, NUMBER_MAX) for n in found.values()):
        raise Refused(400, f"{field} is no map of counts by bucket")
    times = Histogram({_key("bucket", key): n for key, n in found.items()})
    if any(key >= BUCKETS for key in times):
        raise Refused(400, f"{field} has a bucket above {BUCKETS - 1}")
    return times


def _sources(message: Mapping[str, Any]) -> dict[int, SourceNews]:
    found = message.get("sources") or {}
    if not isinstance(found, dict) or len(found) > SOURCES_MAX:
        raise Refused(400, "sources is no map by source number")
    return {_key("source", key): _source_news(key, value) for key, value in found.items()}


def _key(what: str, key: object) -> int:
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10:
        return int(key)  # some languages' maps have text keys only
    if _is_count(key):
        return key
    raise Refused(400, f"{what} {key!r:.40} is no {what} number")


def _source_news(key: object, value: object) -> SourceNews:
    if (
        not isinstance(value, list | tuple)
        or len(value) not in (4, 5)
        or not all(_is_count(part) for part in (*value[:3], *value[4:]))
        or not isinstance(value[3], bool)
    ):
        raise Refused(400, f"source {key!r:.40} has {value!r:.80}, not [watermark, epoch, epoch_start, complete]")
    watermark = (int(value[0]), int(value[1]), int(value[2]))
    return SourceNews(watermark, value[3], int(value[4]) if len(value) == 5 else None)


def _is_count(value: object, most: int = INC_MAX) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) <= NUMBER_MAX
