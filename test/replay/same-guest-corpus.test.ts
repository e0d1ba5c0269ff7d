/** Small traces of the corpus on every emulated KVM: the guest sees the same, or what differs is known. */

import { describe, expect, test } from 'vitest';
import { expectationsFor } from '../../src/replay/expectations.ts';
import type { MachineChoice } from '../../src/replay/machines.ts';
import type { GuestComparison, ReplayResult } from '../../src/replay/result.ts';
import { ReplaySession } from '../../src/replay/session.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';

const MACHINES: readonly MachineChoice[] = [
  { profile: '6.1', tdp: true, tdpMmu: true },
  { profile: '7.3', tdp: true, tdpMmu: false },
  { profile: '6.1', tdp: false },
  { profile: '7.3', tdp: false },
];

/** Trace, accesses compared, then by number how often legal differences are met with TDP and with shadow paging. */
const TRACES: readonly [string, number, Record<string, number>, Record<string, number>][] = [
  ['hand/canonical.rwt', 8, {}, {}],
  ['hand/pae-pdptes.rwt', 7, {}, {}],
  ['hand/protection-keys.rwt', 6, {}, { 7: 1 }],
  ['hand/pse-36.rwt', 5, {}, {}],
  ['hand/stale-translations.rwt', 10, {}, {}],
  ['walklog/32bit-eventinj.rwt', 163, {}, {}],
  ['walklog/cet.rwt', 185, {}, { 9: 1 }],
  ['walklog/la57.rwt', 88, {}, {}],
  ['walklog/pcid.rwt', 120, {}, {}],
  ['kvm/b_pae_npt0.rwt', 1173, { 10: 4 }, {}],
  ['kvm-intel/ept1_pse.rwt', 790, {}, { 11: 1 }],
];

function onKvm(name: string, choice: MachineChoice): ReplayResult {
  const path = `traces/${name}`;
  const trace = openTrace(path);
  try {
    let session: ReplaySession | undefined;
    for (const item of trace) {
      const machine = { machine: 'kvm' as const, ...choice };
      if (item.kind === 'header') {
        session = new ReplaySession(path, item.header, { machine, expectations: expectationsFor(path) });
      } else if (item.kind === 'steps') session!.run(item.columns);
    }
    return session!.result(undefined, 'complete');
  } finally {
    trace.close();
  }
}

function legalOf({ legal }: GuestComparison): Record<string, number> {
  return Object.fromEntries(legal.map(({ number, count }) => [number, count]));
}

describe.each(MACHINES)('%j', (choice) => {
  test.each(TRACES)('%s', (name, accesses, withTdp, withShadow) => {
    const result = onKvm(name, choice);
    const guest = result.receipt.sameGuest!;
    expect(result.guestDifferences).toEqual([]);
    expect([result.verdict, guest.accesses, guest.undetermined]).toEqual(['match', accesses, 0]);
    expect(legalOf(guest)).toEqual(choice.tdp ? withTdp : withShadow);
    const counted = guest.legal.reduce((sum, { count }) => sum + count, 0);
    expect(guest.equal + guest.asBare + guest.stale + counted).toBe(accesses);
  });
});
