import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type Bisected, bisect } from '../../src/compare/bisect.ts';
import { MachineComparison } from '../../src/compare/machines.ts';
import type { Wanted } from '../../src/compare/minimise-locate.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';
import { mutantAgainstClean, REPLAY, TRACES } from './minimised.ts';

function bisected(trace: string, wanted: Wanted, states = true): Bisected {
  const work = bisect(join(TRACES, trace), { ...wanted, states });
  for (;;) {
    const next = work.next();
    if (next.done === true) return next.value!;
  }
}

describe('a mutant against a clean machine', () => {
  test('the step that goes wrong comes before the one that shows it', () => {
    const { shown, parted } = bisected(
      'mutants/m38-guest-mode-not-in-role.rwt',
      mutantAgainstClean('m38-guest-mode-not-in-role'),
    );
    expect(shown).toMatchObject({ step: 12, cause: 'clean has get-page, which m38-guest-mode-not-in-role lacks' });
    expect(parted!.step).toBe(11);
    expect(parted!.places.join('\n')).toContain(
      'vcpu.cpuWalk.base: 0x23704 on clean, 0x3704 on m38-guest-mode-not-in-role',
    );
  });

  test('long before: what differs in a TLB until then', () => {
    const common = { machine: ['kvm'], tdp: [true] } as const;
    const { shown, parted } = bisected(
      'mutants/m43-tdp-pcid-not-flushed.rwt',
      mutantAgainstClean('m43-tdp-pcid-not-flushed', common),
    );
    expect(parted!.step).toBeLessThan(shown!.step);
    expect(parted!.places.length).toBeGreaterThan(0);
  });

  test.runIf(existsSync(join(TRACES, 'kvmmmu/ept0_g64.rwt')))(
    'in a recording, by halving',
    () => {
      const { shown, parted, runs } = bisected('kvmmmu/ept0_g64.rwt', mutantAgainstClean('m44-pcide-keeps-roots'));
      expect([shown?.step, parted?.step]).toEqual([18470, 18469]);
      expect(parted).toMatchObject({ line: 72161, source: 'trace.dat' });
      expect(parted!.places.some((place) => place.startsWith('vcpu.rootMmu.root:'))).toBe(true);
      expect(runs).toBeLessThanOrEqual(20);
    },
    60_000,
  );

  test('that never does anything else: no bad step', () => {
    const { shown, parted, steps } = bisected(
      'mutants/m01-inherited-permissions.rwt',
      mutantAgainstClean('m39-nested-mmio-cache'),
    );
    expect([shown, parted, steps]).toEqual([undefined, undefined, 9]);
  });

  test('what shows is what a comparison finds', () => {
    const wanted = mutantAgainstClean('m05-child-of-other-gfn');
    const { shown } = bisected('mutants/m05-child-of-other-gfn.rwt', wanted, false);
    let comparison: MachineComparison | undefined;
    for (const item of openTrace(join(TRACES, 'mutants/m05-child-of-other-gfn.rwt'))) {
      const options = { scope: 'all', maxDiffs: 1, bail: true, allowUnmodelled: [] } as const;
      if (item.kind === 'header') comparison = new MachineComparison('', item.header, wanted.sides!, options);
      else if (item.kind === 'steps') comparison!.run(item.columns);
    }
    const [first] = comparison!.result(undefined, 'complete').differences;
    expect(shown).toMatchObject({ step: first!.step, cause: first!.cause, group: first!.group });
  });
});

test('a replay that matches has no bad step', () => {
  const { shown, parted, runs } = bisected('hand/canonical.rwt', REPLAY);
  expect([shown, parted, runs]).toEqual([undefined, undefined, 1]);
});
