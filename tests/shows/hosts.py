"""Runs across hosts, which are network namespaces of this machine: needs root and `ip`; else one line says so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.real import Command, Place, lines, wait_until
from tests.shows.flow import Shown, ended, stage_place
from zpipe.transport.sockets import make_pair

NET = "10.213.7"
MARK = b"open sesame open sesame"
PARTITION_S, CAPTURE_S = 10.0, 4.0
KILL_S = 2.0  # between two kills on each host
TRAFFIC = 100_000  # bytes, for a capture to mean something
COUNT = 1_000_000  # more than there is time for
MIDDLE = 2  # workers of the middle stage on each host


class Hosts:
    """A switch with hosts `a`, `b` and `c` at it; `with` makes them, and takes them away again."""

    def __init__(self) -> None:
        self.mark = f"zp{os.getpid() % 100_000}"

    def __enter__(self) -> Hosts:
        try:
            self._make()
        except subprocess.CalledProcessError:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        self._do("ip", "netns", "add", self.name("s"))
        self._in("s", "ip", "link", "add", "switch", "type", "bridge")
        self._in("s", "ip", "link", "set", "switch", "up")
        for number, host in enumerate("abc", 1):
            self._do("ip", "netns", "add", self.name(host))
            self._do(
                "ip", "link", "add", "eth0", "netns", self.name(host), "type", "veth", "peer", "name", f"port-{host}",
                "netns", self.name("s"),
            )  # fmt: skip
            self._in("s", "ip", "link", "set", "dev", f"port-{host}", "master", "switch", "up")
            self._in(host, "ip", "addr", "add", f"{NET}.{number}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                self._in(host, "ip", "link", "set", link, "up")

    def __exit__(self, *_: object) -> None:
        for host in "abcs":
            subprocess.run(["ip", "netns", "del", self.name(host)], check=False, capture_output=True)

    def name(self, host: str) -> str:
        return f"{self.mark}{host}"

    def cut(self, host: str) -> None:
        """Pull the cable of a host."""
        self._in("s", "ip", "link", "set", "dev", f"port-{host}", "down")

    def heal(self, host: str) -> None:
        self._in("s", "ip", "link", "set", "dev", f"port-{host}", "up")

    def start(self, host: str, place: Place, *argv: str, hides: Sequence[Path] = ()) -> Command:
        """Start `zpipe ARGV...` on a host, to which these folders are empty ones of its own."""
        zpipe = (sys.executable, "-m", "zpipe", *argv)
        mounts = " && ".join(f"mount -t tmpfs none {folder}" for folder in hides)
        hidden = ("unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", *zpipe) if hides else zpipe
        return Command(("ip", "netns", "exec", self.name(host), *hidden), place.folder, place.env)

    def python(self, host: str, place: Place, code: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run Python on a host to its end."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name(host), sys.executable, "-c", code, *argv],
            check=False, capture_output=True, text=True, env=place.env, timeout=120,
        )  # fmt: skip

    def overhear(self, host: str, place: Place) -> tuple[int, int]:
        """Take down what passes the cable of a host; return how many bytes, and how often MARK is among them."""
        heard, found = self.python("s", place, LISTENER, f"port-{host}", str(CAPTURE_S), MARK.decode()).stdout.split()
        return int(heard), int(found)

    def _in(self, host: str, *argv: str) -> None:
        self._do("ip", "netns", "exec", self.name(host), *argv)

    def _do(self, *argv: str) -> None:
        subprocess.run(argv, check=True, capture_output=True)


def lacking() -> str:
    """Say why there can be no hosts here, "" when there can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "needs root and ip(8)"
    made = subprocess.run(["ip", "netns", "add", f"zp{os.getpid() % 100_000}t"], check=False, capture_output=True)
    if made.returncode != 0:
        return f"network namespaces cannot be made: {made.stderr.decode().strip()}"
    subprocess.run(["ip", "netns", "del", f"zp{os.getpid() % 100_000}t"], check=False)
    return ""


class TwoHosts:
    """A run at host `a` whose middle stage has workers at `a` and at `b`."""

    def __init__(self, hosts: Hosts, place: Place, *, count: int = COUNT, guarded: bool = True) -> None:
        self.hosts, self.place, self.count = hosts, place, count
        pipeline = place.pipeline(f"""
[stage.numbers]
run = "stages:numbers"
replay = "seek"
args = {{ count = {count} }}
[stage.whispered]
run = "stages:whispered"
from = "numbers"
workers = {MIDDLE}
[stage.lines]
run = "zpipe.sinks:jsonl"
from = "whispered"
ordered = true
args = {{ path = "out.jsonl" }}
""")
        own = ("--keys", "keys") if guarded else ("--insecure",)
        mate = ("--keys", "keys/b.key") if guarded else ("--insecure",)
        if guarded:
            ended(place.run("keys", "--keys", "keys", "add", "b"))
        self.run = hosts.start("a", place, "run", pipeline, "--bind", f"tcp://{NET}.1:0", *own)
        started = self.run.says("registry tcp://")
        self.address = started.split()[2].rstrip(",")
        self.folder = Path(started.rpartition("run folder ")[2])
        # Host b has the code and its key, and neither the run folder nor the directory of sockets.
        self.mate = hosts.start(
            "b", place, "worker", "whispered", "--registry", self.address, "-n", str(MIDDLE), *mate,
            hides=(self.folder.parent, place.runtime),
        )  # fmt: skip
        self.wait_for_mates()

    def wait_for_mates(self) -> None:
        """Wait until the workers of both hosts have a part in it, since now."""
        wait_until(lambda: len(self.live()) == 2 * MIDDLE)
        before = len(self.done())
        wait_until(lambda: len(self.done()) > before or self.run.ends_within(0))

    def live(self) -> list[str]:
        done = self.hosts.start("a", self.place, "ps", "--json").wait()
        rows = json.loads(done.out)["workers"] if done.code == 0 else []
        return [row["worker"] for row in rows if row["stage"] == "whispered" and row["state"] == "live"]

    def done(self) -> bytes:
        file = self.folder / "out.jsonl"
        return file.read_bytes() if file.exists() else b""

    def kill_one(self, *, parent: psutil.Process) -> None:
        """Kill a worker that this process has started."""
        for child in parent.children(recursive=True):
            if "zpipe.processes.worker" in child.cmdline() and "whispered" in child.cmdline():
                with suppress(psutil.NoSuchProcess):
                    child.send_signal(signal.SIGKILL)
                    return

    def end(self, *, early: bool = False) -> bool:
        """Wait for the end, an `early` one of what is under way; tell whether every item is there once, in order."""
        if early:
            self.run.interrupt()
        done = self.run.wait(300)
        self.mate.wait(60)
        found = [item["k"] for item in lines(self.folder / "out.jsonl")]
        return done.code == (130 if early else 0) and found == list(range(len(found) if early else self.count))


def hosts(partition_s: float = PARTITION_S) -> Iterator[Shown]:
    """Two hosts with keys: a partition under load, with kills too, loses and repeats nothing; a third reads nothing."""
    if why := lacking():
        yield Shown(f"skipped: {why}", True)
        return
    with Hosts() as made:
        for kills in (False, True):
            with stage_place() as place:
                yield _partitioned(TwoHosts(made, place), partition_s, kills=kills)
        yield from _overheard(made)
        yield from _refused(made)


def _partitioned(run: TwoHosts, partition_s: float, *, kills: bool) -> Shown:
    """Cut host b off in the middle of it, and heal."""
    before = len(run.done())
    run.hosts.cut("b")
    end_s = time.monotonic() + partition_s
    while time.monotonic() < end_s:
        time.sleep(min(KILL_S, partition_s))
        for command in (run.run, run.mate) if kills else ():
            run.kill_one(parent=psutil.Process(command.process.pid))
    meanwhile = len(run.done()) - before
    run.hosts.heal("b")
    healed_s = time.monotonic()
    wait_until(lambda: len(run.live()) == 2 * MIDDLE or run.run.ends_within(0))
    back_s = time.monotonic() - healed_s
    was_over = run.run.ends_within(0)
    exact = run.end(early=True)
    results = run.done().count(b"\n")
    how = "with kills on both hosts" if kills else "no kills"
    return Shown(
        f"host b cut off for {partition_s:.0f} s, {how}: {meanwhile:,} bytes written meanwhile by host a alone, all "
        f"{2 * MIDDLE} workers live {back_s:.1f} s after it healed, {results:,} results "
        f"{'exact' if exact else 'NOT EXACT'}",
        exact and meanwhile > 0 and not was_over,
    )


def _overheard(made: Hosts) -> Iterator[Shown]:
    """Listen at the cable of host b; without keys, to see that listening works, and with them."""
    for guarded in (False, True):
        with stage_place() as place:
            run = TwoHosts(made, place, count=4000, guarded=guarded)
            heard, found = made.overhear("b", place)
            exact = run.end()
        yield Shown(
            f"{'with keys' if guarded else 'insecure'}: {heard:,} bytes overheard in {CAPTURE_S:.0f} s, an item's "
            f"text found {found} times, results {'exact' if exact else 'NOT EXACT'}",
            exact and heard > TRAFFIC and (found == 0) == guarded,
        )


LISTENER = """
import socket, sys, time
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
tap.bind((sys.argv[1], 0))
tap.settimeout(0.1)
heard, end_s = bytearray(), time.monotonic() + float(sys.argv[2])
while time.monotonic() < end_s:
    try:
        heard += tap.recv(65536)
    except TimeoutError:
        pass
print(len(heard), heard.count(sys.argv[3].encode()))
"""

STRANGER = """
import sys, time, zmq
context = zmq.Context()
context.linger = 0
admitted = 0
for address in sys.argv[2:]:
    for keys in (None, sys.argv[1].split()):
        for kind in (zmq.PUSH, zmq.DEALER):
            sock = context.socket(kind)
            if keys:
                sock.curve_publickey, sock.curve_secretkey, sock.curve_serverkey = (key.encode() for key in keys)
            monitor = sock.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
            sock.connect(address)
            sock.send_multipart([b"ZPI1" + bytes(80)] * 3)
            admitted += monitor.poll(300)
            sock.disable_monitor()
print(admitted)
"""


def _refused(made: Hosts) -> Iterator[Shown]:
    """Host c has no key of this registry, and tries all that listens on host a."""
    with stage_place() as place:
        run = TwoHosts(made, place)
        ended(place.run("keys", "--keys", "others", "add", "c"))
        tries = {
            "no key": ("ps", "--registry", run.address, "--insecure"),
            "another's key": ("worker", "whispered", "--registry", run.address, "--keys", "others/c.key"),
        }
        said = {}
        for what, argv in tries.items():
            done = made.start("c", place, *argv).wait()
            said[what] = done.code, done.faults
            yield Shown(f"host c with {what}: exit {done.code}: {' '.join(done.faults)}", done.code == 1)
        listening = _listening(made)
        own, registry = make_pair(), (place.folder / "keys" / "registry.key").read_text().split()[-1]
        tried = made.python("c", place, STRANGER, f"{own[0]} {own[1]} {registry}", *listening)
        rows = json.loads(made.start("a", place, "ps", "--json").wait().out)["workers"]
        refused = sum(row["counters"].get("refused", 0) for row in rows)
        exact = run.end(early=True)
    yield Shown(
        f"host c dialled {len(listening)} addresses of host a in 4 ways: admitted {tried.stdout.strip()} times, "
        f"{refused} of its messages reached a worker, results {'exact' if exact else 'NOT EXACT'}",
        exact and tried.stdout.strip() == "0" and refused == 0 and len(listening) >= 5,
    )


def _listening(made: Hosts) -> list[str]:
    """Return the addresses at which something listens on host a."""
    said = subprocess.run(
        ["ip", "netns", "exec", made.name("a"), "cat", "/proc/net/tcp"], check=True, capture_output=True, text=True
    ).stdout  # fmt: skip
    rows = [line.split() for line in said.splitlines()[1:]]
    return [f"tcp://{NET}.1:{int(row[1].rpartition(':')[2], 16)}" for row in rows if row[3] == "0A"]
