/** What the user may have meant. */

import { nearest } from '../trace/nearest.ts';

/** The known word that `word` is the beginning of, if it is one only; else the nearest, if one is near. */
export function suggestion(word: string, known: readonly string[]): string | undefined {
  const begun = known.filter((candidate) => word.length >= 2 && candidate.startsWith(word.toLowerCase()));
  return begun.length === 1 ? begun[0] : nearest(word, known);
}
