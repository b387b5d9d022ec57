"""One system call for many sockets, and no message missed: libzmq's descriptors tell of what is new only once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real import DEADLINE_S
from zpipe.transport import sockets
from zpipe.transport.waiting import Waiter

DEADLINE_MS = int(1000 * DEADLINE_S)


class Ends:
    """A socket to receive from, and one that sends to it."""

    def __init__(self, folder: Path) -> None:
        self.context = sockets.context()
        self.pull, endpoints = sockets.bind_pull(
            self.context, transport="ipc", sockets_dir=str(folder), host="127.0.0.1", hwm=100_000
        )
        self.push = sockets.dial_push(self.context, endpoints, hwm=100_000)

    def send(self, number: int) -> None:
        while not sockets.send(self.push, [number.to_bytes(4, "big")]):
            pass

    def read(self) -> int | None:
        received = sockets.receive(self.pull)
        return None if received is None else int.from_bytes(received[0], "big")


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    made = Ends(tmp_path)
    yield made
    sockets.end(made.context)


def test_what_came_before_it_was_asked_for_is_told(ends: Ends) -> None:
    ends.send(1)
    assert Waiter().wait(0) == set()
    first = Waiter()
    first.register(ends.pull)
    assert set(first.wait(DEADLINE_MS)) == {ends.pull}
    second = Waiter()  # what libzmq's descriptor had to tell is told
    second.register(ends.pull)
    assert set(second.wait(DEADLINE_MS)) == {ends.pull}


def test_what_is_left_unread_is_told_again_and_what_is_empty_is_not(ends: Ends) -> None:
    waiter = Waiter()
    waiter.register(ends.pull)
    ends.send(1)
    ends.send(2)
    while sum(ends.pull in waiter.wait(DEADLINE_MS) for _ in range(3)) < 3:
        pass
    read: list[int] = []
    while len(read) < 2:
        if ends.pull in waiter.wait(DEADLINE_MS) and (number := ends.read()) is not None:
            read.append(number)
    assert read == [1, 2]
    assert ends.read() is None
    waiter.empty(ends.pull)
    assert ends.pull not in waiter.wait(0)
    ends.send(3)
    while ends.read() != 3:
        assert ends.pull in waiter.wait(DEADLINE_MS)


def test_a_descriptor_is_told_and_a_socket_let_go_is_not(ends: Ends) -> None:
    waiter = Waiter()
    waiter.register(ends.pull)
    readable, writable = os.pipe()
    waiter.register(readable)
    waiter.unregister(ends.pull)
    ends.send(1)
    os.write(writable, b"x")
    assert set(waiter.wait(DEADLINE_MS)) == {readable}
    os.close(writable)
    os.close(readable)


def test_no_message_is_missed_however_they_fall(ends: Ends) -> None:
    count = 30_000
    waiter = Waiter()
    waiter.register(ends.pull)
    turn = threading.Semaphore(64)

    def send() -> None:
        for number in range(count):
            turn.acquire()
            ends.send(number)

    thread = threading.Thread(target=send)
    thread.start()
    read = 0
    while read < count:
        assert waiter.wait(DEADLINE_MS), f"nothing is told after {read} of {count}"
        while (number := ends.read()) is not None:
            assert number == read
            read += 1
            turn.release()
            if not sockets.has_more(ends.pull):
                break
        waiter.empty(ends.pull)
    thread.join()
