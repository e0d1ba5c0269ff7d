/** An L2 above the emulated KVM: what it, and L1, see is what a bare processor shows them. */

import { describe, expect, test } from 'vitest';
import type { KvmConfig } from '../../../src/formats/kvm-config.ts';
import {
  CR0_PE,
  CR0_PG,
  CR4_LA57,
  CR4_PAE,
  EFER_NXE,
  EFER_SVME,
  Reg,
  SECONDARY_EPT,
  SECONDARY_MBEC,
  SECONDARY_PML,
  SECONDARY_VPID,
} from '../../../src/formats/registers.ts';
import { Invalidation } from '../../../src/formats/step.ts';
import type { KvmMachineOptions } from '../../../src/machine/kvm/machine.ts';
import { WIRING_NAMES } from '../../../src/mmu/wiring.ts';
import { L2_PAGES, NESTED_ROOT, NestedBench, OFFSET, SECOND_ROOT } from './nested-bench.ts';

const PAGE = 0x1000;
const NO_WRITE = { svm: 0x65, vmx: 0x335 };
const PF_INTERCEPT = 1 << 14;

const WAYS: readonly (Partial<KvmConfig> & { readonly options?: KvmMachineOptions })[] = (
  ['amd', 'intel'] as const
).flatMap((vendor) =>
  (['6.1', '7.3'] as const).flatMap((profile) => [
    ...WIRING_NAMES.map((wiring) => ({ vendor, profile, options: { wiring } })),
    { vendor, profile, tdpMmu: false },
    { vendor, profile, tdpLevel: 5 as const },
  ]),
);

const nameOf = ({ vendor, profile, tdpMmu, tdpLevel, options }: (typeof WAYS)[number]): string =>
  [vendor, profile, options?.wiring, tdpMmu === false ? 'legacy' : '', tdpLevel ?? ''].join(' ');

describe.each(WAYS.map((way) => [nameOf(way), way] as const))('L2 with nested paging: %s', (_, way) => {
  const { options = {}, ...config } = way;
  const bench = (): NestedBench => new NestedBench(config, options);

  test('reaches memory through both tables, and L1 its own', () => {
    const b = bench();
    expect(b.access(5 * PAGE)).toBe('translated to 0x405000');
    b.enter();
    for (const type of ['read', 'write', 'fetch', 'rmw'] as const) {
      expect(b.access(5 * PAGE + 0x10, { type, user: true })).toBe('translated to 0x125010');
    }
    b.leave();
    expect(b.access(5 * PAGE)).toBe('translated to 0x405000');
    b.enter();
    expect(b.access(6 * PAGE, { type: 'write' })).toBe('translated to 0x126000');
  });

  test('L1 gets the faults of its own tables, and may mend them', () => {
    const b = bench();
    b.map(L2_PAGES + 5, 0, 0);
    b.enter();
    expect(b.access(5 * PAGE + 8, { type: 'write' })).toMatch(b.vmx ? /ept-violation 0x.*gpa|ept-violation/ : /npf/);
    b.leave();
    b.map(L2_PAGES + 5, 0x140);
    b.nestedTablesChanged();
    b.enter();
    expect(b.access(5 * PAGE + 8, { type: 'write' })).toBe('translated to 0x140008');
    b.leave();
    b.map(L2_PAGES + 5, 0x141, b.vmx ? NO_WRITE.vmx : NO_WRITE.svm);
    b.nestedTablesChanged();
    b.enter();
    expect(b.access(5 * PAGE)).toBe('translated to 0x141000');
    expect(b.access(5 * PAGE, { type: 'write' })).toMatch(/ept-violation|npf/);
  });

  test('a table of L2’s own that L1 does not let it have', () => {
    const b = bench();
    b.map(4, 0, 0);
    b.enter();
    expect(b.access(5 * PAGE, { user: true })).toMatch(/ept-violation|npf/);
    b.leave();
    b.map(4, OFFSET + 4);
    b.nestedTablesChanged();
    b.enter();
    expect(b.access(5 * PAGE, { user: true })).toBe('translated to 0x125000');
  });

  test('page faults are L2’s, or L1’s if it wants them', () => {
    const b = bench();
    b.store(b.l2Entry(7), 0);
    b.enter();
    const own = b.access(7 * PAGE, { type: 'write', user: true });
    b.leave();
    b.enter([[Reg.EXCEPTION_BITMAP, PF_INTERCEPT]]);
    const intercepted = b.access(7 * PAGE, { type: 'write', user: true });
    expect(intercepted).not.toBe(own);
  });

  test('the emulator’s accesses go the same ways', () => {
    const b = bench();
    b.enter();
    expect(b.access(5 * PAGE + 0x20, { emulated: true })).toBe('translated to 0x125020');
    b.store(b.l2Entry(8), 0);
    expect(b.access(8 * PAGE, { type: 'write', user: true, emulated: true })).toMatch(/exception|#PF/);
  });

  test('addresses of L2’s that no linear address leads to', () => {
    const b = bench();
    b.map(0x26, 0, 0);
    b.enter();
    expect(b.gpaAccess(0x2_5018)).toBe('translated to 0x125018');
    expect(b.gpaAccess(0x2_6000)).toMatch(/ept-violation|npf/);
    b.leave();
    expect(b.gpaAccess(0x2_6000)).toBe('translated to 0x26000');
  });

  test('L2 edits its tables and invalidates; L1 switches between two sets of nested tables', () => {
    const b = bench();
    b.enter();
    expect(b.access(5 * PAGE)).toBe('translated to 0x125000');
    b.store(b.l2Entry(5), ((L2_PAGES + 9) << 12) | 0x67);
    b.invalidate(Invalidation.INVLPG, 0, 5 * PAGE, 0);
    expect(b.access(5 * PAGE)).toBe('translated to 0x129000');
    b.leave();
    const second = b.vmx ? ([Reg.EPTP, (SECOND_ROOT << 12) | 0x1e] as const) : ([Reg.NCR3, SECOND_ROOT << 12] as const);
    const tag = b.vmx ? ([Reg.VPID, 2] as const) : ([Reg.ASID, 2] as const);
    b.enter([second, tag]);
    expect(b.access(5 * PAGE)).toBe('translated to 0x325000');
    b.leave();
    b.enter();
    expect(b.access(5 * PAGE)).toBe('translated to 0x129000');
  });

  test('writes its registers without L1', () => {
    const b = bench();
    b.store(b.l2Entry(5), ((L2_PAGES + 5) << 12) | 0x65);
    b.enter();
    expect(b.access(5 * PAGE, { type: 'write' })).toMatch(/exception|#PF/);
    b.write(Reg.CR0, CR0_PG | CR0_PE);
    expect(b.access(5 * PAGE, { type: 'write' })).toBe('translated to 0x125000');
    expect(b.access(5 * PAGE, { type: 'write', emulated: true })).toBe('translated to 0x125000');
  });
});

describe('SVM', () => {
  test('nested tables of an L1 with PAE paging stand under tables that KVM makes up', () => {
    for (const tdpLevel of [4, 5] as const) {
      const b = new NestedBench({ vendor: 'amd', tdpLevel });
      // Four PDPTEs at 0x30000; the first leads to the page directory of the usual tables.
      b.store(0x3_0000, ((NESTED_ROOT + 2) << 12) | 1);
      b.enter([
        [Reg.NCR3, 0x3_0000],
        [Reg.HOST_CR4, CR4_PAE],
        [Reg.HOST_EFER, EFER_NXE | EFER_SVME],
      ]);
      expect(b.access(5 * PAGE, { type: 'write' })).toBe('translated to 0x125000');
      expect(b.kvm.vcpu.mmu.root!.page).toBeNull();
    }
  });

  test('nested tables of an L1 with 32-bit paging', () => {
    const b = new NestedBench({ vendor: 'amd' });
    for (let i = 0; i < 512; i += 2) b.store(0x3_1000 + 4 * i, ((0x100 + i) << 12) | 0x67, ((0x101 + i) << 12) | 0x67);
    b.store(0x3_0000, 0x3_1067);
    b.enter([
      [Reg.NCR3, 0x3_0000],
      [Reg.HOST_CR4, 0],
      [Reg.HOST_EFER, EFER_SVME],
    ]);
    expect(b.access(5 * PAGE, { type: 'write' })).toBe('translated to 0x125000');
    expect(b.access(6 * PAGE, { type: 'fetch' })).toBe('translated to 0x126000');
  });

  test('INVLPGA of L1', () => {
    const b = new NestedBench({ vendor: 'amd' });
    expect(b.access(5 * PAGE)).toBe('translated to 0x405000');
    b.store(0x4000 + 8 * 5, (0x444 << 12) | 0x67);
    b.invalidate(Invalidation.INVLPGA, 0, 5 * PAGE, 0);
    expect(b.access(5 * PAGE)).toBe('translated to 0x444000');
  });
});

describe('VMX', () => {
  test.each(['6.1', '7.3'] as const)('misconfigurations, A and D bits of L1’s EPT (%s)', (profile) => {
    const b = new NestedBench({ vendor: 'intel', profile });
    b.map(L2_PAGES + 5, 0x125, 0x332);
    b.map(L2_PAGES + 6, 0x126, 0x037);
    b.enter([b.withAd()]);
    expect(b.access(5 * PAGE)).toMatch(/ept-misconfig/);
    b.access(6 * PAGE, { type: 'write' });
    const entry = ((NESTED_ROOT + 3) << 12) + 8 * (L2_PAGES + 6);
    expect(b.kvm.readEntry(0, entry, 0)[0]).toBe(0x12_6337);
    expect(b.bare.readEntry(0, entry, 0)[0]).toBe(0x12_6337);
  });

  test.each([
    '6.1',
    '7.3',
  ] as const)('L1’s page-modification log takes what L2 makes dirty, until it is full (%s)', (profile) => {
    const b = new NestedBench({ vendor: 'intel', profile });
    for (const page of [5, 6, 7]) b.map(L2_PAGES + page, 0x120 + page, 0x037);
    const controls = SECONDARY_EPT | SECONDARY_VPID | SECONDARY_PML;
    b.enter([b.withAd(), [Reg.SECONDARY_CONTROLS, controls], [Reg.PML_ADDRESS, 0x50_0000], [Reg.PML_INDEX, 1]]);
    expect(b.access(5 * PAGE, { type: 'write' })).toBe('translated to 0x125000');
    expect(b.access(6 * PAGE, { type: 'write' })).toBe('translated to 0x126000');
    expect(b.access(7 * PAGE, { type: 'write' })).toMatch(/pml-full/);
    for (const [index, frame] of [0x26, 0x25].entries()) {
      expect(b.kvm.readEntry(0, 0x50_0000 + 8 * index, 0)[0]).toBe(frame << 12);
      expect(b.bare.readEntry(0, 0x50_0000 + 8 * index, 0)[0]).toBe(frame << 12);
    }
  });

  test('what L1 has invalidated nothing of may stay: its EPT is not synchronised on entry', () => {
    const b = new NestedBench({ vendor: 'intel' });
    b.enter();
    b.access(5 * PAGE);
    b.leave();
    b.map(L2_PAGES + 5, 0x140);
    b.enter();
    b.kvm.apply(1000, (1 << 14) /* walked */ | 1, 5 * PAGE, 0, 0, 0, []);
    expect(b.kvm.log.rows[1]).toBe(0x12_5000);
    b.leave();
    b.nestedTablesChanged();
    b.enter();
    expect(b.access(5 * PAGE)).toBe('translated to 0x140000');
  });

  test('INVVPID drops L2’s translations', () => {
    const b = new NestedBench({ vendor: 'intel' });
    b.enter();
    b.access(5 * PAGE);
    b.leave();
    b.store(b.l2Entry(5), ((L2_PAGES + 9) << 12) | 0x67);
    b.invalidate(Invalidation.INVVPID, 1, 0, 1);
    b.enter();
    expect(b.access(5 * PAGE)).toBe('translated to 0x129000');
  });

  test('an EPTP switch by L2', () => {
    const b = new NestedBench({ vendor: 'intel' });
    b.enter();
    expect(b.access(5 * PAGE)).toBe('translated to 0x125000');
    b.invalidate(Invalidation.EPTP_SWITCH, 0, 0, (SECOND_ROOT << 12) | 0x1e);
    expect(b.access(5 * PAGE)).toBe('translated to 0x325000');
  });
});

describe.each([
  ['TDP', { tdp: true }],
  ['shadow paging', { tdp: false, tdpMmu: false }],
] as const)('L2 without nested paging, under %s', (_, config) => {
  test.each([
    ['amd', '6.1'],
    ['amd', '7.3'],
    ['intel', '6.1'],
    ['intel', '7.3'],
  ] as const)('%s %s', (vendor, profile) => {
    const b = new NestedBench({ vendor, profile, ...config }, {}, false);
    expect(b.access(5 * PAGE)).toBe('translated to 0x405000');
    // L2's tables: L1 made them in frames 0x11 to 0x14.
    for (let table = 0x11; table < 0x14; table++) b.store(table << 12, ((table + 1) << 12) | 0x67);
    for (let i = 0; i < 16; i++) b.store(0x1_4000 + 8 * i, ((0x500 + i) << 12) | 0x67);
    b.enter([[Reg.CR3, 0x1_1000]]);
    expect(b.access(5 * PAGE, { type: 'write' })).toBe('translated to 0x505000');
    b.leave();
    expect(b.access(5 * PAGE, { type: 'write' })).toBe('translated to 0x405000');
    b.store(0x1_4000 + 8 * 5, 0);
    b.enter([
      [Reg.CR3, 0x1_1000],
      [Reg.EXCEPTION_BITMAP, PF_INTERCEPT],
      [Reg.VPID, 7],
      [Reg.ASID, 7],
    ]);
    b.access(6 * PAGE);
    b.access(5 * PAGE, { type: 'write', user: true });
  });
});

test('an L2 with nested paging above a KVM without TDP is not modelled', () => {
  const b = new NestedBench({ vendor: 'amd', tdp: false, tdpMmu: false });
  b.enter();
  expect(() => b.access(5 * PAGE)).toThrow(/nested/);
});

describe('an L2 that KVM does not offer is not modelled', () => {
  const LA57 = [
    [Reg.HOST_CR4, CR4_PAE | CR4_LA57],
    [Reg.NCR3, 0x3_f000],
  ] as const;
  const npt5 = (tdpLevel: 4 | 5): NestedBench => {
    const b = new NestedBench({ vendor: 'amd', tdpLevel });
    b.store(0x3_f000, (NESTED_ROOT << 12) | 0x67);
    b.enter(LA57);
    return b;
  };

  test('NPT of five levels above four', () => {
    const b = npt5(4);
    expect(() => b.access(5 * PAGE)).toThrow(/nested/);
    expect(b.kvm.log.count).toBe(1);
    b.leave();
    expect(b.access(5 * PAGE)).toBe('translated to 0x405000');
  });

  test('but above five it is', () => {
    const b = npt5(5);
    expect(b.access(5 * PAGE, { type: 'write' })).toBe('translated to 0x125000');
    b.store(0x3_f000, (SECOND_ROOT << 12) | 0x67);
    b.leave();
    b.enter(LA57);
    expect(b.access(5 * PAGE, { type: 'write' })).toBe('translated to 0x325000');
  });

  test('and EPT of five above four: it has its own depth', () => {
    const b = new NestedBench({ vendor: 'intel', tdpLevel: 4 });
    b.store(0x3_f000, (NESTED_ROOT << 12) | 0x107);
    b.enter([[Reg.EPTP, 0x3_f026]]);
    expect(b.access(5 * PAGE, { type: 'write' })).toBe('translated to 0x125000');
  });

  const WITH_MBEC = [[Reg.SECONDARY_CONTROLS, SECONDARY_EPT | SECONDARY_VPID | SECONDARY_MBEC]] as const;
  const mbec = (advanced: boolean): NestedBench => {
    const b = new NestedBench({ vendor: 'intel', profile: '7.3' }, {}, true, advanced);
    for (let level = 0; level < 3; level++)
      b.store((NESTED_ROOT + level) << 12, ((NESTED_ROOT + level + 1) << 12) | 0x507);
    b.map(L2_PAGES + 5, OFFSET + L2_PAGES + 5, 0x337);
    b.map(L2_PAGES + 6, OFFSET + L2_PAGES + 6, 0x733);
    b.enter(WITH_MBEC);
    return b;
  };

  test('MBEC, where the processor tells KVM of user pages, has its right and bit 6', () => {
    const b = mbec(true);
    // Linear pages are user pages: XU, bit 10, is what counts, and bits 5 and 6 tell XS and XU apart.
    expect(b.access(5 * PAGE, { type: 'fetch', user: true })).toMatch(/^ept-violation 0x7bc/);
    expect(b.access(6 * PAGE, { type: 'fetch', user: true })).toBe('translated to 0x126000');
    b.map(L2_PAGES + 6, OFFSET + L2_PAGES + 6, 0x730 | 1);
    b.nestedTablesChanged();
    expect(b.access(6 * PAGE, { type: 'write', user: true })).toMatch(/^ept-violation 0x7ca/);
  });

  test('MBEC without that information, which KVM would make endless faults of', () => {
    const b = mbec(false);
    expect(() => b.access(5 * PAGE, { type: 'fetch', user: true })).toThrow(/nested/);
  });
});
