/** What may be cached of a guest's guest, and what a question about it leaves alone. All found by random programs on KVM. */

import { describe, expect, test } from 'vitest';
import { OBS_KIND_MASK, Obs } from '../../src/formats/observation.ts';
import { Reg, SECONDARY_EPT, SECONDARY_PML } from '../../src/formats/registers.ts';
import { ACCESS_SOFTWARE, ACCESS_TYPE_SHIFT, ACCESS_WALKED, AccessType, StepKind } from '../../src/formats/step.ts';
import { CR4_PAE, ENTRY, EPT_A, EPT_LEAF, eptp, LARGE, outcomeOf, PD, PDPT, PT, PT2, page, Rig } from './rig.ts';

const ROOT_B = 0x3_0000n;
const PAGE_5 = 0x5000n;
/** The EPT entry of guest-physical 2 MB to 4 MB. */
const ENTRY_2M = EPT_A + 0x10008n;
const ACCESSED = 0x20n;

/** L2 with VPID 1 on CR3 = PML4; at ROOT_B linear page i is physical page 0x600 + i. */
function guestWithVpid(): Rig {
  const rig = new Rig();
  rig.hold(ROOT_B, (ROOT_B + 0x1000n) | ENTRY);
  rig.hold(ROOT_B + 0x1000n, (ROOT_B + 0x2000n) | ENTRY);
  rig.hold(ROOT_B + 0x2000n, PT2 | ENTRY);
  rig.enterVmx({ vpid: 1n });
  rig.vmEntry();
  return rig;
}

describe('the root that L2 was left with', () => {
  test('may still have translations when it is entered with another one', () => {
    const rig = guestWithVpid();
    const left = rig.vmExit();
    rig.set(Reg.CR3, ROOT_B);
    rig.vmEntry();
    expect(rig.read(PAGE_5)).toBe('0x605000');
    expect(rig.judge('read', PAGE_5, '0x105000')).toEqual({ kind: 'allowed', level: 1, replacedAt: left });
  });

  test('has none under another VPID, nor after INVVPID', () => {
    const other = guestWithVpid();
    other.vmExit();
    other.set(Reg.CR3, ROOT_B);
    other.set(Reg.VPID, 2n);
    other.vmEntry();
    expect(other.judge('read', PAGE_5, '0x105000')).toEqual({ kind: 'none' });
    const dropped = guestWithVpid();
    dropped.vmExit();
    dropped.invalidate('INVVPID', 1, 0n, 1n);
    dropped.set(Reg.CR3, ROOT_B);
    dropped.vmEntry();
    expect(dropped.judge('read', PAGE_5, '0x105000')).toEqual({ kind: 'none' });
  });

  test('with a PDPTE that is not present has cached nothing', () => {
    const rig = new Rig();
    rig.set(Reg.EFER, 0n);
    rig.set(Reg.CR4, CR4_PAE);
    rig.hold(PDPT, PD | 1n);
    rig.set(Reg.CR3, ROOT_B);
    rig.write(Reg.CR3, PDPT);
    expect(rig.read(PAGE_5)).toBe('0x105000');
    expect(rig.judge('read', PAGE_5, '#PF 0')).toEqual({ kind: 'none' });
  });
});

test('an entry that served one stage of a walk may be gone for the next', () => {
  const rig = new Rig();
  rig.hold(PD, 0x20_0000n | ENTRY);
  rig.hold(0x20_0028n, page(0x105n, ENTRY & ~ACCESSED));
  rig.enterVmx({ ept: EPT_A });
  rig.vmEntry();
  const changed = rig.store(ENTRY_2M, 0x20_0000n);
  // Fresh, the table is not reached; as it was, it is read; and its A bit cannot be written back.
  expect(rig.read(PAGE_5, { walked: true })).toBe('EPT violation 81');
  expect(rig.judge('read', PAGE_5, 'EPT violation 83')).toMatchObject({ kind: 'allowed', replacedAt: changed });
  rig.invalidate('INVEPT', 1, 0n, eptp(EPT_A));
  expect(rig.judge('read', PAGE_5, 'EPT violation 83')).not.toMatchObject({ kind: 'allowed' });
});

describe('a probe', () => {
  test('finds the page-modification log full, and leaves it and the tables as they were', () => {
    const rig = new Rig();
    rig.hold(PT + 0x28n, page(0x200n));
    rig.hold(EPT_A + 0x10000n, EPT_LEAF | LARGE);
    rig.hold(ENTRY_2M, 0x20_0000n | (EPT_LEAF & ~0x300n) | LARGE);
    rig.enterVmx({ ept: EPT_A });
    rig.set(Reg.EPTP, eptp(EPT_A, true));
    rig.set(Reg.SECONDARY_CONTROLS, BigInt(SECONDARY_EPT | SECONDARY_PML));
    rig.set(Reg.PML_ADDRESS, 0x9_0000n);
    const probe = (): number => {
      rig.machine.configure();
      rig.machine.probe(StepKind.ACCESS | (AccessType.WRITE << ACCESS_TYPE_SHIFT), 0x5000, 0);
      const { log } = rig.machine;
      let last = 0;
      for (let i = 0; i < log.count; i++) {
        if ([Obs.TRANSLATED, Obs.PML_FULL].includes((log.op(i) & OBS_KIND_MASK) as never))
          last = log.op(i) & OBS_KIND_MASK;
      }
      return last;
    };
    const leaf = rig.load(ENTRY_2M);
    for (const [index, outcome] of [[0n, Obs.TRANSLATED] as const, [0xffffn, Obs.PML_FULL] as const]) {
      rig.set(Reg.PML_INDEX, index);
      expect(probe()).toBe(outcome);
      expect([rig.load(ENTRY_2M), rig.load(0x9_0000n), rig.register(Reg.PML_INDEX)]).toEqual([leaf, 0n, index]);
    }
    expect(rig.machine.history.presentSince(Number(ENTRY_2M), 0)).toBe(-1);
  });
});

describe('an access by software', () => {
  const software = (rig: Rig, address: bigint, type: number): string =>
    outcomeOf(rig.apply(StepKind.ACCESS | ACCESS_SOFTWARE | (type << ACCESS_TYPE_SHIFT), address));

  test('that ends in #PF drops what is cached of the address, if the page was present', () => {
    for (const present of [true, false]) {
      const rig = new Rig();
      rig.read(PAGE_5);
      rig.store(PT + 0x28n, present ? page(0x105n, ENTRY & ~2n) : 0n);
      rig.set(Reg.CR0, 0x8001_0011n);
      expect(software(rig, PAGE_5, AccessType.WRITE)).toBe(present ? '#PF 3' : '#PF 2');
      const verdict = rig.judge('write', PAGE_5, '0x105000');
      expect(verdict.kind).toBe(present ? 'invalidated' : 'allowed');
    }
  });

  test('without paging tells the whole address', () => {
    const rig = new Rig();
    rig.hold(ENTRY_2M, 0n);
    rig.set(Reg.CR0, 0x11n);
    rig.set(Reg.EFER, 0n);
    rig.enterVmx({ ept: EPT_A });
    const rows = rig.apply(StepKind.ACCESS | ACCESS_SOFTWARE, 0x20_1234n);
    expect(rows.at(-1)).toMatchObject({ op: Obs.EPT_VIOLATION, addressLo: 0x20_1234 });
    const walked = rig.apply(StepKind.ACCESS | ACCESS_WALKED, 0x20_1234n);
    expect(walked.find(({ op }) => op === Obs.EPT_VIOLATION)).toMatchObject({ addressLo: 0x20_1234 });
  });
});
