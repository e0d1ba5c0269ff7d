/** What a cached translation of two stages may be used for: no more than a walk would have allowed. */

import { describe, expect, test } from 'vitest';
import {
  GuestMode,
  NESTED_GMET,
  NESTED_NP_ENABLE,
  Reg,
  SECONDARY_EPT,
  SECONDARY_MBEC,
} from '../../src/formats/registers.ts';
import { CR0_PAGING, CR4_PAE, EFER_LONG, ENTRY, EPT_A, EPT_LEAF, eptp, HEADER, LARGE, PT, Rig } from './rig.ts';

/** The EPT entry that maps linear 0x100000, which is guest-physical 0x200000. */
const EPT_OF_DATA = EPT_A + 0x10008n;
const DATA = 0x10_0000n;
/** A page that any access may reach in the guest's own tables, supervisor only so that SMEP would not matter. */
const PTE_OF_DATA = PT + 8n * 0x100n;

describe('with EPT', () => {
  test('a page that may be executed only is not read after it was executed', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.store(EPT_OF_DATA, 0x20_0000n | (EPT_LEAF & ~3n) | LARGE);
    expect(rig.access('fetch', DATA)).toBe('0x200000');
    expect(rig.read(DATA)).toBe('EPT violation 7a1');
    expect(rig.access('fetch', DATA)).toBe('0x200000');
  });

  test('a page that may be read only is not written or executed after it was read', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.store(EPT_OF_DATA, 0x20_0000n | 0x331n | LARGE);
    expect(rig.read(DATA)).toBe('0x200000');
    expect(rig.access('write', DATA)).toBe('EPT violation 78a');
    expect(rig.access('fetch', DATA)).toBe('EPT violation 78c');
    expect(rig.read(DATA)).toBe('0x200000');
  });

  test('with MBEC a page that users may execute is not executed by a supervisor after it was read', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.set(Reg.SECONDARY_CONTROLS, BigInt(SECONDARY_EPT | SECONDARY_MBEC));
    rig.store(PTE_OF_DATA, 0x20_0000n | (ENTRY & ~4n));
    rig.store(EPT_OF_DATA, 0x20_0000n | (EPT_LEAF & ~4n) | LARGE);
    expect(rig.read(DATA)).toBe('0x200000');
    expect(rig.access('fetch', DATA)).toMatch('EPT violation');
  });

  // The walk's last nested translation is then of a table that was written back, not of the page.
  test('when A is written after the translation, rights and size are still those of the page', () => {
    const rig = new Rig({ adPolicy: 'after-translation' });
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.store(EPT_OF_DATA, 0x20_0000n | (EPT_LEAF & ~2n) | LARGE);
    rig.store(PTE_OF_DATA, 0x20_0000n | (ENTRY & ~0x20n));
    expect(rig.read(DATA)).toBe('0x200000');
    expect(rig.load(PTE_OF_DATA) & 0x20n).toBe(0x20n);
    expect(rig.access('write', DATA)).toBe('EPT violation 7aa');
  });

  test('a second-stage dirty flag still to be set makes a write walk again', () => {
    const rig = new Rig();
    rig.enterVmx({ vpid: 1n, ept: EPT_A });
    rig.set(Reg.EPTP, eptp(EPT_A, true));
    rig.store(EPT_OF_DATA, 0x20_0000n | (EPT_LEAF & ~0x200n) | LARGE);
    expect(rig.read(DATA)).toBe('0x200000');
    expect(rig.load(EPT_OF_DATA) & 0x200n).toBe(0n);
    expect(rig.access('write', DATA)).toBe('0x200000');
    expect(rig.load(EPT_OF_DATA) & 0x200n).toBe(0x200n);
  });
});

describe('with NPT', () => {
  const NPT = 0x6000n;
  const NPT_PDPT = 0x7000n;
  const NPT_PD = 0xc000n;

  function nptRig(gmet: boolean, leafFlags: bigint): Rig {
    const rig = new Rig({ processor: { ...HEADER.processor, vendor: 'amd' } });
    rig.store(NPT, NPT_PDPT | ENTRY);
    rig.store(NPT_PDPT, NPT_PD | ENTRY);
    rig.store(NPT_PD, ENTRY | LARGE);
    rig.store(NPT_PD + 8n, 0x20_0000n | leafFlags | LARGE);
    rig.set(Reg.GUEST_MODE, BigInt(GuestMode.SVM));
    rig.set(Reg.ASID, 1n);
    rig.set(Reg.NCR3, NPT);
    rig.set(Reg.HOST_CR0, CR0_PAGING);
    rig.set(Reg.HOST_CR4, CR4_PAE);
    rig.set(Reg.HOST_EFER, EFER_LONG);
    rig.set(Reg.NESTED_CONTROL, BigInt(NESTED_NP_ENABLE | (gmet ? NESTED_GMET : 0)));
    rig.store(PTE_OF_DATA, 0x20_0000n | (ENTRY & ~4n));
    return rig;
  }

  test('with GMET a user page is not executed by a supervisor after it was read', () => {
    const rig = nptRig(true, ENTRY);
    expect(rig.read(DATA)).toBe('0x200000');
    expect(rig.access('fetch', DATA)).toBe('NPF 100000011');
    expect(rig.access('fetch', DATA, { walked: true })).toBe('NPF 100000011');
  });

  test('with GMET a supervisor page is executed by a supervisor after it was read', () => {
    const rig = nptRig(true, ENTRY & ~4n);
    expect(rig.read(DATA)).toBe('0x200000');
    expect(rig.access('fetch', DATA)).toBe('0x200000');
  });

  test('without GMET a user page is executed by a supervisor after it was read', () => {
    const rig = nptRig(false, ENTRY);
    expect(rig.read(DATA)).toBe('0x200000');
    expect(rig.access('fetch', DATA)).toBe('0x200000');
  });
});

describe('what has no translation', () => {
  test('an address that is not canonical raises #GP, through the stack segment #SS', () => {
    const rig = new Rig();
    expect(rig.read(0x8000_0000_0000n)).toBe('#GP 0');
    expect(rig.read(0x8000_0000_0000n, { stack: true })).toBe('#SS 0');
    expect(rig.read(0xffff_8000_0000_0000n)).toBe('#PF 0');
  });

  test('LASS is said not to be modelled, whether the TLB knows the page or not', () => {
    const rig = new Rig();
    rig.read(0x5000n);
    rig.set(Reg.CR4, CR4_PAE | (1n << 27n));
    expect(rig.read(0x6000n)).toBe('not modelled 1');
    expect(rig.read(0x5000n)).toBe('not modelled 1');
  });
});
