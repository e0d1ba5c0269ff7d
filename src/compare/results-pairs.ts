/**
 * Which trace of one results file is which of another: the same bytes by digest, best of all under the same name; traces
 * that were recorded again by name.
 */

import { basename } from 'node:path';
import type { TraceEntry } from '../results/reader.ts';

export interface TracePair {
  /** Undefined: added. */
  readonly a: TraceEntry | undefined;
  /** Undefined: removed. */
  readonly b: TraceEntry | undefined;
}

/** Ways to know a trace again, the surest first; no key: not in this way. */
const KEYS: readonly ((trace: TraceEntry) => string | undefined)[] = [
  ({ digest, file, segment }) => digest && `${digest} ${segment} ${file}`,
  ({ digest, file, segment }) => digest && `${digest} ${segment} ${basename(file)}`,
  ({ digest }) => digest,
  ({ file, segment }) => `${segment} ${file}`,
  ({ file, segment }) => `${segment} ${basename(file)}`,
];

/** Pairs in the order of `a`, what was added behind them. Each trace is in one pair. */
export function pairTraces(a: readonly TraceEntry[], b: readonly TraceEntry[]): TracePair[] {
  const partner = new Map<TraceEntry, TraceEntry>();
  const taken = new Set<TraceEntry>();
  for (const keyOf of KEYS) {
    const free = new Map<string, TraceEntry[]>();
    for (const trace of b.toReversed()) {
      const key = taken.has(trace) ? undefined : keyOf(trace);
      if (key !== undefined) free.set(key, [...(free.get(key) ?? []), trace]);
    }
    for (const trace of a) {
      const key = partner.has(trace) ? undefined : keyOf(trace);
      const found = key === undefined ? undefined : free.get(key)?.pop();
      if (found === undefined) continue;
      partner.set(trace, found);
      taken.add(found);
    }
  }
  return [
    ...a.map((trace): TracePair => ({ a: trace, b: partner.get(trace) })),
    ...b.filter((trace) => !taken.has(trace)).map((trace): TracePair => ({ a: undefined, b: trace })),
  ];
}

/** The very same trace: steps of both sides are the same steps. */
export function isSameTrace({ a, b }: TracePair): boolean {
  return a?.digest !== undefined && a.digest === b?.digest;
}
