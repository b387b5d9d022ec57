"""Show of what a link takes at each end; as `python -m tests.shows.links FOLDER TRANSPORT ROLE`, one end of many.

That process has real links to workers which the show plays; it reads where they are, and tells what it takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from tests.real import ROOT
from tests.shows.flow import Shown
from zpipe.core.limits import Limits
from zpipe.core.outlet import Peer
from zpipe.core.source import Position
from zpipe.core.worker import Role, Worker
from zpipe.processes.links import Links
from zpipe.values.plan import EdgePlan

COUNTS = 10, 110  # links, whose difference is divided by theirs
INC = 1000  # of the process that is measured
ROLES = {
    "sender": Role(inputs=(), outputs=(EdgePlan(0, 0, 1, False),), partitions={0: (Position(), False)}),
    "receiver": Role(inputs=(0,), outputs=()),
}
KIB_MAX = 512  # of one link at one end


def links(counts: tuple[int, int] = COUNTS) -> Iterator[Shown]:
    """A worker takes at most half a MiB for each link, and a few descriptors."""
    for transport in ("ipc", "tcp"):
        for role in ROLES:
            few, many = (_taken(role, transport, count) for count in counts)
            more = counts[1] - counts[0]
            kib, fds = (many["rss"] - few["rss"]) / more / 1024, (many["fds"] - few["fds"]) / more
            yield Shown(
                f"{role} over {transport}: {kib:.0f} KiB (at most {KIB_MAX}) and {fds:.1f} descriptors for each link; "
                f"{many['threads']} threads with {counts[1]} links",
                kib <= KIB_MAX,
            )


def _taken(role: str, transport: str, count: int) -> dict[str, int]:
    """Return what a worker takes that has so many links."""
    (other,) = ROLES.keys() - {role}
    with TemporaryDirectory(prefix="zl-", dir="/tmp") as folder:
        there = [_open(folder, transport, other, inc) for inc in range(1, count + 1)]
        argv = (sys.executable, "-m", "tests.shows.links", folder, transport, role)
        process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None and process.stdout is not None
        try:
            peers = [[links.worker.inc, links.inbox_endpoints] for links in there]
            process.stdin.write(json.dumps(peers) + "\n")
            process.stdin.flush()
            measured = Peer(INC, 0, f"{role}-1", tuple(json.loads(process.stdout.readline())))
            for links in there:
                _meet(links, other, [measured])
            _turn(there)
            process.stdin.write("\n")
            process.stdin.flush()
            return dict(json.loads(process.stdout.readline()))
        finally:
            process.kill()
            process.wait()
            for links in there:
                links.close()


def _open(folder: str, transport: str, role: str, inc: int) -> Links:
    return Links(
        Worker(inc, ROLES[role], Limits()), host="127.0.0.1", sockets_dir=folder, transport=transport, stage=role,
        save=lambda save: None,
    )  # fmt: skip


def _meet(links: Links, role: str, peers: list[Peer]) -> None:
    """Let a roster name these."""
    if role == "sender":
        links.worker.roster(time.monotonic(), peers, set())
    else:
        links.worker.roster(time.monotonic(), [], {peer.inc for peer in peers})


def _turn(all_links: list[Links], seconds: float = 3.0) -> None:
    """Let these do what a worker's loop lets them do, until nothing is new any more."""
    end_s = time.monotonic() + seconds
    while (now_s := time.monotonic()) < end_s:
        for links in all_links:
            links.receive(now_s)
            links.worker.tick(now_s)
            if links.worker.inlet is not None:
                links.worker.flush()
            links.act(now_s)
            links.retry(now_s)
        time.sleep(0.01)


def main(folder: str, transport: str, role: str) -> None:
    """Be one end of many links."""
    peers: list[Any] = json.loads(sys.stdin.readline())
    links = _open(folder, transport, role, INC)
    print(json.dumps(links.inbox_endpoints), flush=True)
    _meet(links, role, [Peer(inc, 0, f"peer-{inc}", tuple(endpoints)) for inc, endpoints in peers])
    _turn([links])
    while (len(links.data) or len(links.returns)) < len(peers) or links.pending:
        _turn([links], 0.5)
    sys.stdin.readline()
    me = psutil.Process()
    print(json.dumps({"rss": me.memory_info().rss, "fds": me.num_fds(), "threads": me.num_threads()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
