"""A worker that asks over two connections at once, and keeps every rule of docs/protocol.md, Part A."""

import os
import threading

import msgpack
import zmq

context = zmq.Context()


def work():
    ask, socket = {"zpipe": 1, "take": 1, "name": "threaded"}, None
    while True:
        if socket is None:
            socket = context.socket(zmq.REQ)
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(os.environ["ZPIPE_CALL"])
        socket.send(msgpack.packb(ask))
        answer = None
        if socket.poll(5000):
            try:
                answer = msgpack.unpackb(socket.recv())
            except ValueError:
                pass
        if not isinstance(answer, dict) or answer.get("zpipe") != 1:
            socket.close()
            socket = None
        elif answer.get("over"):
            break
        else:
            ask = {"zpipe": 1, "take": 1, "name": "threaded", "done": answer.get("items", [])}


threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
