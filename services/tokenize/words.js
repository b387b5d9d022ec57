// Splits a text into words, as its language does it: Intl.Segmenter, Unicode Standard Annex #29.

export function splitter({ locale = "en", lower = true } = {}) {
  const segmenter = new Intl.Segmenter(locale, { granularity: "word" });
  return (text) => {
    if (typeof text !== "string") throw new TypeError(`no text but ${typeof text}`);
    const words = [];
    for (const { segment, isWordLike } of segmenter.segment(text)) {
      if (isWordLike) words.push(lower ? segment.toLocaleLowerCase(locale) : segment);
    }
    return words;
  };
}
