/** Whom a cached translation may serve: PCID, global pages, VPID, ASID, EP4TA (SDM vol. 3A 4.10, vol. 3C 29.4). */

import { describe, expect, test } from 'vitest';
import { Reg } from '../../src/formats/registers.ts';
import {
  CR4_PAE,
  CR4_PCIDE,
  CR4_PGE,
  ENTRY,
  EPT_A,
  EPT_B,
  eptp,
  GLOBAL,
  makeStale,
  NO_FLUSH,
  PML4,
  Rig,
} from './rig.ts';

function withPcids(pge = false): Rig {
  const rig = new Rig();
  rig.set(Reg.CR4, CR4_PAE | CR4_PCIDE | (pge ? CR4_PGE : 0n));
  rig.set(Reg.CR3, PML4 | 1n);
  return rig;
}

describe('a cached translation', () => {
  test('is used again although the entry has changed', () => {
    const rig = new Rig();
    const { address, old } = makeStale(rig, 5n);
    expect(rig.read(address)).toBe(old);
    expect(rig.read(address + 0xabcn)).toBe('0x105abc');
  });

  test('is not used for an access that is known to have walked', () => {
    const rig = new Rig();
    const { address, fresh } = makeStale(rig, 5n);
    expect(rig.read(address, { walked: true })).toBe(fresh);
  });

  test('is not made by an access that faulted', () => {
    const rig = new Rig();
    rig.store(0x4028n, 0n);
    expect(rig.read(0x5000n)).toBe('#PF 0');
    rig.store(0x4028n, 0x10_5000n | ENTRY);
    expect(rig.read(0x5000n)).toBe('0x105000');
  });

  test('of a page that may not be written is no excuse for a write', () => {
    const rig = new Rig();
    rig.store(0x4028n, 0x10_5000n | (ENTRY & ~2n));
    expect(rig.read(0x5000n)).toBe('0x105000');
    expect(rig.access('write', 0x5000n)).toBe('#PF 3');
  });

  test('of a clean page is no excuse for a write that must set the dirty bit', () => {
    const rig = new Rig();
    rig.store(0x4028n, 0x10_5000n | (ENTRY & ~0x40n));
    rig.read(0x5000n);
    expect(rig.load(0x4028n) & 0x40n).toBe(0n);
    expect(rig.access('write', 0x5000n)).toBe('0x105000');
    expect(rig.load(0x4028n) & 0x40n).toBe(0x40n);
  });
});

describe('PCIDs', () => {
  test('a translation serves its own PCID only', () => {
    const rig = withPcids();
    const { address, old, fresh } = makeStale(rig, 5n);
    rig.write(Reg.CR3, PML4 | 2n | NO_FLUSH);
    rig.write(Reg.CR3, PML4 | 1n | NO_FLUSH);
    expect(rig.read(address)).toBe(old);
    rig.write(Reg.CR3, PML4 | 2n | NO_FLUSH);
    expect(rig.read(address)).toBe(fresh);
  });

  test('a global translation serves every PCID', () => {
    const rig = withPcids(true);
    const { address, old } = makeStale(rig, 5n, ENTRY | GLOBAL);
    rig.write(Reg.CR3, PML4 | 2n | NO_FLUSH);
    expect(rig.read(address)).toBe(old);
  });

  test('G means nothing while CR4.PGE is 0', () => {
    const rig = withPcids(false);
    const { address, fresh } = makeStale(rig, 5n, ENTRY | GLOBAL);
    rig.write(Reg.CR3, PML4 | 2n | NO_FLUSH);
    expect(rig.read(address)).toBe(fresh);
  });

  test('G above the leaf means nothing', () => {
    const rig = withPcids(true);
    rig.store(0x3000n, 0x4000n | ENTRY | GLOBAL);
    const { address, fresh } = makeStale(rig, 5n);
    rig.write(Reg.CR3, PML4 | 2n | NO_FLUSH);
    expect(rig.read(address)).toBe(fresh);
  });

  test('without CR4.PCIDE the low bits of CR3 are no tag', () => {
    const rig = new Rig();
    const { address, old } = makeStale(rig, 5n);
    rig.set(Reg.CR3, PML4 | 0x18n);
    expect(rig.read(address)).toBe(old);
  });
});

describe('VPIDs and ASIDs', () => {
  test('a translation serves its own VPID only', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n });
    const { address, old, fresh } = makeStale(rig, 5n);
    rig.enterVmx({ vpid: 2n });
    rig.enterVmx({ vpid: 1n });
    expect(rig.read(address)).toBe(old);
    rig.enterVmx({ vpid: 2n });
    expect(rig.read(address)).toBe(fresh);
  });

  test('not even a global translation serves another VPID', () => {
    const rig = new Rig();
    rig.set(Reg.CR4, CR4_PAE | CR4_PGE);
    rig.enterVmx({ vpid: 1n });
    const { address, fresh } = makeStale(rig, 5n, ENTRY | GLOBAL);
    rig.enterVmx({ vpid: 2n });
    expect(rig.read(address)).toBe(fresh);
  });

  test('a translation serves its own ASID only', () => {
    const rig = new Rig();
    rig.enterSvm(1n);
    const { address, old, fresh } = makeStale(rig, 5n);
    rig.enterSvm(2n);
    rig.enterSvm(1n);
    expect(rig.read(address)).toBe(old);
    rig.enterSvm(2n);
    expect(rig.read(address)).toBe(fresh);
  });

  test("the host's translations do not serve a guest", () => {
    const rig = new Rig();
    const { address, fresh } = makeStale(rig, 5n);
    rig.enterVmx({ vpid: 1n });
    expect(rig.read(address)).toBe(fresh);
  });
});

describe('EPT', () => {
  test('a combined translation serves its own EP4TA only', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    const { address, old, fresh } = makeStale(rig, 5n);
    rig.invalidate('EPTP_SWITCH', 0, 0n, eptp(EPT_B));
    rig.invalidate('EPTP_SWITCH', 0, 0n, eptp(EPT_A));
    expect(rig.read(address)).toBe(old);
    rig.invalidate('EPTP_SWITCH', 0, 0n, eptp(EPT_B));
    expect(rig.read(address)).toBe(fresh);
  });

  test('switching the EPTP switches what guest-physical addresses lead to', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    expect(rig.read(0x10_0000n)).toBe('0x200000');
    rig.invalidate('EPTP_SWITCH', 0, 0n, eptp(EPT_B));
    expect(rig.read(0x10_0000n)).toBe('0x1000000');
    expect(rig.register(Reg.EPTP)).toBe(eptp(EPT_B));
  });

  test('a guest with EPT does not share translations with one without', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n });
    const { address, fresh } = makeStale(rig, 5n);
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    expect(rig.read(address)).toBe(fresh);
  });
});
