/**
 * The one error model: a `Problem` is something that the user can understand and act upon. Anything else that is
 * thrown is a bug in rewalk.
 */

/** Exit status of the command line, design §6. */
export const ExitStatus = {
  MATCH: 0,
  DIVERGED: 1,
  USAGE: 2,
  UNREADABLE: 3,
  NOT_MODELLED: 4,
} as const;

/** Stable codes: scripts may rely on them; a code is never reused for something else. */
export const PROBLEM_CODES = {
  // usage
  E_USAGE: ExitStatus.USAGE,
  E_NO_DIVERGENCE: ExitStatus.USAGE,
  E_NO_SUCH_FILE: ExitStatus.UNREADABLE,
  E_NO_TRACES: ExitStatus.UNREADABLE,
  E_IO: ExitStatus.UNREADABLE,
  // the trace file
  E_NOT_A_TRACE: ExitStatus.UNREADABLE,
  E_CUT_SHORT: ExitStatus.UNREADABLE,
  E_CORRUPT: ExitStatus.UNREADABLE,
  E_LIMIT: ExitStatus.UNREADABLE,
  E_NEWER_VERSION: ExitStatus.UNREADABLE,
  E_UNKNOWN_FEATURE: ExitStatus.UNREADABLE,
  E_UNSOUND: ExitStatus.UNREADABLE,
  // other inputs
  E_TEXT_FORM: ExitStatus.UNREADABLE,
  E_IMPORT: ExitStatus.UNREADABLE,
  E_EXPECTATIONS: ExitStatus.UNREADABLE,
  // results and baselines
  E_NOT_RESULTS: ExitStatus.UNREADABLE,
  E_NOTHING_COMPARED: ExitStatus.UNREADABLE,
  E_OTHER_CORPUS: ExitStatus.USAGE,
  E_REVIEW: ExitStatus.USAGE,
} as const;

export type ProblemCode = keyof typeof PROBLEM_CODES;

/** Where a problem was met; every part that is known. */
export interface Place {
  readonly file?: string;
  /** Line of a text input, from 1. */
  readonly line?: number;
  /** Number of the chunk in the file, from 0. */
  readonly chunk?: number;
  /** Byte offset in the file. */
  readonly offset?: number;
  /** Ordinal of the step, from 0. */
  readonly step?: number;
}

export class Problem extends Error {
  override readonly name = 'Problem';
  readonly code: ProblemCode;
  readonly place: Place;
  /** What the user can do about it. */
  readonly remedy: string | undefined;

  /** `message`: one sentence without the place, which is kept apart. */
  constructor(code: ProblemCode, message: string, place: Place = {}, remedy?: string) {
    super(message);
    this.code = code;
    this.place = place;
    this.remedy = remedy;
  }

  get exitStatus(): number {
    return PROBLEM_CODES[this.code];
  }

  /** The same problem with more of its place known; what was known before stays. */
  at(place: Place): Problem {
    return new Problem(this.code, this.message, { ...place, ...this.place }, this.remedy);
  }
}

/** `file.rwt, chunk 3, byte 4711, step 12`, or an empty string if nothing is known. */
export function placeText(place: Place): string {
  const parts: string[] = [];
  if (place.file !== undefined) parts.push(place.file);
  if (place.line !== undefined) parts.push(`line ${place.line}`);
  if (place.chunk !== undefined) parts.push(`chunk ${place.chunk}`);
  if (place.offset !== undefined) parts.push(`byte ${place.offset}`);
  if (place.step !== undefined) parts.push(`step ${place.step}`);
  return parts.join(', ');
}
