// A worker of zpipe in Node: takes items from a gate, or as the `cmd` of a stage, until there are no more.

import { hostname } from "node:os";

import { Gate } from "./gate.js";
import { isMap } from "./messages.js";
import { splitter } from "./words.js";

const words = splitter(JSON.parse(process.env.ZPIPE_ARGS ?? "{}"));
const address = process.argv[2] ?? process.env.ZPIPE_CALL;
if (!address) {
  console.error("tokenize: whom to ask: give the address of a gate, or name this program as the cmd of a stage");
  process.exit(2);
}

// Takes a text, or a map with a text in it; the words come back in place of the one, or beside the other.
function tokenized(item) {
  return isMap(item) ? { ...item, words: words(item.text) } : words(item);
}

function outcomes(items) {
  const found = { done: [], failed: [] };
  for (const [token, item] of items) {
    try {
      found.done.push([token, tokenized(item)]);
    } catch (error) {
      found.failed.push([token, error.message]);
    }
  }
  return found;
}

const gate = new Gate(address, process.env.ZPIPE_NAME ?? `${hostname()}:${process.pid}`);
for (let outcome = outcomes([]); ; ) {
  const answer = await gate.ask({ take: 1, ...outcome });
  if (answer.over) break;
  if (answer.error) console.error(`tokenize: ${address} says: ${answer.error}`);
  for (const [token, why] of answer.refused ?? []) console.error(`tokenize: ${token} is refused: ${why}`);
  if (answer.error && !answer.items) {
    // It did nothing: the items are still at hand, and what came of them cannot be said.
    if (!outcome.done.length) process.exit(1);
    outcome = { done: [], failed: outcome.done.map(([token]) => [token, answer.error]) };
  } else {
    outcome = outcomes(answer.items ?? []);
  }
}
gate.close();
