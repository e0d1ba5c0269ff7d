/** Small traces in the text form, replayed in this process; and the tables that most of them walk. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import type { Divergence, ReplayResult } from '../../src/replay/result.ts';
import { type ReplayOptions, ReplaySession } from '../../src/replay/session.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';

const folder = mkdtempSync(join(tmpdir(), 'rewalk-replay-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

export type Line = Readonly<Record<string, unknown>>;

/** Every kind of observation that a recorder of outcomes sees. */
export const OUTCOMES = [
  'translated',
  'completed',
  'exception',
  'ept-violation',
  'ept-misconfig',
  'npf',
  'exit-linear',
  'pdpte-loaded',
  'register',
  'entry-after',
];
/** A recorder that sees the walk itself, like a walk log. */
export const WALKS = ['element', 'pdpte', 'nested-walk', 'entry-write', ...OUTCOMES];

export const FEATURES = ['pse', 'pse36', 'pae', 'pge', 'nx', 'pdpe1gb', 'smep', 'smap', 'pcid', 'pku', 'pks', 'la57'];

/** A header line; `fields` replace its usual fields. */
export function header(fields: Line = {}): Line {
  return {
    header: {
      title: 'a test',
      recorder: 'by hand',
      processor: { vendor: 'intel', maxphyaddr: 40, features: FEATURES, eptVpidCap: '0x6114141' },
      adPolicy: 'after-permissions',
      observable: OUTCOMES,
      ...fields,
    },
  };
}

/** 4-level paging with NXE and CR0.WP; `registers` replace or add. */
export function state(registers: Line = {}): Line {
  return { state: { cr0: '0x80010011', cr3: '0x1000', cr4: '0x20', efer: '0xd00', ...registers } };
}

export function store(address: string, value: string, more: Line = {}): Line {
  return { store: address, value, ...more };
}

/** Linear 0x0-0x1fffff through 0x1000, 0x2000, 0x3000, 0x4000; page 5 lies at 0x5000. All of it user, writable, A and D set. */
export const TABLES: readonly Line[] = [
  store('0x1000', '0x2067'),
  store('0x2000', '0x3067'),
  store('0x3000', '0x4067'),
  store('0x4028', '0x5067'),
];

/** The reads of a walk to 0x5xxx through `TABLES`. */
export const READS: readonly Line[] = [
  { element: '0x1000', level: 4, value: '0x2067' },
  { element: '0x2000', level: 3, value: '0x3067' },
  { element: '0x3000', level: 2, value: '0x4067' },
  { element: '0x4028', level: 1, value: '0x5067' },
];

export const TO_PAGE_5: Line = { translated: '0x5008', page: '4k', guestPhysical: '0x5008' };

export function access(type: string, address: string, fields: Line = {}): Line {
  return { access: type, address, ...fields };
}

/** An access expected to go to a physical address, how is not known. */
export function lands(type: string, address: string, physical: string, fields: Line = {}): Line {
  return access(type, address, { physical, ...fields });
}

let traces = 0;

export function textFile(lines: readonly Line[]): string {
  const path = join(folder, `${traces++}.jsonl`);
  writeFileSync(path, lines.map((line) => JSON.stringify(line)).join('\n'));
  return path;
}

/** Replays lines that begin with a header; with several segments, the last. */
export function replay(lines: readonly Line[], options: ReplayOptions = {}): ReplayResult {
  const path = textFile(lines);
  const trace = openTrace(path);
  try {
    let session: ReplaySession | undefined;
    for (const item of trace) {
      if (item.kind === 'header') session = new ReplaySession('trace.jsonl', item.header, options);
      else if (item.kind === 'steps' && !session!.run(item.columns)) return session!.result(undefined, 'not read');
      else if (item.kind === 'end') return session!.result(item.digest, item.complete ? 'complete' : 'cut short');
    }
    throw new Error('a trace has an end');
  } finally {
    trace.close();
  }
}

/** The only divergence of a replay. */
export function divergenceOf(lines: readonly Line[], options: ReplayOptions = {}): Divergence {
  const { divergences, receipt } = replay(lines, options);
  if (receipt.diverged !== 1) throw new Error(`${receipt.diverged} divergences where one is due`);
  return divergences[0]!;
}

/** Counts by kind of observation: `[compared, predicted fields, learned]`. */
export function countsOf({ receipt }: ReplayResult): Record<string, [number, number, number]> {
  return Object.fromEntries(
    receipt.counts.map(({ kind, observations, predicted, learned }) => [kind, [observations, predicted, learned]]),
  );
}
