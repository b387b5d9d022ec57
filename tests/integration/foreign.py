"""A program as anyone writes it from docs/foreign.md alone, and some that are broken; python foreign.py HOW."""

import json
import os
import signal
import sys

import msgpack
import zmq

how = sys.argv[1]
args = json.loads(os.environ["ZPIPE_ARGS"])
socket = zmq.Context().socket(zmq.REQ)
socket.connect(os.environ["ZPIPE_CALL"])


def call(**ask):
    socket.send(msgpack.packb({"zpipe": 1, **ask}))
    return msgpack.unpackb(socket.recv())


def raw(data):
    socket.send(data)
    return msgpack.unpackb(socket.recv())


def made(token, item):
    """Return the outcome of an item: of which kind, and its entry."""
    if how == "dies" and item == args["at"]:
        os.kill(os.getpid(), getattr(signal, args["of"]))
    if how == "exits" and item == args["at"]:
        print("I have had enough", flush=True)
        sys.exit(3)
    if how == "hangs" and item == args["at"]:
        signal.pause()
    if how == "fails" and item == args["at"]:
        return "failed", [token, "I do not\nlike it"]
    if how == "routes":
        return "done", [token, item, "odd" if item % 2 else "even"]
    if how == "drops" and item % 2:
        return "done", [token, None]
    if how == "sums":
        return "done", [token, sum(item)]
    return "done", [token, args.get("times", 2) * item]


if how == "ends":
    sys.exit("no licence found")
if how == "wild":
    errors = [raw(b"\xc1")["error"], raw(b"\x93\x01")["error"], raw(msgpack.packb([]))["error"]]
    errors += [raw(msgpack.packb({"zpipe": 2, "take": 1}))["error"], call(take=-1)["error"], call(done=[[1]])["error"]]
    print("errors:", json.dumps(errors), flush=True)
    assert raw(msgpack.packb({"zpipe": 1, "take": -1, "tag": "t1"}))["tag"] == "t1"
    assert call(tag="t2") == {"zpipe": 1, "tag": "t2"}
answer = call(take=args.get("take", 1))
while not answer.get("over"):
    outcomes = [made(token, item) for token, item in answer.get("items", ())]
    if how == "wild":
        assert call(done=[["nonsense", 1]])["refused"][0][0] == "nonsense"
        again = call(take=1)  # nothing is done: the same items come again
        assert again["items"] == answer["items"]
        assert call(done=[entry for _, entry in outcomes]) == {"zpipe": 1}
        assert call(done=[entry for _, entry in outcomes])["refused"]  # a token is good once
        outcomes = []
    answer = call(take=args.get("take", 1), **{kind: [e for k, e in outcomes if k == kind] for kind, _ in outcomes})
