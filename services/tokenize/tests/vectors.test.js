import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { read, write } from "../messages.js";

const file = new URL("../../../tests/conformance/outside.json", import.meta.url);
const vectors = JSON.parse(readFileSync(file, "utf8")).messages;

const framesOf = (vector) => vector.frames.map((frame) => Buffer.from(frame, "hex"));

// Returns a value as the vectors have it; arrays with their bytes, moments as a Date.
function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : { int: `${value}` };
  if (value instanceof Date) return { time: value.getTime() };
  if (value instanceof Uint8Array) return { bytes: hex(value) };
  if (typeof value !== "object" || value === null) return value;
  if (value.nd === true) return { array: value.type, shape: value.shape, hex: hex(value.data) };
  if (value.nd === false) return { scalar: value.type, shape: [], hex: hex(value.data) };
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
}

function meant(value) {
  if (Array.isArray(value)) return value.map(meant);
  if (typeof value !== "object" || value === null) return value;
  if ("time" in value) return { time: Date.parse(value.time) };
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, meant(inner)]));
}

const hex = (bytes) => Buffer.from(bytes).toString("hex");

for (const vector of vectors.filter((v) => "meaning" in v)) {
  test(`read: ${vector.name}`, () => {
    assert.deepEqual(plain(read(framesOf(vector))), meant(vector.meaning));
  });

  test(`written and read: ${vector.name}`, () => {
    const message = read(framesOf(vector));
    assert.deepEqual(plain(read(write(message))), meant(vector.meaning));
    const [head, ...frames] = write(message, { raw: false });
    assert.deepEqual(frames, []);
    assert.deepEqual(plain(read([head])), meant(vector.meaning));
  });
}

for (const vector of vectors.filter((v) => v.by === "any")) {
  test(`refused: ${vector.name}`, () => {
    assert.throws(() => read(framesOf(vector)));
  });
}

test("a large array takes a frame, large bytes do not", () => {
  const data = Buffer.alloc(65536, 1);
  const [head, ...frames] = write({ x: { nd: true, type: "|u1", kind: "", shape: [65536], data }, y: data });
  assert.deepEqual(frames, [data]);
  assert.ok(head.length > 65536 && head.length < 65536 + 100);
});
