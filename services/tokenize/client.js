// A client of a gate: calls a stage, or puts items into a source.  See docs/protocol.md, part A.
//
//   node client.js ADDRESS call JSON...
//   node client.js ADDRESS put FILE.jsonl|- [NAME] [--end]

import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { Dealer } from "zeromq";

import { read, write } from "./messages.js";

const AGAIN_MS = 5000; // what a gate has not answered by then it may have lost
const PUT_ITEMS = 256; // in one message
const PUT_AHEAD = 8; // messages that are on their way

export class Client {
  #socket = new Dealer({ linger: 0, routingId: randomBytes(9).toString("hex") });
  #id = randomBytes(6).toString("hex");
  #count = 0;
  #asked = new Map(); // by tag: the frames, and what becomes of the answer
  #sent = Promise.resolve();
  #again;

  constructor(address) {
    this.#socket.connect(address);
    this.#again = setInterval(() => this.#asked.forEach(({ frames }) => this.#send(frames)), AGAIN_MS);
    this.#listen();
  }

  // Returns what the stage makes of an item; throws the reason of one that fails.
  async call(item) {
    const answer = await this.#ask({ call: [[`${this.#id}:${++this.#count}`, item]] });
    if (answer.done) return answer.done[0][1];
    throw new Error(answer.failed ? answer.failed[0][1] : answer.error);
  }

  // Puts items into a source, and returns how many, once all are on its disk; under the same name each is taken once.
  async put(items, { name = randomBytes(8).toString("hex"), end = false } = {}) {
    const asked = [];
    let count = 0;
    let block = [];
    for await (const item of items) {
      block.push([`${name}:${count++}`, item]);
      if (block.length < PUT_ITEMS) continue;
      asked.push(this.#put({ put: block }));
      block = [];
      if (asked.length > PUT_AHEAD) await asked.shift();
    }
    if (block.length) asked.push(this.#put({ put: block }));
    await Promise.all(asked);
    if (end) await this.#put({ end }); // once all are there
    return count;
  }

  close() {
    clearInterval(this.#again);
    this.#socket.close();
  }

  async #put(message) {
    const { error } = await this.#ask(message);
    if (error) throw new Error(error);
  }

  #ask(message) {
    const tag = String(++this.#count);
    const frames = write({ zpipe: 1, raw: true, tag, ...message });
    return new Promise((resolve) => {
      this.#asked.set(tag, { frames, resolve });
      this.#send(frames);
    });
  }

  // A socket sends one message at a time.
  #send(frames) {
    this.#sent = this.#sent.then(() => this.#socket.send(frames)).catch(() => {});
  }

  async #listen() {
    for await (const frames of this.#socket) {
      const answer = read(frames);
      if (answer?.zpipe !== 1) continue;
      this.#asked.get(answer.tag)?.resolve(answer);
      this.#asked.delete(answer.tag);
    }
  }
}

async function main([address, verb, ...words]) {
  const client = new Client(address);
  try {
    if (verb === "call") {
      for (const word of words) console.log(JSON.stringify(await client.call(JSON.parse(word))));
    } else if (verb === "put") {
      const [file, name] = words.filter((word) => word !== "--end");
      const lines = readFileSync(file === "-" ? 0 : file, "utf8").split("\n").filter((line) => line.trim());
      const options = { ...(name && { name }), end: words.includes("--end") };
      console.log(`${await client.put(lines.map((line) => JSON.parse(line)), options)} put`);
    } else {
      throw new Error("what to do: node client.js ADDRESS call JSON..., or put FILE|- [NAME] [--end]");
    }
  } catch (error) {
    console.error(`client: ${error.message}`);
    process.exitCode = 1;
  } finally {
    client.close();
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main(process.argv.slice(2));
