"""The worker in Python: takes items from the address in ZPIPE_CALL until there are no more."""

import os
import time

import msgpack
import zmq

NAP_S = float(os.environ.get("ZPIPE_ARG_NAP_MS", 0)) / 1000
ASK = {"zpipe": 1, "raw": True, "name": "python", "take": int(os.environ.get("ZPIPE_ARG_TAKE", 1))}


def made(item):
    if not isinstance(item, int):
        return item
    time.sleep(NAP_S)
    return [item, item * item, "python"]


socket = zmq.Context().socket(zmq.REQ)
socket.connect(os.environ["ZPIPE_CALL"])
done, frames = [], []
while True:
    # What comes in frames goes out in the same order: their numbers stay true.
    socket.send_multipart([msgpack.packb({**ASK, "done": done}), *frames], copy=False)
    first, *frames = socket.recv_multipart(copy=False)
    answer = msgpack.unpackb(first.buffer)
    if answer.get("over"):
        break
    if "error" in answer:
        raise SystemExit(answer["error"])
    done = [[token, made(item)] for token, item in answer["items"]]
