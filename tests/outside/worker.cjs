// The worker in Node: takes items from the address in ZPIPE_CALL until there are no more.

const { decode, encode } = require("@msgpack/msgpack");
const { Request } = require("zeromq");

const { ZPIPE_ARG_NAP_MS: nap = "0", ZPIPE_ARG_TAKE: take = "1" } = process.env;

async function made(item) {
  if (!Number.isInteger(item)) return item;
  if (Number(nap)) await new Promise((done) => setTimeout(done, Number(nap)));
  return [item, item * item, "node"];
}

async function main() {
  const socket = new Request();
  socket.connect(process.env.ZPIPE_CALL);
  for (let done = [], frames = []; ; ) {
    // What comes in frames goes out in the same order: their numbers stay true.
    await socket.send([encode({ zpipe: 1, raw: true, name: "node", take: Number(take), done }), ...frames]);
    const [first, ...others] = await socket.receive();
    const answer = decode(first);
    if (answer.error) throw new Error(answer.error);
    if (answer.over) break;
    frames = others;
    done = [];
    for (const [token, item] of answer.items) done.push([token, await made(item)]);
  }
  socket.close();
}

main();
