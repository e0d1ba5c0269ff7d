/**
 * Which outcomes the architecture allows after tables have changed (SDM vol. 3A 4.10.2 to 4.10.4): what
 * `LawfulOutcomes` says of an outcome that memory as it stands does not give.
 */

import { describe, expect, test } from 'vitest';
import { Reg } from '../../src/formats/registers.ts';
import {
  CR4_PAE,
  CR4_PGE,
  ENTRY,
  EPT_A,
  EPT_LEAF,
  expectAllowed,
  GLOBAL,
  LARGE,
  makeStale,
  PD,
  PDPT,
  PML4,
  PT,
  PT2,
  page,
  Rig,
} from './rig.ts';

/** Linear page 5, and its entry. */
const PAGE_5 = 0x5000n;
const PTE_5 = PT + 0x28n;

describe('a page that was mapped elsewhere without INVLPG', () => {
  test('may still be reached where it was', () => {
    const rig = new Rig();
    expectAllowed(rig, makeStale(rig, 5n));
  });

  test('may not be reached where it never was', () => {
    const rig = new Rig();
    makeStale(rig, 5n);
    expect(rig.judge('read', PAGE_5, '0x999000')).toEqual({ kind: 'none' });
  });

  test('may be reached at each place where it was since its last invalidation', () => {
    const rig = new Rig();
    rig.store(PTE_5, page(0x201n));
    const step = rig.invlpg(PAGE_5);
    const second = rig.store(PTE_5, page(0x202n));
    const third = rig.store(PTE_5, page(0x203n));
    rig.store(PTE_5, page(0x204n));
    expect(rig.judge('read', PAGE_5, '0x203000')).toMatchObject({ kind: 'allowed', replacedAt: third + 1 });
    expect(rig.judge('read', PAGE_5, '0x202000')).toMatchObject({ kind: 'allowed', replacedAt: third });
    expect(rig.judge('read', PAGE_5, '0x201000')).toMatchObject({ kind: 'allowed', replacedAt: second });
    expect(rig.judge('read', PAGE_5, '0x105000')).toEqual({ kind: 'invalidated', invalidatedAt: step, level: 1 });
  });

  test('is found out by the first invalidation that applied, not by a later one', () => {
    const rig = new Rig();
    const stale = makeStale(rig, 5n);
    rig.invlpg(0x6000n);
    const step = rig.invlpg(PAGE_5);
    rig.invlpg(PAGE_5);
    const invalidated = { kind: 'invalidated', invalidatedAt: step, level: 1 };
    expect(rig.judge('read', PAGE_5, stale.old)).toEqual(invalidated);
  });

  test('may not be reached where it was before an invalidation that came before the change', () => {
    const rig = new Rig();
    rig.read(PAGE_5);
    rig.invlpg(PAGE_5);
    const stale = makeStale(rig, 5n);
    expectAllowed(rig, stale);
  });
});

describe('a page whose rights have changed', () => {
  test('may still raise the fault that it would have raised before they were widened', () => {
    const rig = new Rig();
    rig.hold(PTE_5, page(0x105n, ENTRY & ~2n));
    expect(rig.access('write', PAGE_5)).toBe('#PF 3');
    const changed = rig.store(PTE_5, page(0x105n));
    const spurious = { kind: 'allowed', level: 1, replacedAt: changed };
    expect(rig.judge('write', PAGE_5, '#PF 3')).toEqual(spurious);
    const step = rig.invlpg(PAGE_5);
    const invalidated = { kind: 'invalidated', invalidatedAt: step, level: 1 };
    expect(rig.judge('write', PAGE_5, '#PF 3')).toEqual(invalidated);
  });

  test('may still be written after they were narrowed', () => {
    const rig = new Rig();
    rig.read(PAGE_5);
    const changed = rig.store(PTE_5, page(0x105n, ENTRY & ~2n));
    expect(rig.judge('write', PAGE_5, '0x105000')).toEqual({ kind: 'allowed', level: 1, replacedAt: changed });
    rig.invlpg(PAGE_5);
    expect(rig.judge('write', PAGE_5, '0x105000')).toMatchObject({ kind: 'invalidated' });
  });

  test('may not raise a fault of another kind', () => {
    const rig = new Rig();
    rig.hold(PTE_5, page(0x105n, ENTRY & ~2n));
    rig.store(PTE_5, page(0x105n));
    expect(rig.judge('write', PAGE_5, '#PF 2')).toEqual({ kind: 'none' });
    expect(rig.judge('read', PAGE_5, '#PF 1')).toEqual({ kind: 'none' });
  });
});

describe('an entry that can never have been cached', () => {
  test('because it was not present explains no fault', () => {
    const rig = new Rig();
    rig.hold(PTE_5, 0n);
    expect(rig.read(PAGE_5)).toBe('#PF 0');
    rig.store(PTE_5, page(0x105n));
    expect(rig.judge('read', PAGE_5, '#PF 0')).toEqual({ kind: 'none' });
  });

  test('because a reserved bit was set explains no fault', () => {
    const rig = new Rig();
    rig.hold(PTE_5, page(0x105n) | (1n << 45n));
    expect(rig.read(PAGE_5)).toBe('#PF 9');
    rig.store(PTE_5, page(0x105n));
    expect(rig.judge('read', PAGE_5, '#PF 9')).toEqual({ kind: 'none' });
  });

  test('does not keep its predecessor from being used', () => {
    const rig = new Rig();
    rig.read(PAGE_5);
    const changed = rig.store(PTE_5, 0n);
    expect(rig.judge('read', PAGE_5, '0x105000')).toEqual({ kind: 'allowed', level: 1, replacedAt: changed });
  });
});

describe('entries of several levels', () => {
  test('may be out of date one by one and together', () => {
    const rig = new Rig();
    rig.hold(PT2 + 0x28n, page(0x605n));
    rig.store(PTE_5, page(0x205n));
    rig.store(PD, PT2 | ENTRY);
    rig.store(PT2 + 0x28n, page(0x305n));
    // PDE and PTE before and after: four mixtures, of which one is what memory gives.
    expect(rig.read(PAGE_5, { walked: true })).toBe('0x305000');
    expect(rig.judge('read', PAGE_5, '0x605000')).toMatchObject({ kind: 'allowed', level: 1 });
    expect(rig.judge('read', PAGE_5, '0x205000')).toMatchObject({ kind: 'allowed', level: 2 });
    expect(rig.judge('read', PAGE_5, '0x105000')).toMatchObject({ kind: 'allowed', level: 1 });
  });

  test('up to the root may be out of date', () => {
    const rig = new Rig();
    const changed = rig.store(PML4, 0x2_0000n | ENTRY);
    rig.store(0x2_0000n, 0x2_1000n | ENTRY);
    rig.store(0x2_1000n, PT2 | ENTRY);
    expect(rig.read(PAGE_5)).toBe('0x605000');
    expect(rig.judge('read', PAGE_5, '0x105000')).toEqual({ kind: 'allowed', level: 4, replacedAt: changed });
  });

  // Nothing but a paging-structure cache can have kept the old PDE: what it leads to was not present at the time.
  test('above the leaf may not be out of date after INVLPG of any page', () => {
    const rig = new Rig();
    rig.hold(PTE_5, 0n);
    rig.store(PD, PT2 | ENTRY);
    const step = rig.invlpg(0x9000n);
    rig.store(PTE_5, page(0x105n));
    const invalidated = { kind: 'invalidated', invalidatedAt: step, level: 2 };
    expect(rig.judge('read', PAGE_5, '0x105000')).toEqual(invalidated);
  });

  test('above the leaf may not be out of date after MOV to CR3', () => {
    const rig = new Rig();
    rig.read(PAGE_5);
    rig.store(PD, PT2 | ENTRY);
    const step = rig.write(Reg.CR3, PML4);
    const invalidated = { kind: 'invalidated', invalidatedAt: step, level: 2 };
    expect(rig.judge('read', PAGE_5, '0x105000')).toEqual(invalidated);
    expect(rig.read(PAGE_5)).toBe('0x605000');
  });

  // SDM vol. 3A 4.10.2.2: a TLB entry holds what the whole walk came to; only an invalidation of its page drops it.
  test('above the leaf may be out of date after INVLPG of another page if the TLB has the whole translation', () => {
    const rig = new Rig();
    expect(rig.read(PAGE_5)).toBe('0x105000');
    const changed = rig.store(PD, PT2 | ENTRY);
    rig.invlpg(0x9000n);
    expect(rig.judge('read', PAGE_5, '0x105000')).toEqual({ kind: 'allowed', level: 2, replacedAt: changed });
    expect(rig.read(PAGE_5)).toBe('0x105000');
    rig.invlpg(PAGE_5);
    expect(rig.judge('read', PAGE_5, '0x105000')).toMatchObject({ kind: 'invalidated', level: 2 });
  });

  test('above a global leaf may be out of date after MOV to CR3 if the TLB has the whole translation', () => {
    const rig = new Rig();
    rig.set(Reg.CR4, CR4_PAE | CR4_PGE);
    rig.hold(PTE_5, page(0x105n, ENTRY | GLOBAL));
    expect(rig.read(PAGE_5)).toBe('0x105000');
    const changed = rig.store(PD, PT2 | ENTRY);
    rig.write(Reg.CR3, PML4);
    expect(rig.judge('read', PAGE_5, '0x105000')).toEqual({ kind: 'allowed', level: 2, replacedAt: changed });
    expect(rig.read(PAGE_5)).toBe('0x105000');
  });
});

describe('a large page', () => {
  test('may be out of date after INVLPG of a page outside it', () => {
    const rig = new Rig();
    rig.read(0x20_0000n);
    const changed = rig.store(PD + 8n, 0x80_0000n | ENTRY | LARGE);
    rig.invlpg(PAGE_5);
    expect(rig.judge('read', 0x20_0000n, '0x400000')).toEqual({ kind: 'allowed', level: 2, replacedAt: changed });
  });

  test('that was split may still be reached where it was', () => {
    const rig = new Rig();
    rig.read(0x20_0000n);
    const changed = rig.store(PD + 8n, PT2 | ENTRY);
    expect(rig.judge('read', 0x20_0000n, '0x400000')).toEqual({ kind: 'allowed', level: 2, replacedAt: changed });
  });

  test('of 1 GB may be out of date', () => {
    const rig = new Rig();
    rig.hold(PDPT + 8n, 0x4000_0000n | ENTRY | LARGE);
    rig.read(0x4000_5000n);
    const changed = rig.store(PDPT + 8n, 0x8000_0000n | ENTRY | LARGE);
    rig.invlpg(PAGE_5);
    const allowed = { kind: 'allowed', level: 3, replacedAt: changed };
    expect(rig.judge('read', 0x4000_5000n, '0x40005000')).toEqual(allowed);
    const step = rig.invlpg(0x7fff_f000n);
    const invalidated = { kind: 'invalidated', invalidatedAt: step, level: 3 };
    expect(rig.judge('read', 0x4000_5000n, '0x40005000')).toEqual(invalidated);
  });
});

describe('32-bit paging, two entries to a word', () => {
  const ROOT = 0xd000n;
  const TABLE = 0xe000n;

  /** PDE 0 leads to TABLE, where linear page i is physical 0x100 + i; PDE 1 is a 4 MB page at 4 MB. */
  function rig32(): Rig {
    const rig = new Rig();
    rig.set(Reg.CR4, 0x10n);
    rig.set(Reg.EFER, 0n);
    rig.set(Reg.CR3, ROOT);
    rig.hold(ROOT, TABLE | ENTRY | ((0x40_0000n | ENTRY | LARGE) << 32n));
    for (let i = 0n; i < 16n; i += 2n) rig.hold(TABLE + 4n * i, page(0x100n + i) | (page(0x101n + i) << 32n));
    return rig;
  }

  test('an entry may be out of date, in either half', () => {
    const rig = rig32();
    for (const index of [4n, 5n]) {
      const old = rig.read(index << 12n);
      const changed = rig.store(TABLE + 4n * index, page(0x300n + index), 4);
      expect(old).toBe(`0x${(0x100n + index).toString(16)}000`);
      expect(rig.judge('read', index << 12n, old)).toEqual({ kind: 'allowed', level: 1, replacedAt: changed });
      const step = rig.invlpg(index << 12n);
      const invalidated = { kind: 'invalidated', invalidatedAt: step, level: 1 };
      expect(rig.judge('read', index << 12n, old)).toEqual(invalidated);
    }
  });

  test('a 4 MB page in the upper half may be out of date after INVLPG of a page outside it', () => {
    const rig = rig32();
    expect(rig.read(0x40_0000n)).toBe('0x400000');
    const changed = rig.store(ROOT + 4n, 0x80_0000n | ENTRY | LARGE, 4);
    rig.invlpg(PAGE_5);
    expect(rig.judge('read', 0x40_0000n, '0x400000')).toEqual({ kind: 'allowed', level: 2, replacedAt: changed });
  });

  test('a PDE in the upper half, beside a 4 MB page, may not be out of date after INVLPG of any page', () => {
    const rig = rig32();
    rig.hold(ROOT, 0x40_0000n | ENTRY | LARGE | ((TABLE | ENTRY) << 32n));
    rig.hold(TABLE + 0x10n, page(0x104n));
    rig.store(ROOT + 4n, PT2 | ENTRY, 4);
    const step = rig.invlpg(0x9000n);
    rig.store(TABLE + 0x14n, page(0x105n), 4);
    const invalidated = { kind: 'invalidated', invalidatedAt: step, level: 2 };
    expect(rig.judge('read', 0x40_5000n, '0x105000')).toEqual(invalidated);
  });
});

describe('two stages', () => {
  test('an entry of either may be out of date, and both together', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    expect(rig.read(0x10_0000n)).toBe('0x200000');
    const guest = rig.store(PT + 0x800n, page(0x300n));
    const ept = rig.store(EPT_A + 0x10008n, 0x60_0000n | EPT_LEAF | LARGE);
    expect(rig.read(0x10_0000n, { walked: true })).toBe('0x700000');
    expect(rig.judge('read', 0x10_0000n, '0x600000')).toMatchObject({ kind: 'allowed', replacedAt: guest });
    expect(rig.judge('read', 0x10_0000n, '0x300000')).toMatchObject({ kind: 'allowed', replacedAt: ept });
    expect(rig.judge('read', 0x10_0000n, '0x200000')).toMatchObject({ kind: 'allowed' });
  });

  test('an EPT entry that was not present explains no violation', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.hold(EPT_A + 0x10008n, 0n);
    const violation = rig.read(0x10_0000n);
    expect(violation).toMatch('EPT violation');
    rig.store(EPT_A + 0x10008n, 0x20_0000n | EPT_LEAF | LARGE);
    expect(rig.judge('read', 0x10_0000n, violation)).toEqual({ kind: 'none' });
  });

  test('an EPT entry for execution alone may be out of date', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.hold(EPT_A + 0x10008n, 0x60_0000n | (EPT_LEAF & ~3n) | LARGE);
    expect(rig.access('fetch', 0x10_0000n)).toBe('0x600000');
    const changed = rig.store(EPT_A + 0x10008n, 0x20_0000n | EPT_LEAF | LARGE);
    const allowed = { kind: 'allowed', level: 2, replacedAt: changed };
    expect(rig.judge('fetch', 0x10_0000n, '0x600000')).toEqual(allowed);
  });

  test('an EPT entry whose rights were widened may still cause the violation', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.hold(EPT_A + 0x10008n, 0x20_0000n | (EPT_LEAF & ~2n) | LARGE);
    const violation = rig.access('write', 0x10_0000n);
    expect(violation).toMatch('EPT violation');
    const changed = rig.store(EPT_A + 0x10008n, 0x20_0000n | EPT_LEAF | LARGE);
    expect(rig.judge('write', 0x10_0000n, violation)).toEqual({ kind: 'allowed', level: 2, replacedAt: changed });
  });
});

describe('judging', () => {
  test('leaves memory and the TLB as they were', () => {
    const rig = new Rig();
    const stale = makeStale(rig, 5n, ENTRY & ~0x60n);
    const before = rig.load(PTE_5);
    rig.judge('write', PAGE_5, '0x105000');
    rig.judge('write', PAGE_5, '0x999000');
    expect(rig.load(PTE_5)).toBe(before);
    expect(rig.read(PAGE_5, { walked: true })).toBe(stale.fresh);
  });

  test('does not guess once it had to forget', () => {
    const rig = new Rig();
    for (let i = 0n; i < 1000n; i++) rig.store(PTE_5, page(0x1000n + i));
    expect(rig.judge('read', PAGE_5, '0x1001000')).toMatchObject({ kind: 'undetermined' });
    expect(rig.judge('read', PAGE_5, '0x13e0000')).toMatchObject({ kind: 'allowed' });
  });

  test('of independent accesses finds nothing, for they have no history', () => {
    const rig = new Rig({ independent: true });
    rig.read(PAGE_5);
    rig.store(PTE_5, page(0x205n));
    expect(rig.judge('read', PAGE_5, '0x105000')).toEqual({ kind: 'none' });
  });
});
