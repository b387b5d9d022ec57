import assert from "node:assert/strict";
import { test } from "node:test";

import { splitter } from "../words.js";

test("punctuation and emoji are no words", () => {
  assert.deepEqual(splitter()("Hello, World! 🎉 it's 3.5 o'clock"), ["hello", "world", "it's", "3.5", "o'clock"]);
});

test("letters are lowered as the language does it, or left", () => {
  assert.deepEqual(splitter({ locale: "tr" })("ILIK"), ["ılık"]);
  assert.deepEqual(splitter({ lower: false })("Ab Cd"), ["Ab", "Cd"]);
});

test("a language without spaces has words too", () => {
  assert.deepEqual(splitter({ locale: "ja" })("東京都に住む"), ["東京", "都", "に", "住む"]);
});

test("what is no text is refused", () => {
  assert.throws(() => splitter()(7), /no text but number/);
});
