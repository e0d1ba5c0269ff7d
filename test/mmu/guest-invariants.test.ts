/** Invariants of the tables that shadow L1's NPT and EPT: they hold, and each is noticed when it does not. */

import { describe, expect, test } from 'vitest';
import { Reg } from '../../src/formats/registers.ts';
import { checkInvariants } from '../../src/mmu/invariants.ts';
import type { ShadowPage } from '../../src/mmu/shadow-page.ts';
import { Vcpu } from '../../src/mmu/vcpu.ts';
import { withQuadrant } from '../../src/paging/kvm-roles.ts';
import { EPT_ALL, ER, EW, EX, EXU, eptGuest, GuestRig, leaf, nptGuest } from './guest-rig.ts';
import { A, ALL, addressOf, CR0_ET, D, P, ShadowRig, TABLE, U } from './shadow-rig.ts';

const MIB_2 = addressOf(1, 2);
const GUEST_MODE = 1 << 17;

/** L2 has used two pages and an MMIO page of its first table, and a second table writes to the first, which is unsync. */
function busyNpt(): GuestRig {
  const rig = nptGuest();
  rig.exitL2();
  rig.l1Touches(5);
  rig.enterL2();
  rig.put(4, 9, ShadowRig.entry(0x101, P | U | A | D));
  rig.put(3, 1, ShadowRig.entry(5, TABLE));
  rig.put(5, 0, ShadowRig.entry(0x102, ALL));
  rig.put(5, 8, ShadowRig.entry(4, ALL));
  rig.put(5, 16, ShadowRig.entry(0xe_0000, ALL));
  rig.fault(0, 6);
  rig.fault(0x9000, 4);
  rig.fault(MIB_2, 6);
  rig.fault(MIB_2 + 0x8000, 6);
  rig.fault(MIB_2 + 0x1_0000, 6);
  return rig;
}

function busyEpt(change: Parameters<typeof eptGuest>[0] = {}): GuestRig {
  const rig = eptGuest(change);
  rig.fault(0, 2);
  return rig;
}

function change(rig: GuestRig, sp: ShadowPage, index: number, lo: number, hi = 0): void {
  const sptep = sp.sptep(index);
  rig.pages.set(sptep, rig.pages.lo(sptep) ^ lo, rig.pages.hi(sptep) ^ hi);
}

/** Changes the TDP MMU's SPTE for a frame of L1's. */
function changeTdp(rig: GuestRig, gfn: number, lo: number, hi = 0): void {
  rig.tdpSpte(gfn);
  change(rig, rig.tdpMmu!.sp, rig.tdpMmu!.index, lo, hi);
}

test('hold while L2 runs, while L1 runs, and when all goes', () => {
  const rig = busyNpt();
  expect([rig.page(4, 1).unsync, rig.broken()]).toEqual([true, []]);
  rig.exitL2();
  expect(rig.broken()).toEqual([]);
  rig.fault(0x5000, 7);
  rig.put(5, 0, 0);
  rig.put(5, 16, ShadowRig.entry(0x103, ALL));
  expect(rig.broken()).toEqual([]);
  rig.enterL2();
  expect(rig.broken()).toEqual([]);
  rig.vm.unmap(0, 0x100, 0x103);
  rig.vm.zapAllFast();
  expect(rig.broken()).toEqual([]);
  rig.vcpu.unload();
  expect([rig.broken(), rig.pages.used]).toEqual([[], 0]);
});

describe('are noticed: NPT', () => {
  const spoil: Readonly<Record<string, (rig: GuestRig) => void>> = {
    // The TDP MMU over L1's tables.
    'can become writable, and the level-2 table for gfn 3': (rig) => changeTdp(rig, 3, 0x402),
    'can become writable, and the level-1 table for gfn 5': (rig) => changeTdp(rig, 5, 0x400),
    'can become writable, and the level-1 table for gfn 4': (rig) => {
      rig.page(4, 1).unsync = false;
    },
    'the write-track count at 2 is 0, not 1': (rig) => rig.pages.slotState.untrack(2, 0),
    // Whose tables they are.
    'which is of another kind': (rig) => {
      rig.page(5, 1).role ^= GUEST_MODE;
    },
    "which is none of L2's": (rig) => {
      rig.page(1, 5).role ^= GUEST_MODE;
    },
    'passes through to the level-4 table for gfn 6': (rig) => {
      const root = rig.page(1, 5);
      rig.pages.link(
        root.sptep(1),
        rig.pages.get(6, rig.page(1, 4).role, () => 0),
      );
    },
    'the root for 7000 is': (rig) => {
      rig.mmu.root = { ...rig.mmu.root!, pgd: 0x7000 };
    },
    // What they say.
    'gives more than it was last mapped with': (rig) => change(rig, rig.page(4, 1), 9, 0x402),
    "gives more than the guest's entry": (rig) => rig.put(5, 0, ShadowRig.entry(0x102, P | U | A | D)),
    'the guest has nothing there': (rig) => rig.put(5, 0, 0),
    "the guest's entry for 107": (rig) => rig.put(5, 0, ShadowRig.entry(0x107, ALL)),
    'under which the host has': (rig) => change(rig, rig.page(5, 1), 0, 0x1000),
    'with other rights': (rig) => rig.put(3, 1, ShadowRig.entry(5, P | U | A)),
    "the guest's to 6": (rig) => rig.put(3, 1, ShadowRig.entry(6, TABLE)),
    'has reserved bits or is misconfigured': (rig) => rig.put(5, 0, ShadowRig.entry(0x102, ALL) + 2 ** 45),
    'is MMIO of gfn e0000': (rig) => rig.put(5, 16, ShadowRig.entry(0xe_0001, ALL)),
    'is of A/D type 2, not 0': (rig) => change(rig, rig.page(5, 1), 0, 0, 2 << 20),
    // What they know of each other.
    'unsync children and has': (rig) => void rig.page(3, 2).unsyncChildren++,
    'is not marked': (rig) => rig.page(1, 5).clearUnsyncBit(0),
    'is 0 times among the parents': (rig) => void rig.page(1, 4).parents.pop(),
    'is 0 times in its reverse map': (rig) => rig.pages.rmap.remove(0x102, 1, 0, rig.page(5, 1).sptep(0)),
  };

  test.each(Object.keys(spoil))('%s', (what) => {
    const rig = busyNpt();
    expect(rig.broken()).toEqual([]);
    spoil[what]!(rig);
    expect(rig.broken().filter((sentence) => sentence.includes(what))).not.toEqual([]);
  });

  test('NX of an L1 that has none', () => {
    const rig = new GuestRig({ stage: 'npt' });
    rig.enter('long', 1, { efer: 0x500 });
    rig.fourLevels();
    rig.put(4, 0, ShadowRig.entry(0x100, ALL));
    rig.enterL2();
    rig.fault(0, 6);
    expect(rig.broken()).toEqual([]);
    rig.put(4, 0, ShadowRig.entry(0x100, ALL), true);
    expect(rig.broken()).toEqual([expect.stringContaining('has reserved bits')]);
  });

  test('a quarter of a 32-bit page directory in another’s place', () => {
    const rig = new GuestRig({ stage: 'npt', mode: '32bit' });
    rig.enterL2();
    expect(rig.broken()).toEqual([]);
    const sp = rig.mmu.root!.pae![1]!;
    sp.role = withQuadrant(sp.role, 2);
    expect(rig.broken()).toEqual([expect.stringContaining('as its quarter 1')]);
  });
});

describe('are noticed: EPT', () => {
  test.each([
    ["gives more than the guest's entry", leaf(ER | EX)],
    ["gives more than the guest's entry", EPT_ALL & ~0x200],
    ['has reserved bits or is misconfigured', leaf(EW | EX)],
    ['has reserved bits or is misconfigured', leaf(ER | EW | EX) - (6 << 3) + (2 << 3)],
    ['the guest has nothing there', leaf(EXU)],
    ['the guest has nothing there', EPT_ALL & ~0x100],
  ])('%s (%#)', (what, flags) => {
    const rig = busyEpt();
    expect(rig.broken()).toEqual([]);
    rig.put(4, 0, ShadowRig.entry(0x100, flags));
    expect(rig.broken()).toEqual([expect.stringContaining(what)]);
  });

  test('A and D are nothing to an EPTP without them', () => {
    const rig = eptGuest({}, { ad: false });
    rig.fault(0, 2);
    rig.put(4, 0, ShadowRig.entry(0x100, EPT_ALL & ~0x300));
    expect(rig.broken()).toEqual([]);
  });

  test('L2’s frames must not get into the processor’s log', () => {
    const rig = busyEpt({ config: { pml: true } });
    expect(rig.broken()).toEqual([]);
    change(rig, rig.page(4, 1), 0, 0, 2 << 20);
    expect(rig.broken()).toEqual([expect.stringContaining('is of A/D type 0, not 2')]);
  });

  test('large pages over L1’s tables', () => {
    const rig = busyEpt({ hostLevel: 2 });
    expect(rig.broken()).toEqual([]);
    changeTdp(rig, 4, 2);
    expect(rig.broken().filter((sentence) => sentence.includes('can become writable'))).not.toEqual([]);
  });
});

test('roots are those of all vCPUs', () => {
  const rig = busyNpt();
  const { pages, tdpMmu, host, vcpu } = rig;
  const registers = new Uint32Array(rig.registers.length);
  registers[2 * Reg.CR0] = CR0_ET;
  const other = new Vcpu({
    pages,
    tdpMmu,
    registers,
    memory: host.guestMemory(0),
    features: vcpu.guestMmu.walk.features,
    hardware: {
      flushAll: () => undefined,
      flushCurrent: () => undefined,
      flushGuest: () => undefined,
      flushAddress: () => undefined,
      useRoot: () => undefined,
      useTag: () => undefined,
    },
  });
  other.serveRequests();
  const inspected = { pages, vcpu, tdpMmu, host };
  expect(checkInvariants({ ...inspected, vcpus: () => [vcpu, other] })).toEqual([]);
  expect(checkInvariants(inspected)).toEqual([expect.stringContaining('counts 3 holders and has 2')]);
});
