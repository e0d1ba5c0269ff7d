/**
 * Every recording that lies beside the project, where it does: the binary trace and the kernel's own text of the same
 * buffer are the same events, field by field. By default of every kind of event of either vendor's the shortest recording
 * that has it; REWALK_RECORDINGS=all takes all of them.
 */

import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { TraceEvent } from '../../../src/import/ftrace/event.ts';
import { openKvmTrace } from '../../../src/import/ftrace/open-kvm-trace.ts';

const RECORDINGS = fileURLToPath(new URL('../../../../shared/recordings/', import.meta.url));

/** Folder and events, as the text's own head counts them. */
const SCENARIOS: readonly (readonly [folder: string, events: number])[] = [
  ['kvm/a_npt0', 88222],
  ['kvm/a_npt1', 90986],
  ['kvm/a_npt1_notdpmmu', 65812],
  ['kvm/b_pae_npt0', 65552],
  ['kvm/b_pse_npt0', 43309],
  ['kvm/c_nest_intr', 29422],
  ['kvm/c_nest_np0', 26575],
  ['kvm/c_nest_np0_npt0', 37828],
  ['kvm/c_nest_np1', 141517],
  ['kvm/c_nest_np1_off', 142010],
  ['kvm/d_two', 66825],
  ['kvm-intel/ept0_g64', 76151],
  ['kvm-intel/ept0_pae', 56751],
  ['kvm-intel/ept0_pse', 38309],
  ['kvm-intel/ept1_g64', 82626],
  ['kvm-intel/ept1_noad_g64', 82963],
  ['kvm-intel/ept1_notdp_g64', 61073],
  ['kvm-intel/ept1_pae', 51169],
  ['kvm-intel/ept1_pse', 37818],
  ['kvm-intel/icl_ept1_g64', 86953],
  ['kvm-intel/nest_ept', 193615],
  ['kvm-intel/nest_ept0', 31904],
  ['kvm-intel/nest_ept_noad', 174460],
  ['kvm-intel/nest_ept_off', 193857],
  ['kvm-intel/nest_noept12', 27081],
];

/**
 * Whether every field is the same, but for what text does not have: nanoseconds, all of a role word, the text of events
 * that are not typed.
 */
function same(binary: TraceEvent, text: TraceEvent): boolean {
  const a = binary as unknown as Record<string, unknown>;
  const b = text as unknown as Record<string, unknown>;
  let fields = 0;
  for (const key in a) {
    fields++;
    if (a[key] === b[key] || key === 'position' || key === 'roleMask') continue;
    if (key === 'time' && Math.round(binary.time / 1000) === Math.round(text.time / 1000)) continue;
    if (key === 'text' && binary.name === 'other') continue;
    if (key !== 'role' || !('role' in binary && 'role' in text)) return false;
    if ((binary.role & text.roleMask) >>> 0 !== text.role) return false;
  }
  return fields === Object.keys(b).length;
}

/** Of each vendor's folder, the shortest recordings that together have every kind of event. */
function fewest(): (readonly [folder: string, events: number])[] {
  const had = new Set<string>();
  return [...SCENARIOS]
    .sort(([, a], [, b]) => a - b)
    .filter(([folder]) => {
      const vendor = folder.slice(0, folder.indexOf('/'));
      const lines = readFileSync(`${RECORDINGS}${folder}/event_counts.txt`, 'utf8').trim().split('\n');
      const kinds = lines.map((line) => `${vendor} ${line.trim().split(/\s+/)[1]}`).filter((kind) => !had.has(kind));
      for (const kind of kinds) had.add(kind);
      return kinds.length > 0;
    });
}

const here = existsSync(RECORDINGS);
const chosen = here && process.env['REWALK_RECORDINGS'] !== 'all' ? fewest() : SCENARIOS;

describe.runIf(here)('recordings (only where ../shared/recordings exists)', () => {
  it.each(chosen)('%s: both forms are the same %i events', { timeout: 120_000 }, async (folder, count) => {
    const binary = await openKvmTrace(`${RECORDINGS}${folder}/trace.dat`);
    const text = await openKvmTrace(`${RECORDINGS}${folder}/trace.txt.gz`);
    expect(binary).toMatchObject({ form: 'trace.dat 7', kernel: '6.1.0-56-amd64', cpus: text.cpus });
    const texts = text.events[Symbol.asyncIterator]();
    let events = 0;
    for await (const event of binary.events) {
      const next = await texts.next();
      if (next.done === true || !same(event, next.value)) expect(next.value).toEqual(event);
      events++;
    }
    expect((await texts.next()).done).toBe(true);
    expect(events).toBe(count);
  });
});
