/** Every recording that lies beside the project, where it does: all of it is understood, and nothing is unexplained. */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { StepKind } from '../../../src/formats/step.ts';
import { importKvmGuest } from '../../../src/import/kvm-guest/import-kvm-guest.ts';
import type { StepColumns } from '../../../src/trace/columns.ts';
import type { TraceHeader } from '../../../src/trace/header.ts';

const RECORDINGS = fileURLToPath(new URL('../../../../shared/recordings/', import.meta.url));

/** Folder, guest, and steps as they were counted and looked at when the importer was written. */
const SCENARIOS: readonly (readonly [folder: string, vm: string | '', accesses: number])[] = [
  ['kvm/a_npt0', '', 1526],
  ['kvm/a_npt1', '', 1647],
  ['kvm/a_npt1_notdpmmu', '', 1647],
  ['kvm/b_pae_npt0', '', 1173],
  ['kvm/b_pse_npt0', '', 836],
  ['kvm/c_nest_intr', '', 438],
  ['kvm/c_nest_np0', '', 438],
  ['kvm/c_nest_np0_npt0', '', 438],
  ['kvm/c_nest_np1', '', 952],
  ['kvm/c_nest_np1_off', '', 956],
  ['kvm/d_two', 'vm1', 973],
  ['kvm/d_two', 'vm2', 114],
  ['kvm-intel/ept0_g64', '', 1463],
  ['kvm-intel/ept0_pae', '', 1109],
  ['kvm-intel/ept0_pse', '', 790],
  ['kvm-intel/ept1_g64', '', 1464],
  ['kvm-intel/ept1_noad_g64', '', 1464],
  ['kvm-intel/ept1_notdp_g64', '', 1464],
  ['kvm-intel/ept1_pae', '', 1109],
  ['kvm-intel/ept1_pse', '', 790],
  ['kvm-intel/icl_ept1_g64', '', 1584],
  ['kvm-intel/nest_ept', '', 1234],
  ['kvm-intel/nest_ept0', '', 404],
  ['kvm-intel/nest_ept_noad', '', 1064],
  ['kvm-intel/nest_ept_off', '', 1249],
  ['kvm-intel/nest_noept12', '', 404],
];

describe.runIf(existsSync(RECORDINGS))('recordings (only where ../shared/recordings exists)', () => {
  it.each(SCENARIOS)('%s %s is understood', async (folder, vm, accesses) => {
    const headers: TraceHeader[] = [];
    const runs: StepColumns[] = [];
    const sink = {
      header: (given: TraceHeader) => {
        headers.push(given);
      },
      steps: (columns: StepColumns) => {
        runs.push(columns);
      },
    };
    await importKvmGuest(RECORDINGS + folder, sink, vm === '' ? {} : { vm });
    expect(headers).toHaveLength(1);
    const kinds = runs.flatMap((run) => [...run.op].map((op) => op & 0x1f));
    expect(kinds.filter((kind) => kind === StepKind.ACCESS)).toHaveLength(accesses);
    const omitted = headers[0]!.omissions.map(({ what }) => what);
    expect(omitted).not.toContain('unexplained overwrite');
    expect(omitted).not.toContain('entry whose place is not known');
    expect(omitted).not.toContain('access without a result');
    expect(omitted).not.toContain('register found changed');
    if (vm === '') expect(omitted).not.toContain('entry first known when read');
    let next = 0;
    for (const run of runs) {
      expect(run.firstOrdinal).toBe(next);
      expect(run.stepCount).toBeLessThanOrEqual(16_384);
      next += run.stepCount;
    }
  });
});
