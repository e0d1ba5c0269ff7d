/** The header of a minimised trace: the original's, with a note of where the smaller one comes from. */

import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { basename } from 'node:path';
import type { Source, TraceHeader } from '../trace/header.ts';
import { ioProblem } from '../trace/input.ts';
import type { GoalKind } from './minimise-goal.ts';
import type { Wanted } from './minimise-locate.ts';

export interface Origin {
  readonly kind: GoalKind;
  /** Steps before the divergence that are no longer there. */
  readonly left: number;
  readonly options: Wanted;
}

const LEFT_OUT = 'steps left out by rewalk minimise';

/** Who the expectations are by, if not as recorded. */
function expectations({ kind, options }: Origin): string | undefined {
  switch (kind) {
    case 'as recorded':
      return undefined;
    case 'remade':
      return 'expectations made by rewalk minimise in place of recorded ones: of all steps but the last';
    default:
      return `expectations made by rewalk minimise in place of recorded ones: what ${options.sides![0].label} does`;
  }
}

/** Lines stay those of the original's sources; the trace minimised is one source more. */
export function minimisedHeader(header: TraceHeader, path: string, origin: Origin): TraceHeader {
  const made = expectations(origin);
  const omissions = [...header.omissions, { what: LEFT_OUT, count: origin.left }];
  if (made !== undefined) omissions.push({ what: made, count: 1 });
  return { ...header, omissions, sources: [...header.sources, sourceOf(path)] };
}

/** Throws E_IO. */
function sourceOf(path: string): Source {
  const hash = createHash('sha256');
  const buffer = new Uint8Array(0x1_0000);
  let size = 0;
  try {
    const fd = openSync(path, 'r');
    try {
      for (let read = readSync(fd, buffer); read > 0; read = readSync(fd, buffer)) {
        hash.update(buffer.subarray(0, read));
        size += read;
      }
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw ioProblem(error, path, 'read it');
  }
  return { name: basename(path), size, sha256: hash.digest() };
}
