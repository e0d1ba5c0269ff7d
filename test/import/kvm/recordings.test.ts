/** The recordings of one guest each, where they lie beside the project: every event is accounted for. */

import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { importKvm } from '../../../src/import/kvm/import-kvm.ts';
import type { TraceHeader } from '../../../src/trace/header.ts';

const RECORDINGS = fileURLToPath(new URL('../../../../shared/recordings/', import.meta.url));

const SCENARIOS = [
  'kvm/a_npt0',
  'kvm/a_npt1',
  'kvm/a_npt1_notdpmmu',
  'kvm/b_pae_npt0',
  'kvm/b_pse_npt0',
  'kvm/c_nest_intr',
  'kvm/c_nest_np0',
  'kvm/c_nest_np0_npt0',
  'kvm/c_nest_np1',
  'kvm/c_nest_np1_off',
  'kvm-intel/ept0_g64',
  'kvm-intel/ept0_pae',
  'kvm-intel/ept0_pse',
  'kvm-intel/ept1_g64',
  'kvm-intel/ept1_noad_g64',
  'kvm-intel/ept1_notdp_g64',
  'kvm-intel/ept1_pae',
  'kvm-intel/ept1_pse',
  'kvm-intel/icl_ept1_g64',
  'kvm-intel/nest_ept',
  'kvm-intel/nest_ept0',
  'kvm-intel/nest_ept_noad',
  'kvm-intel/nest_ept_off',
  'kvm-intel/nest_noept12',
];

/** What may have to be concluded: all of it is told in the README. */
const CONCLUDED = new Set([
  'accessed and dirty bits found set',
  'accessed and dirty bits found clear',
  'entry first known when read',
  'host page learned: large',
  'store into a table whose value is not known',
]);

/** The same of guests that announce nothing. */
const UNANNOUNCED = new Set([
  ...CONCLUDED,
  'entry above a leaf as the next dump has it',
  'fetch through entries that are not known',
  'guest state of an entry concluded',
  'memory as a dump has it',
  'register write not announced',
  'store not announced',
]);

describe.runIf(existsSync(RECORDINGS))('recordings (only where ../shared/recordings exists)', () => {
  it.each(SCENARIOS)('%s is understood', async (folder) => {
    const headers: TraceHeader[] = [];
    const sink = { header: (given: TraceHeader) => headers.push(given), steps: () => undefined };
    const { receipt } = await importKvm(RECORDINGS + folder, sink);
    const counts = readFileSync(`${RECORDINGS}${folder}/event_counts.txt`, 'utf8').trim().split('\n');
    for (const line of counts) {
      const [count, event] = line.trim().split(/\s+/) as [string, string];
      const uses = receipt.uses.get(event);
      const sum = [...(uses?.values() ?? [])].reduce((a, b) => a + b, 0);
      expect([event, sum]).toEqual([event, Number(count)]);
      expect([event, uses?.get('omitted')]).toEqual([event, undefined]);
    }
    const omissions = headers[0]!.omissions;
    expect(omissions.filter(({ what }) => !CONCLUDED.has(what))).toEqual([]);
    const concluded = omissions.reduce((sum, { count }) => sum + count, 0);
    expect(concluded).toBeLessThan(60);
  });

  it.each(['vm1', 'vm2'])('of two guests at once %s is told apart', async (vm) => {
    const headers: TraceHeader[] = [];
    const sink = { header: (given: TraceHeader) => headers.push(given), steps: () => undefined };
    const { receipt } = await importKvm(`${RECORDINGS}kvm/d_two`, sink, { vm });
    const own = [...receipt.uses].filter(([, uses]) => [...uses.keys()].some((use) => use !== 'omitted'));
    expect(own.length).toBeGreaterThan(20);
    const others = headers[0]!.omissions.filter(({ what }) => !what.endsWith(': by another task'));
    expect(others.map(({ what }) => what).filter((what) => !UNANNOUNCED.has(what))).toEqual([]);
  });

  it('of two guests at once one has to be chosen', async () => {
    const sink = { header: () => undefined, steps: () => undefined };
    await expect(importKvm(`${RECORDINGS}kvm/d_two`, sink)).rejects.toMatchObject({ code: 'E_NO_SUCH_FILE' });
  });

  it.each(['kvm/c_nest_np1', 'kvm-intel/nest_ept'])('%s is understood without its side files', async (folder) => {
    const headers: TraceHeader[] = [];
    const sink = { header: (given: TraceHeader) => headers.push(given), steps: () => undefined };
    const { receipt } = await importKvm(`${RECORDINGS}${folder}/trace.dat`, sink);
    expect([...receipt.uses].filter(([, uses]) => uses.has('omitted'))).toEqual([]);
    expect(headers[0]!.unknown).toContain('tables');
  });
});
