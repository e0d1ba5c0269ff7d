/** How much of a trace file's own claims is believed: every size that a file can ask for has a named limit here. */

import { Problem } from '../bits/problem.ts';

export interface TraceLimits {
  /** Bytes of one chunk as it stands in the file. */
  readonly maxChunkBytes: number;
  /** Bytes of one chunk once unpacked. */
  readonly maxUnpackedBytes: number;
  /** Unpacked bytes per packed byte. DEFLATE cannot do more than 1032, so a greater claim is a lie before any work. */
  readonly maxRatio: number;
  /** Bytes of a header chunk. */
  readonly maxHeaderBytes: number;
  /** Entries of each list in a header: sources, features, omissions … */
  readonly maxHeaderEntries: number;
  /** Rare stimuli of one chunk. */
  readonly maxStimuli: number;
  /** Bytes of memory that the rare stimuli of one chunk may take; a page image takes 4096. */
  readonly maxStimulusBytes: number;
  /** Bytes of one rare stimulus' message. */
  readonly maxStimulusMessageBytes: number;
  /** Entries that one entry fill writes. */
  readonly maxFillEntries: number;
  /** Chunks of one segment. */
  readonly maxChunks: number;
  /** Bytes of one line of the text form. */
  readonly maxTextLine: number;
  /** Steps between two state lines of the text form, and as many observations; they become one chunk. */
  readonly maxTextSteps: number;
}

const MIB = 1024 * 1024;

export const DEFAULT_LIMITS: TraceLimits = {
  maxChunkBytes: 64 * MIB,
  maxUnpackedBytes: 64 * MIB,
  maxRatio: 1032,
  maxHeaderBytes: MIB,
  maxHeaderEntries: 4096,
  maxStimuli: 0x1_0000,
  maxStimulusBytes: 64 * MIB,
  maxStimulusMessageBytes: 0x1_0000,
  maxFillEntries: 0x10_0000,
  maxChunks: 0x4_0000,
  maxTextLine: MIB,
  maxTextSteps: 0x10_0000,
};

export function limitsWith(changes: Partial<TraceLimits> = {}): TraceLimits {
  return { ...DEFAULT_LIMITS, ...changes };
}

const RAISE = (name: string): string =>
  `if you trust the file, raise ${name}; if not, the file may be damaged or made to do harm`;

/** Throws E_LIMIT if `value` is beyond the limit; `what` is the subject of the sentence, e.g. "the chunk's size". */
export function withinLimit(
  limits: TraceLimits,
  name: keyof TraceLimits,
  value: number,
  what: string,
  remedy = RAISE(name),
): void {
  if (value <= limits[name]) return;
  throw new Problem('E_LIMIT', `${what} is ${value}, more than the limit ${name} of ${limits[name]}`, {}, remedy);
}
