/**
 * The machine's own TLB is one lawful choice among those that the architecture allows: whatever it serves that memory
 * would not give any more, `LawfulOutcomes` must call allowed. Random histories.
 */

import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { Reg } from '../../src/formats/registers.ts';
import {
  CR4_PAE,
  CR4_PCIDE,
  CR4_PGE,
  ENTRY,
  EPT_A,
  EPT_B,
  EPT_LEAF,
  eptp,
  GLOBAL,
  type Kind,
  LARGE,
  NO_FLUSH,
  PD,
  PML4,
  PT,
  PT2,
  page,
  Rig,
} from './rig.ts';

type Step =
  | { readonly does: 'access'; readonly kind: Kind; readonly index: bigint }
  | { readonly does: 'store-pte'; readonly index: bigint; readonly frame: bigint; readonly flags: bigint }
  | { readonly does: 'store-pde'; readonly table: bigint }
  | { readonly does: 'store-ept'; readonly base: bigint; readonly flags: bigint }
  | {
      readonly does: 'INVLPG' | 'INVPCID' | 'INVVPID' | 'INVEPT' | 'EPTP_SWITCH';
      readonly type: number;
      readonly index: bigint;
      readonly tag: bigint;
    }
  | { readonly does: 'mov-cr3'; readonly value: bigint }
  | { readonly does: 'mov-cr4'; readonly value: bigint }
  | { readonly does: 'enter'; readonly vpid: bigint; readonly ept: bigint | undefined };

/** Out-of-date translations that were judged. */
let judged = 0;

function apply(rig: Rig, step: Step): void {
  switch (step.does) {
    case 'access': {
      const address = step.index << 12n;
      const outcome = rig.access(step.kind, address);
      if (!rig.machine.staleHit) return;
      judged++;
      expect(rig.judge(step.kind, address, outcome)).toMatchObject({ kind: 'allowed' });
      return;
    }
    case 'store-pte':
      rig.store(PT + 8n * step.index, page(step.frame, step.flags));
      return;
    case 'store-pde':
      rig.store(PD, step.table | ENTRY);
      return;
    case 'store-ept':
      rig.store(EPT_A + 0x10008n, step.base | step.flags | LARGE);
      return;
    case 'mov-cr3':
      rig.write(Reg.CR3, step.value);
      return;
    case 'mov-cr4':
      rig.write(Reg.CR4, step.value);
      return;
    case 'enter':
      rig.enterVmx(step.ept === undefined ? { vpid: step.vpid } : { vpid: step.vpid, ept: step.ept });
      rig.vmEntry();
      return;
    default:
      rig.invalidate(step.does, step.type, step.index << 12n, step.tag);
  }
}

const index = fc.constantFrom(4n, 5n);
const none = { index: fc.constant(0n), type: fc.constant(0), tag: fc.constant(0n) };
const anyType = fc.integer({ min: 0, max: 3 });
const tag = fc.constantFrom(1n, 2n);
const root = fc.constantFrom(EPT_A, EPT_B);

function step<D extends Step['does']>(does: D, fields: Record<string, fc.Arbitrary<unknown>>): fc.Arbitrary<Step> {
  return fc.record({ does: fc.constant(does), ...fields }) as fc.Arbitrary<unknown> as fc.Arbitrary<Step>;
}

const access = step('access', { kind: fc.constantFrom('read', 'write'), index });
const storePte = step('store-pte', {
  index,
  frame: fc.constantFrom(0x201n, 0x202n, 0x203n),
  flags: fc.constantFrom(ENTRY, ENTRY & ~2n, ENTRY | GLOBAL),
});
const storePde = step('store-pde', { table: fc.constantFrom(PT, PT2) });
const storeEpt = step('store-ept', {
  base: fc.constantFrom(0x20_0000n, 0x60_0000n),
  flags: fc.constantFrom(EPT_LEAF, EPT_LEAF & ~2n),
});
const invlpg = step('INVLPG', { ...none, index });
const invpcid = step('INVPCID', { type: anyType, index, tag });
const invvpid = step('INVVPID', { type: anyType, index, tag });
const invept = step('INVEPT', { ...none, type: fc.constantFrom(1, 2), tag: root.map((each) => eptp(each)) });
const eptpSwitch = step('EPTP_SWITCH', { ...none, tag: root.map((each) => eptp(each)) });
const movCr3 = step('mov-cr3', {
  value: fc.constantFrom(1n, 2n, 1n | NO_FLUSH, 2n | NO_FLUSH).map((low) => PML4 | low),
});
const movCr4 = step('mov-cr4', { value: fc.constantFrom(CR4_PGE, 0n).map((pge) => CR4_PAE | CR4_PCIDE | pge) });
const enter = step('enter', { vpid: fc.constantFrom(0n, 1n, 2n), ept: fc.option(root, { nil: undefined }) });

function replay(steps: readonly Step[]): void {
  const rig = new Rig();
  rig.set(Reg.CR4, CR4_PAE | CR4_PCIDE | CR4_PGE);
  rig.set(Reg.CR3, PML4 | 1n);
  for (const each of steps) apply(rig, each);
}

/** Random histories of accesses and as many `others`. */
function check(...others: readonly fc.Arbitrary<Step>[]): void {
  const steps = fc.array(fc.oneof({ weight: 2 * others.length, arbitrary: access }, ...others), {
    maxLength: 80,
    size: 'max',
  });
  fc.assert(fc.property(steps, replay), { numRuns: 300, seed: 1 });
  expect(judged).toBeGreaterThan(200);
}

describe("what is out of date in the machine's own TLB is lawful", () => {
  beforeEach(() => {
    judged = 0;
  });

  test('when leaves change', () => {
    check(storePte, invlpg, invpcid, movCr3, movCr4);
  });

  test('when leaves and the entries above them change', () => {
    check(storePte, storePde, invlpg, invpcid, movCr3, movCr4);
  });

  test('in guests, with VPIDs and several EPTs', () => {
    check(storePte, storeEpt, invlpg, invvpid, invept, eptpSwitch, enter, movCr3);
  });
});
