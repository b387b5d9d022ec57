"""A worker's machine, given any messages by peers that it knows and by others: it goes on, whatever they are."""

from __future__ import annotations

from typing import Any

from tests.fuzz.target import Draw, target
from zpipe.core.limits import Limits
from zpipe.core.outlet import Peer
from zpipe.core.worker import Role, Worker
from zpipe.transport import sockets
from zpipe.values.errors import ConfigError, ProtocolError
from zpipe.values.paths import Run
from zpipe.values.plan import EdgePlan
from zpipe.wire import frames
from zpipe.wire.body import Encoded, decode_run, encode_item
from zpipe.wire.frames import Ack, Close, Data, Message, Open, Sync

ME, UP, DOWN = 1, 8, 9
BELOW = EdgePlan(4, 1, 2, True)
HEADS = (encode_item(1), encode_item([1, "x"]), Encoded(b"\xc1"), Encoded(b""), Encoded(b"\x92\x01", (), True))
ROLES: tuple[dict[str, Any], ...] = (
    {}, {"commits": True, "outputs": ()}, {"block": 4, "wait_s": 1.0}, {"latest": frozenset((3,))},
    {"memory": True, "depths": {0: 0, 1: 1}, "lanes": (0, 1)},
    {"memory": True, "depths": {0: 0, 1: 2}, "lanes": (0,), "hooks": (1,), "outputs": ()},
)  # fmt: skip


class Bench:
    """A worker between UP and DOWN."""

    def __init__(self, draw: Draw) -> None:
        self.worker = Worker(ME, Role(**{"inputs": (3,), "outputs": (BELOW,), **draw.one(ROLES)}), Limits())
        peers = [Peer(DOWN, 4, "out-1", ("tcp://127.0.0.1:1",))] if self.worker.outlet.edges else []
        self.worker.roster(0.0, peers, {UP})
        self.now_s = 0.0

    def hear(self, message: Message) -> None:
        """Let a message arrive as the loop does: as frames, which may be refused."""
        try:
            decoded = frames.decode(frames.encode(message, crc=False))
        except ProtocolError:
            return
        self.worker.received(self.now_s, decoded)

    def work(self) -> None:
        """Call what has arrived, and carry out what follows."""
        worker = self.worker
        job = worker.take(8)
        if job is not None:
            for run, a, b in job.stretches:
                try:
                    decode_run(run)
                except ProtocolError:
                    continue
                for k in range(a, b):
                    if not run.mark(k) and job.parent is not None:
                        out = Run(0, min(run.position, 2**60), (), 1, [encode_item(k)])
                        worker.emit(out, job.parent)
            worker.done(job, busy_s=0.01, dropped=0)
        self.now_s += 0.2
        worker.tick(self.now_s)
        worker.dispatch(self.now_s)
        worker.flush()
        for kind, *about in worker.actions:
            if kind == "dial_acks":
                self._dial(about[0].acks)
            elif kind == "ack":
                frames.decode(frames.encode(about[0], crc=False))
        worker.actions.clear()

    def _dial(self, endpoints: tuple[str, ...]) -> None:
        try:
            assert isinstance(sockets.choose(endpoints), str)
        except ConfigError:
            pass  # refused by whoever would dial


@target(seeds=lambda: [bytes((k * m) % 241 for k in range(600)) for m in (1, 3, 17, 111)])
def peers(data: bytes) -> None:
    """Messages with any numbers in them, on links that are open and on others."""
    draw = Draw(data)
    bench = Bench(draw)
    bench.hear(Open(UP, ME, 1, 3, {"acks": ["tcp://127.0.0.1:2"]}))
    bench.work()
    got = 0
    while draw:
        kind = draw.byte()
        if kind < 60:
            bench.work()
            continue
        message = _message(draw, kind, got + 1)
        got += isinstance(message, Data)
        bench.hear(message)
    bench.work()


def _message(draw: Draw, kind: int, seq: int) -> Message:
    ends = (draw.one((UP, UP, UP, DOWN, DOWN, 5)), draw.one((ME, ME, ME, ME, 2)), draw.one((1, 1, 1, 2, 0)))
    if kind < 140:
        return Data(*ends, 3, draw.one((seq, seq, seq, draw.number() or 1)), _run(draw))
    if kind < 190:
        ranges = [(draw.number(), draw.number()) for _ in range(draw.byte() % 3)]
        numbers = [draw.number() for _ in range(6)]
        more: dict[str, Any] = {"state": draw.byte() % 2, "quiet": draw.byte() % 2, "full": draw.byte() % 2 == 1}
        base = min([numbers[2], *(a for a, _ in ranges)])
        limit, limit_bytes, _, got, consumed, echo = numbers
        return Ack(*ends, 4, limit, limit_bytes, base, got, consumed, echo, ranges=ranges,
                   wants=[draw.number() % 2**32], **more)  # fmt: skip
    if kind < 210:
        return Sync(*ends, 3, draw.number(), draw.byte() % 2 == 1)
    if kind < 240:
        return Open(*ends, draw.one((3, 3, 4)), {"acks": draw.value() if draw.byte() % 2 else ["tcp://127.0.0.1:2"]})
    return Close(*ends, 3, "so")


def _run(draw: Draw) -> Run:
    n = draw.one((1, 1, 2, 5, 60))
    marks = bytes(draw.byte() % 5 for _ in range(n)) if draw.byte() % 3 == 0 else None
    parts = [None if marks is not None and marks[k] else draw.one(HEADS) for k in range(n)]
    elements = tuple(draw.number() % 2**32 for _ in range(draw.one((0, 0, 1, 2))))
    made = Run(draw.one((0, 0, 1, 7)), draw.number(), elements, n, parts, epoch=draw.number() % 2**32, marks=marks)
    return made
