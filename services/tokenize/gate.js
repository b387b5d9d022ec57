// The address where a worker asks for items: of a gate, or of the stage whose `cmd` it is.  See docs/protocol.md, part A.

import { Request } from "zeromq";

import { read, write } from "./messages.js";

const ANSWER_MS = 5000; // a gate that has not answered by then may have been started anew

export class Gate {
  #socket;

  constructor(address, name) {
    this.address = address;
    this.name = name;
    this.#open();
  }

  // Returns the answer to a message, which is asked anew while there is none.
  async ask(message) {
    const frames = write({ zpipe: 1, name: this.name, raw: true, ...message });
    for (;;) {
      await this.#socket.send(frames);
      try {
        const answer = read(await this.#socket.receive());
        if (answer?.zpipe !== 1) throw new Error("what is answered is not of version 1 of the protocol");
        return answer;
      } catch (error) {
        if (error.code !== "EAGAIN") throw error;
      }
      this.close();
      this.#open();
    }
  }

  close() {
    this.#socket.close();
  }

  #open() {
    // A stage that has started this program, at ipc, answers when it has an item, and does not end before it.
    const receiveTimeout = this.address.startsWith("ipc:") ? -1 : ANSWER_MS;
    this.#socket = new Request({ linger: 0, receiveTimeout });
    this.#socket.connect(this.address);
  }
}
