/**
 * What invalidation instructions do to cached translations (SDM vol. 3A 4.10.4, vol. 3C 29.4.3; APM vol. 2 15.16):
 * that the machine's own TLB forgets them, and that whoever still used them would be found out, or not.
 */

import { describe, expect, test } from 'vitest';
import { Reg } from '../../src/formats/registers.ts';
import {
  backToPcid1,
  CR4_PAE,
  CR4_PGE,
  ENTRY,
  EPT_A,
  EPT_B,
  EPT_LEAF,
  eptp,
  expectAllowed,
  expectForgotten,
  GLOBAL,
  LARGE,
  makeStale,
  NO_FLUSH,
  PD,
  PML4,
  Rig,
  withPcid1,
} from './rig.ts';

describe('INVLPG', () => {
  test('forgets the page and no other', () => {
    const rig = new Rig();
    const page = makeStale(rig, 5n);
    const other = makeStale(rig, 6n);
    const step = rig.invlpg(page.address + 0x123n);
    expectForgotten(rig, page, step);
    expectAllowed(rig, other);
    expect(rig.read(other.address)).toBe(other.old);
  });

  test('forgets a global translation', () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n, ENTRY | GLOBAL);
    expectForgotten(rig, page, rig.invlpg(page.address));
  });

  test('forgets a global translation that another PCID has cached', () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n, ENTRY | GLOBAL);
    rig.write(Reg.CR3, PML4 | 2n | NO_FLUSH);
    const step = rig.invlpg(page.address);
    backToPcid1(rig);
    expectForgotten(rig, page, step);
  });

  test("leaves another PCID's translation of the page alone", () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n);
    rig.write(Reg.CR3, PML4 | 2n | NO_FLUSH);
    rig.invlpg(page.address);
    backToPcid1(rig);
    expectAllowed(rig, page);
  });

  test('forgets a large page whatever part of it is named', () => {
    const rig = new Rig();
    expect(rig.read(0x20_0000n)).toBe('0x400000');
    rig.store(PD + 8n, 0x80_0000n | ENTRY | LARGE);
    const step = rig.invlpg(0x3f_f000n);
    const invalidated = { kind: 'invalidated', invalidatedAt: step, level: 2 };
    expect(rig.judge('read', 0x20_0000n, '0x400000')).toEqual(invalidated);
    expect(rig.read(0x20_0000n)).toBe('0x800000');
  });

  // SDM vol. 2, INVLPG: "there are multiple TLB entries for that page …, the instruction invalidates all of them".
  test('forgets a large page even if the second stage has cut it into small ones', () => {
    const rig = new Rig();
    const eptTable = 0x2_0000n;
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    // Guest-physical 4 MB to 6 MB and 8 MB to 10 MB in pages of 4 KB.
    for (let i = 0n; i < 4n; i++) {
      rig.store(eptTable + 8n * i, 0x40_0000n | (i << 12n) | EPT_LEAF);
      rig.store(eptTable + 0x1000n + 8n * i, 0x80_0000n | (i << 12n) | EPT_LEAF);
    }
    rig.store(EPT_A + 0x10000n + 8n * 2n, eptTable | 0x707n);
    rig.store(EPT_A + 0x10000n + 8n * 4n, (eptTable + 0x1000n) | 0x707n);
    expect(rig.read(0x20_0000n)).toBe('0x400000');
    expect(rig.read(0x20_1000n)).toBe('0x401000');
    rig.store(PD + 8n, 0x80_0000n | ENTRY | LARGE);
    rig.invlpg(0x20_0000n);
    expect(rig.read(0x20_0000n)).toBe('0x800000');
    expect(rig.read(0x20_1000n)).toBe('0x801000');
  });

  test('in a guest leaves what EPT translates alone', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    expect(rig.read(0x10_0000n)).toBe('0x200000');
    const changed = rig.store(EPT_A + 0x10008n, 0x60_0000n | EPT_LEAF | LARGE);
    rig.invlpg(0x10_0000n);
    expect(rig.judge('read', 0x10_0000n, '0x200000')).toEqual({ kind: 'allowed', level: 2, replacedAt: changed });
  });
});

describe('INVPCID', () => {
  test('type 0 forgets one page of the PCID', () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n);
    const other = makeStale(rig, 6n);
    const step = rig.invalidate('INVPCID', 0, page.address, 1n);
    expectForgotten(rig, page, step);
    expectAllowed(rig, other);
  });

  test('type 0 leaves global translations and those of other PCIDs alone', () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n);
    const global = makeStale(rig, 6n, ENTRY | GLOBAL);
    rig.invalidate('INVPCID', 0, page.address, 2n);
    rig.invalidate('INVPCID', 0, global.address, 1n);
    expectAllowed(rig, page);
    expectAllowed(rig, global);
  });

  test('type 1 forgets all of the PCID but global translations', () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n);
    const global = makeStale(rig, 6n, ENTRY | GLOBAL);
    expectForgotten(rig, page, rig.invalidate('INVPCID', 1, 0n, 1n));
    expectAllowed(rig, global);
  });

  test('type 1 leaves other PCIDs alone', () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n);
    rig.invalidate('INVPCID', 1, 0n, 2n);
    expectAllowed(rig, page);
  });

  test('type 2 forgets all of every PCID, global translations too', () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n);
    const global = makeStale(rig, 6n, ENTRY | GLOBAL);
    rig.write(Reg.CR3, PML4 | 2n | NO_FLUSH);
    const step = rig.invalidate('INVPCID', 2);
    backToPcid1(rig);
    expectForgotten(rig, page, step);
    expectForgotten(rig, global, step);
  });

  test('type 3 forgets all of every PCID but global translations', () => {
    const rig = withPcid1();
    const page = makeStale(rig, 5n);
    const global = makeStale(rig, 6n, ENTRY | GLOBAL);
    rig.write(Reg.CR3, PML4 | 2n | NO_FLUSH);
    const step = rig.invalidate('INVPCID', 3);
    backToPcid1(rig);
    expectForgotten(rig, page, step);
    expectAllowed(rig, global);
  });
});

describe('INVVPID', () => {
  function guest(vpid = 1n): Rig {
    const rig = new Rig();
    rig.set(Reg.CR4, CR4_PAE | CR4_PGE);
    rig.enterVmx({ vpid });
    return rig;
  }

  test('type 0 forgets one page of the VPID, a global one too', () => {
    const rig = guest();
    const page = makeStale(rig, 5n, ENTRY | GLOBAL);
    const other = makeStale(rig, 6n);
    const step = rig.invalidate('INVVPID', 0, page.address, 1n);
    expectForgotten(rig, page, step);
    expectAllowed(rig, other);
  });

  test('type 1 forgets all of the VPID, and of no other', () => {
    const rig = guest();
    const page = makeStale(rig, 5n);
    const global = makeStale(rig, 6n, ENTRY | GLOBAL);
    rig.invalidate('INVVPID', 1, 0n, 2n);
    expectAllowed(rig, page);
    const step = rig.invalidate('INVVPID', 1, 0n, 1n);
    expectForgotten(rig, page, step);
    expectForgotten(rig, global, step);
  });

  test('type 2 forgets all of every VPID but VPID 0', () => {
    const rig = guest();
    const page = makeStale(rig, 5n);
    expectForgotten(rig, page, rig.invalidate('INVVPID', 2));
    const host = new Rig();
    const kept = makeStale(host, 5n);
    host.invalidate('INVVPID', 2);
    expectAllowed(host, kept);
  });

  test('type 3 forgets all of the VPID but global translations', () => {
    const rig = guest();
    const page = makeStale(rig, 5n);
    const global = makeStale(rig, 6n, ENTRY | GLOBAL);
    const step = rig.invalidate('INVVPID', 3, 0n, 1n);
    expectForgotten(rig, page, step);
    expectAllowed(rig, global);
  });

  test('leaves what EPT translates alone, but not what the guest translates', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    const page = makeStale(rig, 5n);
    expect(rig.read(0x10_0000n)).toBe('0x200000');
    const changed = rig.store(EPT_A + 0x10008n, 0x60_0000n | EPT_LEAF | LARGE);
    const step = rig.invalidate('INVVPID', 1, 0n, 1n);
    expect(rig.judge('read', 0x10_0000n, '0x200000')).toEqual({ kind: 'allowed', level: 2, replacedAt: changed });
    expectForgotten(rig, page, step);
  });
});

describe('INVEPT', () => {
  function guest(): { rig: Rig; changed: number } {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    expect(rig.read(0x10_0000n)).toBe('0x200000');
    return { rig, changed: rig.store(EPT_A + 0x10008n, 0x60_0000n | EPT_LEAF | LARGE) };
  }

  test('until then the old entry of an EPT may be used', () => {
    const { rig, changed } = guest();
    expect(rig.judge('read', 0x10_0000n, '0x200000')).toEqual({ kind: 'allowed', level: 2, replacedAt: changed });
  });

  test('type 1 forgets what one EPT translates', () => {
    const { rig } = guest();
    const step = rig.invalidate('INVEPT', 1, 0n, eptp(EPT_A));
    const invalidated = { kind: 'invalidated', invalidatedAt: step, level: 2 };
    expect(rig.judge('read', 0x10_0000n, '0x200000')).toEqual(invalidated);
    expect(rig.read(0x10_0000n)).toBe('0x600000');
  });

  test('type 1 leaves what another EPT translates alone', () => {
    const { rig, changed } = guest();
    rig.invalidate('INVEPT', 1, 0n, eptp(EPT_B));
    expect(rig.judge('read', 0x10_0000n, '0x200000')).toEqual({ kind: 'allowed', level: 2, replacedAt: changed });
  });

  test('type 1 goes by the address of the root alone', () => {
    const { rig } = guest();
    const step = rig.invalidate('INVEPT', 1, 0n, eptp(EPT_A, true));
    const invalidated = { kind: 'invalidated', invalidatedAt: step, level: 2 };
    expect(rig.judge('read', 0x10_0000n, '0x200000')).toEqual(invalidated);
  });

  test('type 2 forgets what every EPT translates', () => {
    const { rig } = guest();
    const step = rig.invalidate('INVEPT', 2);
    const invalidated = { kind: 'invalidated', invalidatedAt: step, level: 2 };
    expect(rig.judge('read', 0x10_0000n, '0x200000')).toEqual(invalidated);
    expect(rig.read(0x10_0000n)).toBe('0x600000');
  });

  test("forgets combined translations, and with them the guest's entries", () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    const page = makeStale(rig, 5n);
    expectForgotten(rig, page, rig.invalidate('INVEPT', 1, 0n, eptp(EPT_A)));
  });

  test('leaves translations alone that no EPT took part in', () => {
    const rig = new Rig();
    const page = makeStale(rig, 5n);
    rig.invalidate('INVEPT', 2);
    expectAllowed(rig, page);
  });
});

describe('INVLPGA', () => {
  test('forgets one page of the ASID', () => {
    const rig = new Rig();
    rig.enterSvm(3n);
    const page = makeStale(rig, 5n);
    const other = makeStale(rig, 6n);
    const step = rig.invalidate('INVLPGA', 0, page.address, 3n);
    expectForgotten(rig, page, step);
    expectAllowed(rig, other);
  });

  test('leaves other ASIDs alone', () => {
    const rig = new Rig();
    rig.enterSvm(3n);
    const page = makeStale(rig, 5n);
    rig.invalidate('INVLPGA', 0, page.address, 4n);
    expectAllowed(rig, page);
  });
});
