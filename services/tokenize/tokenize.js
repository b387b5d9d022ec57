// A stage of zpipe in Node: takes items from the address in ZPIPE_CALL until there are no more.  See docs/foreign.md.

import { decode, encode } from "@msgpack/msgpack";
import { Request } from "zeromq";

import { splitter } from "./words.js";

const words = splitter(JSON.parse(process.env.ZPIPE_ARGS ?? "{}"));

// Takes a text, or a map with a text in it; the words come back in place of the one, or beside the other.
function tokenized(item) {
  const isMap = typeof item === "object" && item !== null && !Array.isArray(item);
  return isMap ? { ...item, words: words(item.text) } : words(item);
}

const socket = new Request();
socket.connect(process.env.ZPIPE_CALL);
for (let outcome = {}; ; ) {
  await socket.send(encode({ zpipe: 1, take: 1, ...outcome }));
  const [frame] = await socket.receive();
  const answer = decode(frame);
  if (answer.error) throw new Error(answer.error);
  if (answer.over) break;
  outcome = { done: [], failed: [] };
  for (const [token, item] of answer.items) {
    try {
      outcome.done.push([token, tokenized(item)]);
    } catch (error) {
      outcome.failed.push([token, error.message]);
    }
  }
}
socket.close();
