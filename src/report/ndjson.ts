/**
 * One JSON object on each line, as things happen: `start`, then `trace` for each and `problem` for what could not be read,
 * `end` with the totals and the exit status.
 */

/** What JSON may hold and a reader of lines, or a terminal, would take for something else. */
const UNSAFE = /[\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** `value` as one line of ASCII controls-free JSON. */
export function ndjsonLine(value: object): string {
  return JSON.stringify(value).replace(
    UNSAFE,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
