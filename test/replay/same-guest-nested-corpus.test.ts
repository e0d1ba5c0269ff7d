/** Traces of the corpus in which the guest is a hypervisor, on every emulated KVM, however its walks are wired. */

import { describe, expect, test } from 'vitest';
import type { WiringName } from '../../src/mmu/wiring.ts';
import { expectationsFor } from '../../src/replay/expectations.ts';
import type { MachineChoice } from '../../src/replay/machines.ts';
import { NESTED_TDP_WITHOUT_TDP, type ReplayResult } from '../../src/replay/result.ts';
import { ReplaySession } from '../../src/replay/session.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';

/** Accesses compared with TDP and with shadow paging, and legal differences by number: under 6.1, under 7.3. */
interface Expected {
  readonly tdp: number;
  readonly shadow: number;
  readonly old?: Record<string, number>;
  readonly new?: Record<string, number>;
}

const TRACES: Readonly<Record<string, Expected>> = {
  'hand/nested-fault-npt.rwt': { tdp: 5, shadow: 0 },
  'hand/nested-fault-ept.rwt': { tdp: 8, shadow: 0 },
  'walklog/svm-npt.rwt': { tdp: 8414, shadow: 8324 },
  'kvm/c_nest_np0_npt0.rwt': { tdp: 438, shadow: 438 },
  'kvm/c_nest_np1.rwt': { tdp: 952, shadow: 0, new: { 6: 12 } },
  'kvm-intel/nest_noept12.rwt': { tdp: 404, shadow: 404 },
  'kvm-intel/nest_ept.rwt': { tdp: 1234, shadow: 0, new: { 6: 47, 16: 8 } },
};

const MACHINES: readonly MachineChoice[] = [
  { profile: '6.1', tdp: true, tdpMmu: true },
  { profile: '7.3', tdp: true, tdpMmu: true },
  { profile: '7.3', tdp: true, tdpMmu: false },
  { profile: '6.1', tdp: false },
  { profile: '7.3', tdp: false },
];
const WIRINGS: readonly WiringName[] = ['walk-mmu', 'nested-cpu-walk', 'gva-walk'];

function onKvm(name: string, choice: MachineChoice): ReplayResult {
  const path = `traces/${name}`;
  const trace = openTrace(path);
  try {
    let session: ReplaySession | undefined;
    for (const item of trace) {
      if (item.kind === 'header') {
        const machine = { machine: 'kvm' as const, ...choice };
        const allowUnmodelled = [NESTED_TDP_WITHOUT_TDP];
        session = new ReplaySession(path, item.header, {
          machine,
          allowUnmodelled,
          expectations: expectationsFor(path),
        });
      } else if (item.kind === 'steps') session!.run(item.columns);
    }
    return session!.result(undefined, 'complete');
  } finally {
    trace.close();
  }
}

function check(name: string, choice: MachineChoice): void {
  const expected = TRACES[name]!;
  const { verdict, receipt, guestDifferences } = onKvm(name, choice);
  const guest = receipt.sameGuest!;
  expect(guestDifferences).toEqual([]);
  const accesses = choice.tdp ? expected.tdp : expected.shadow;
  expect([verdict, guest.accesses, guest.undetermined, guest.unexplained]).toEqual(['match', accesses, 0, 0]);
  const legal = Object.fromEntries(guest.legal.map(({ number, count }) => [number, count]));
  expect(legal).toEqual((choice.tdp ? expected[choice.profile === '6.1' ? 'old' : 'new'] : undefined) ?? {});
  expect(Object.keys(receipt.notModelled)).toEqual(accesses === expected.tdp ? [] : [NESTED_TDP_WITHOUT_TDP]);
}

describe.each(MACHINES)('%j', (choice) => {
  test.each(Object.keys(TRACES))('%s', (name) => check(name, choice));
});

test.each(WIRINGS)('wired as %s', (wiring) => {
  for (const profile of ['6.1', '7.3'] as const) {
    for (const name of ['walklog/svm-npt.rwt', 'kvm/c_nest_np1.rwt', 'kvm-intel/nest_ept.rwt']) {
      check(name, { profile, wiring, tdp: true, tdpMmu: true });
    }
  }
});
