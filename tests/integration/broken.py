"""A worker that keeps every rule of docs/protocol.md, Part A, and ways to break one each; python broken.py HOW."""

import fcntl
import os
import signal
import sys
import time
from pathlib import Path

import msgpack
import zmq

how = sys.argv[1]
context = zmq.Context()


def dialled():
    made = context.socket(zmq.REQ)
    made.setsockopt(zmq.LINGER, 0)
    if how == "one identity":
        made.setsockopt(zmq.ROUTING_ID, b"worker")
    made.connect(os.environ["ZPIPE_CALL"])
    return made


socket = dialled()
at_gate = os.environ["ZPIPE_CALL"].startswith("tcp")


def say(message, *frames):
    """Return the answer to a message, which is asked again at a gate that is silent."""
    global socket
    while True:
        socket.send_multipart([msgpack.packb(message), *frames])
        if not at_gate or how == "waits for ever" or socket.poll(5000):
            return heard(socket.recv())
        socket.close()
        if how == "dies of silence":
            sys.exit(7)
        if how == "forgets what nobody heard":
            message = {"zpipe": 1, "take": 1}
        socket = dialled()


def heard(frame):
    """Return what an answer says, nothing where it is none."""
    try:
        answer = msgpack.unpackb(frame)
    except ValueError:
        answer = None
    if how == "believes nonsense" and not isinstance(answer, dict):
        return {"items": [["x", 1]]}
    if how == "believes any version" and isinstance(answer, dict) and "zpipe" in answer:
        return answer
    if how == "believes what has no version" and isinstance(answer, dict) and "zpipe" not in answer:
        return answer
    return answer if isinstance(answer, dict) and answer.get("zpipe") == 1 else {}


def say_busy(token):
    """Say over another connection, as often as it takes, that an item is still being worked on."""
    other = dialled()
    while True:
        other.send(msgpack.packb({"zpipe": 1, "busy": [token]}))
        other.recv()


def outcome(token, item):
    """Return what is said of an item, and further frames."""
    entry = [token, ["made of", item]]
    if how == "makes up a token" and item == 7:
        entry = ["made up", item]
    if how == "token of its own":
        entry = ["mine", item]
    if how == "array of wrong sizes":
        entry = [token, {"nd": True, "type": "<f4", "kind": "", "shape": [3, 3], "data": b"1234"}]
    if how == "frame that is not there":
        data = msgpack.ExtType(78, (5).to_bytes(4, "big"))
        entry = [token, {"nd": True, "type": "|u1", "kind": "", "shape": [4], "data": data}]
    if how == "other every time":
        entry = [token, os.getpid()]
    if how == "fails all":
        return {"failed": [[token, "I cannot"]]}
    if how == "token that is a number":
        entry = [7, item]
    return {"done": [entry, entry] if how == "twice in one message" else [entry]}


if how == "ends at once":
    sys.exit(4)
if how == "says nothing":
    time.sleep(1000)
if how == "ignores the system":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if how == "one on a host":
    lock = os.open("lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(11)
if how == "cannot live after a kill":
    if Path("at work").exists():
        sys.exit(9)
    Path("at work").touch()
takes = 4 if how in ("takes four", "does one of several", "makes up a token") else 1
named = {} if how == "has no name" else {"name": "broken"}
ask = {"zpipe": 1, "take": takes, **named}
if how == "of another version":
    ask["zpipe"] = 2
if how == "a list":
    ask = [ask]
if how == "never takes":
    ask["take"] = 0
if how == "tells before it is given":
    ask = {"zpipe": 1, "done": [["x", 1]]}
if how == "no msgpack":
    socket.send(b"\xc1")
    sys.exit(0)
while True:
    answer = say(ask)
    if answer.get("over"):
        break
    if how == "dies of what it does not know" and answer.keys() - {"zpipe", "items", "refused", "over", "error"}:
        sys.exit(5)
    if how == "dies when refused" and "refused" in answer:
        sys.exit(6)
    ask = {"zpipe": 1, "take": 0 if how == "never takes" else takes, **named}
    items = answer.get("items", ())
    if "error" in answer and how == "dies of an error":
        sys.exit(10)
    if not items and how == "ends when there is nothing":
        sys.exit(8)
    if answer.get("items") == [] and how == "tells of nothing":
        ask["done"] = [["nothing", None]]
    for token, item in items[:1] if how == "does one of several" else items:
        if how == "dies of an item" and item == 7:
            os.abort()
        if how == "hangs at an item" and item == 7:
            time.sleep(1000)
        if item == "slow":
            signal.pause() if how == "silent at work" else say_busy(token)
        if how != "no word of an item":
            for kind, entries in outcome(token, item).items():
                ask.setdefault(kind, []).extend(entries)
Path("at work").unlink(missing_ok=True)
if how == "goes on when all is over":
    time.sleep(1000)
sys.exit(3 if how == "ends badly" else 0)
