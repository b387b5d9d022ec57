"""A worker that keeps every rule of docs/foreign.md, and ways to break one each; python broken.py HOW."""

import os
import sys
import time

import msgpack
import zmq

how = sys.argv[1]
socket = zmq.Context().socket(zmq.REQ)
socket.connect(os.environ["ZPIPE_CALL"])


def say(message, *frames):
    socket.send_multipart([msgpack.packb(message), *frames])
    return msgpack.unpackb(socket.recv())


def outcome(token, item):
    """Return what is said of an item, and further frames."""
    entry = [token, ["made of", item]]
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
ask = {"zpipe": 1, "take": 1}
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
    ask = {"zpipe": 1, "take": 0 if how == "never takes" else 1}
    for token, item in answer.get("items", ()):
        if how == "dies of an item" and item == 7:
            os.abort()
        if how == "hangs at an item" and item == 7:
            time.sleep(1000)
        if how != "no word of an item":
            ask |= outcome(token, item)
if how == "goes on when all is over":
    time.sleep(1000)
sys.exit(3 if how == "ends badly" else 0)
