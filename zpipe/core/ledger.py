"""Stages without memory: which outputs each input still waits for, and which inputs are known already.

An input lives queued -> running -> emitted -> settled.  A repeat of a run in progress attaches its address
to the record; a repeat of a recently settled one is settled at once.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from zpipe.core.inlet import Address
from zpipe.core.limits import Limits
from zpipe.core.work import Job
from zpipe.values.paths import Run


class Record:
    """One run that arrived, from its first address to its settlement."""

    __slots__ = ("addresses", "closed", "key", "ledger", "left", "pend", "run", "taken")

    def __init__(self, ledger: Ledger, address: Address, run: Run) -> None:
        self.ledger = ledger
        self.addresses = [address]
        self.run = run
        self.key = run.key
        self.pend = 0
        self.closed = False
        self.taken = 0  # items that were given to calls,
        self.left = run.n  # and those whose call has not returned

    def settled(self) -> None:
        self.ledger.settled(self)


class Ledger:
    """The intake of a stage without memory: any order, any number of workers."""

    def __init__(self, limits: Limits, *, joins: bool = False) -> None:
        self.limits = limits
        self.joins = joins  # whether one job may hold several runs, and parts of them
        self.queue: deque[Record] = deque()
        self.records: dict[tuple[object, ...], Record] = {}
        self.recent: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self.queued_items = 0
        self.parked_bytes = 0  # nothing is parked here: what waits has not returned its credit
        self.repeats = 0

    def arrived(self, address: Address, run: Run) -> None:
        key = run.key
        if key in self.recent:
            self.repeats += run.n
            address.consume()
            address.settle()
            return
        record = self.records.get(key)
        if record is not None:
            self.repeats += run.n
            record.addresses.append(address)
            if record.closed:
                address.consume()
            return
        record = Record(self, address, run)
        self.records[key] = record
        self.queue.append(record)
        self.queued_items += run.n

    def take(self, limit: int) -> Job | None:
        """Return the run that waits longest; where jobs join, the `limit` items that do."""
        if not self.queue:
            return None
        job = Job(Job.ITEMS, self.queue[0])
        while self.queue and (not job.records or (self.joins and job.n < limit)):
            record = self.queue[0]
            a, b = record.taken, record.run.n
            if self.joins:
                b = min(b, a + limit - job.n)
            record.taken = b
            if b == record.run.n:
                self.queue.popleft()
            self.queued_items -= b - a
            job.records.append(record)
            job.add(record.run, a, b)
        return job

    def done(self, job: Job) -> None:
        """The function has returned for every item of the job, its outputs are in the outlet."""
        for record, (_, a, b) in zip(job.records, job.stretches, strict=True):
            record.left -= b - a
            if record.left:
                continue
            record.closed = True
            for address in record.addresses:
                address.consume()
            if record.pend == 0:
                self.settled(record)

    def settled(self, record: Record) -> None:
        key = record.key
        del self.records[key]
        self.recent[key] = None
        if len(self.recent) > self.limits.recent:
            self.recent.popitem(last=False)
        for address in record.addresses:
            address.settle()

    @property
    def idle(self) -> bool:
        return not self.queue

    def wants(self) -> set[int]:
        return set()
