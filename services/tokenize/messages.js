// What gates and programs outside say to each other, docs/protocol.md part A, as frames and back.  Knows arrays, which
// may have frames of their own; what a message means is for others.

import { decode, encode, ExtensionCodec } from "@msgpack/msgpack";

const FRAME = 78; // the extension that stands for a frame
const FRAME_MIN = 64 * 1024; // bytes from which on an array is worth one
const DIMS_MAX = 32;
const TYPE = /^[<>|]?[biufcMm](1|2|4|8|16)(?:\[\w+\])?$/;

const codec = new ExtensionCodec();
codec.register({
  type: FRAME,
  encode(value, { frames, large }) {
    if (value.nd === true && value.data?.length >= FRAME_MIN) large.add(value.data);
    if (!large.delete(value)) return null; // bytes that are no array stay where they are
    const number = Buffer.alloc(4);
    number.writeUInt32BE(frames.push(value) - 1);
    return number;
  },
  decode(number, _, { frames }) {
    const index = number.length === 4 ? Buffer.from(number).readUInt32BE() : NaN;
    if (frames[index] === undefined) throw new RangeError(`frame ${index} is not there`);
    return frames[index];
  },
});

// Returns what a message says; arrays are {nd, type, kind, shape, data}.  Throws when it breaks a rule.
export function read([head, ...frames]) {
  const options = { extensionCodec: codec, context: { frames }, useBigInt64: true, mapKeyConverter: textOf };
  return checked(decode(head, options));
}

// Returns the frames of a message, where `raw` with one for each large array.
export function write(message, { raw = true } = {}) {
  const frames = [];
  const options = { useBigInt64: true, ...(raw && { extensionCodec: codec, context: { frames, large: new Set() } }) };
  return [encode(message, options), ...frames];
}

export function isMap(value) {
  const isObject = typeof value === "object" && value !== null;
  return isObject && !Array.isArray(value) && !ArrayBuffer.isView(value) && !(value instanceof Date);
}

function textOf(key) {
  return key instanceof Uint8Array ? Buffer.from(key).toString() : key;
}

function checked(value) {
  if (Array.isArray(value)) value.forEach(checked);
  if (!isMap(value)) return value;
  if (value.nd === true && "shape" in value) checkArray(value, value.shape);
  else if (value.nd === false && "data" in value) checkArray(value, []);
  else Object.values(value).forEach(checked);
  return value;
}

function checkArray({ type, data }, shape) {
  const size = TYPE.exec(type)?.[1];
  if (size === undefined) throw new TypeError(`an array of type ${type}`);
  const isShape = Array.isArray(shape) && shape.length <= DIMS_MAX && shape.every((n) => Number.isInteger(n) && n >= 0);
  if (!isShape) throw new TypeError(`an array of shape ${shape}`);
  const needed = shape.reduce((product, n) => product * n, Number(size));
  if (data?.length !== needed || !ArrayBuffer.isView(data)) throw new RangeError("an array whose sizes do not agree");
}
