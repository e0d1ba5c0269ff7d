/** Walk logs of a few records, imported in this process. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { Problem, placeText } from '../../../src/bits/problem.ts';
import { importWalklog } from '../../../src/import/walklog/importer.ts';
import type { StepColumns } from '../../../src/trace/columns.ts';
import type { TraceHeader } from '../../../src/trace/header.ts';
import { stepObject } from '../../../src/trace/text/writing.ts';

export const folder = mkdtempSync(join(tmpdir(), 'rewalk-walklog-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

export const HEADER =
  'H walklog 1 bochs=783b58fd maxphy=40 fix=ff dedup=0 hits=0 cpu=arrow_lake feat=pse,pae,pat,nx vmx_ept_vpid_cap=f0106f34141 vmx_c2_allowed=6d77fff';

let logs = 0;

/** A file under the test's folder. */
export function logFile(content: string | Uint8Array, suffix = '.walklog'): string {
  const path = join(folder, `${logs++}${suffix}`);
  writeFileSync(path, content);
  return path;
}

/** A step as the text form has it. */
export type Step = Record<string, unknown>;

export interface Imported {
  readonly header: TraceHeader;
  readonly chunks: readonly StepColumns[];
  readonly steps: readonly Step[];
}

export async function importFile(path: string): Promise<Imported> {
  const headers: TraceHeader[] = [];
  const chunks: StepColumns[] = [];
  await importWalklog(path, {
    header: (header) => {
      headers.push(header);
    },
    steps: (columns) => {
      chunks.push(columns);
    },
  });
  if (headers.length !== 1) throw new Error(`${headers.length} headers`);
  const steps = chunks.flatMap((columns) => Array.from(columns.op, (_, i) => stepObject(columns, i) as Step));
  return { header: headers[0]!, chunks, steps };
}

/** Imports records behind the usual header line. */
export async function importRecords(...records: string[]): Promise<Imported> {
  return importFile(logFile([HEADER, ...records, ''].join('\n')));
}

/** The steps of records, without their line numbers. */
export async function stepsOf(...records: string[]): Promise<Step[]> {
  const { steps } = await importRecords(...records);
  return steps.map(({ line: _, ...step }) => step);
}

/** What somebody is told who imports that: code, place without folder and number, message. */
export async function toldOf(imports: Promise<unknown>): Promise<string> {
  try {
    await imports;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    const place = placeText(error.place).replace(/\S*?\d+\.walklog/, 'LOG');
    return `${error.code} ${place}: ${error.message}`;
  }
  return 'imported';
}
