/**
 * What may still be cached from under a root that is no longer in force: global translations, and those of a PCID that
 * was given another root without a flush (SDM vol. 3A 4.10.2.4, 4.10.4.1). All found by random programs on KVM.
 */

import { describe, expect, test } from 'vitest';
import { Reg } from '../../src/formats/registers.ts';
import { CR4_PAE, CR4_PCIDE, CR4_PGE, ENTRY, GLOBAL, NO_FLUSH, PML4, PT, PT2, page, Rig } from './rig.ts';

/** A second root: linear page i is physical page 0x600 + i. */
const ROOT_B = 0x3_0000n;
const PAGE_5 = 0x5000n;
const OLD = '0x105000';

function rigWithTwoRoots(flags: bigint, cr4: bigint): Rig {
  const rig = new Rig();
  rig.hold(ROOT_B, (ROOT_B + 0x1000n) | ENTRY);
  rig.hold(ROOT_B + 0x1000n, (ROOT_B + 0x2000n) | ENTRY);
  rig.hold(ROOT_B + 0x2000n, PT2 | ENTRY);
  rig.hold(PT + 0x28n, page(0x105n, flags));
  rig.set(Reg.CR4, CR4_PAE | cr4);
  return rig;
}

describe('after MOV to CR3', () => {
  test('a global page may still be reached by the root before', () => {
    const rig = rigWithTwoRoots(ENTRY | GLOBAL, CR4_PGE);
    const step = rig.write(Reg.CR3, ROOT_B);
    expect(rig.judge('read', PAGE_5, OLD)).toEqual({ kind: 'allowed', level: 1, replacedAt: step });
  });

  test('it may be until it is invalidated, and no longer', () => {
    const rig = rigWithTwoRoots(ENTRY | GLOBAL, CR4_PGE);
    rig.write(Reg.CR3, ROOT_B);
    rig.invlpg(0x6000n);
    expect(rig.judge('read', PAGE_5, OLD)).toMatchObject({ kind: 'allowed' });
    rig.invlpg(PAGE_5);
    expect(rig.judge('read', PAGE_5, OLD)).toEqual({ kind: 'none' });
  });

  test('no other page may, nor a global one without CR4.PGE', () => {
    for (const [flags, cr4] of [[ENTRY, CR4_PGE] as const, [ENTRY | GLOBAL, 0n] as const]) {
      const rig = rigWithTwoRoots(flags, cr4);
      rig.write(Reg.CR3, ROOT_B);
      expect(rig.judge('read', PAGE_5, OLD)).toEqual({ kind: 'none' });
    }
  });

  test('a page that was mapped there only afterwards may not', () => {
    const rig = rigWithTwoRoots(ENTRY | GLOBAL, CR4_PGE);
    rig.write(Reg.CR3, ROOT_B);
    rig.store(PT + 0x28n, page(0x205n, ENTRY | GLOBAL));
    expect(rig.judge('read', PAGE_5, '0x205000')).toEqual({ kind: 'none' });
    expect(rig.judge('read', PAGE_5, OLD)).toMatchObject({ kind: 'allowed' });
  });
});

describe('a PCID that is given another root', () => {
  test('without a flush keeps its translations, with one it does not', () => {
    for (const keep of [true, false]) {
      const rig = rigWithTwoRoots(ENTRY, CR4_PCIDE);
      rig.write(Reg.CR3, PML4 | 1n);
      rig.write(Reg.CR3, ROOT_B | 1n | (keep ? NO_FLUSH : 0n));
      expect(rig.judge('read', PAGE_5, OLD).kind).toBe(keep ? 'allowed' : 'none');
    }
  });

  test('does not get those of another PCID, unless they are global', () => {
    for (const global of [true, false]) {
      const rig = rigWithTwoRoots(global ? ENTRY | GLOBAL : ENTRY, CR4_PCIDE | CR4_PGE);
      rig.write(Reg.CR3, PML4 | 1n);
      rig.write(Reg.CR3, ROOT_B | 2n | NO_FLUSH);
      expect(rig.judge('read', PAGE_5, OLD).kind).toBe(global ? 'allowed' : 'none');
    }
  });
});

test('judging leaves the registers as they were', () => {
  const rig = rigWithTwoRoots(ENTRY | GLOBAL, CR4_PGE);
  rig.write(Reg.CR3, ROOT_B);
  rig.judge('read', PAGE_5, '0x999000');
  expect(rig.register(Reg.CR3)).toBe(ROOT_B);
  expect(rig.read(PAGE_5, { walked: true })).toBe('0x605000');
});

describe('32-bit paging without CR4.PSE', () => {
  const ROOT = 0xd000n;
  const TABLE = 0xe000n;
  /** Bit 7, which makes a large page with CR4.PSE only. */
  const BIT_7 = 0x80n;

  test('bit 7 does not make a PDE a page, of which INVLPG would drop what it maps', () => {
    const rig = new Rig();
    rig.set(Reg.CR4, 0n);
    rig.set(Reg.EFER, 0n);
    rig.set(Reg.CR3, ROOT);
    rig.hold(ROOT, TABLE | ENTRY | BIT_7);
    rig.hold(TABLE + 0x14n, page(0x105n));
    rig.store(ROOT, PT2 | ENTRY, 4);
    rig.invlpg(0x9000n);
    expect(rig.judge('read', PAGE_5, OLD)).toMatchObject({ kind: 'allowed', level: 2 });
  });
});
