/** Accessed and dirty bits of EPT and NPT that an access need not set which a processor's TLB served. */

import { describe, expect, test } from 'vitest';
import { fromBigInt } from '../../src/bits/word64.ts';
import { defaultKvmConfig } from '../../src/formats/kvm-config.ts';
import { Reg } from '../../src/formats/registers.ts';
import { ACCESS_TYPE_SHIFT, ACCESS_WALKED, AccessType, StepKind } from '../../src/formats/step.ts';
import { GuestExplanations } from '../../src/replay/guest-explanation.ts';
import { GuestOutcome } from '../../src/replay/guest-outcome.ts';
import { underKvm } from '../../src/replay/under-kvm.ts';
import {
  CR0_PAGING,
  CR4_PAE,
  CR4_PGE,
  EFER_LONG,
  ENTRY,
  EPT_A,
  eptp,
  GLOBAL,
  HEADER,
  LARGE,
  PD,
  PML4,
  PT,
  Rig,
} from '../machine/rig.ts';

const NPT = 0x3_0000n;
const NPT_PD = NPT + 0x2000n;
/** Page 5 of the linear addresses is the page that its page table, once that is another one, lies in. */
const PAGE_5 = 0x5000n;
const TABLE = 0x60_0000n;

/** Second-stage entry of guest-physical 6 MB to 8 MB, accessed and not dirty. */
interface Stage {
  readonly name: string;
  readonly vendor: 'intel' | 'amd';
  readonly entry: bigint;
  readonly dirty: bigint;
  readonly clean: bigint;
  readonly enter: (rig: Rig) => void;
}

const STAGES: readonly Stage[] = [
  {
    name: 'EPT',
    vendor: 'intel',
    entry: EPT_A + 0x10018n,
    dirty: 0x200n,
    clean: TABLE | 0x537n | LARGE,
    enter(rig) {
      rig.enterVmx({ vpid: 1n, ept: EPT_A });
      rig.set(Reg.EPTP, eptp(EPT_A, true));
    },
  },
  {
    name: 'NPT',
    vendor: 'amd',
    entry: NPT_PD + 24n,
    dirty: 0x40n,
    clean: TABLE | 0x27n | LARGE,
    enter(rig) {
      rig.hold(NPT, (NPT + 0x1000n) | ENTRY);
      rig.hold(NPT + 0x1000n, NPT_PD | ENTRY);
      for (let i = 0n; i < 8n; i++) if (i !== 3n) rig.hold(NPT_PD + 8n * i, (i << 21n) | ENTRY | LARGE);
      rig.set(Reg.HOST_CR0, CR0_PAGING);
      rig.set(Reg.HOST_CR4, CR4_PAE);
      rig.set(Reg.HOST_EFER, EFER_LONG);
      rig.set(Reg.NESTED_CONTROL, 1n);
      rig.set(Reg.NCR3, NPT);
      rig.enterSvm(1n);
    },
  },
];

/** Whether an access of page 5 need not set the entry's dirty bit, which a walk for it, of the new page table, does. */
function avoids({ vendor, entry, dirty, clean, enter }: Stage, type: number, flags: bigint): boolean {
  const header = { ...HEADER, processor: { ...HEADER.processor, vendor } } as const;
  const rig = new Rig(header);
  const { machine } = rig;
  const explanations = new GuestExplanations(
    header,
    defaultKvmConfig({ vendor }),
    machine,
    machine.history,
    underKvm(machine),
  );
  rig.set(Reg.CR4, CR4_PAE | CR4_PGE);
  rig.hold(entry, clean);
  rig.hold(PT + 40n, TABLE | flags);
  rig.hold(TABLE + 40n, TABLE | flags);
  enter(rig);
  rig.vmEntry();
  expect(rig.read(PAGE_5, { walked: true })).toBe('0x600000');
  expect(rig.load(entry) & dirty).toBe(0n);
  rig.store(PD, TABLE | ENTRY);
  rig.write(Reg.CR3, PML4);
  const op = StepKind.ACCESS | (type << ACCESS_TYPE_SHIFT);
  explanations.begin();
  rig.apply(op | ACCESS_WALKED, PAGE_5);
  expect(rig.load(entry) & dirty).toBe(dirty);
  const seen = new GuestOutcome();
  seen.ofLog(machine.log);
  const [addressLo, bits] = [fromBigInt(entry).lo | 0, fromBigInt(dirty).lo];
  return explanations.flags.avoids({ op, lo: Number(PAGE_5), hi: 0, seen }, { addressLo, addressHi: 0, bits });
}

describe.each(STAGES)('a page of $name that is read through the TLB, its page table of now in it', (stage) => {
  test('need not be dirty by a global translation made before', () => {
    expect(avoids(stage, AccessType.READ, ENTRY | GLOBAL)).toBe(true);
    expect(avoids(stage, AccessType.FETCH, ENTRY | GLOBAL)).toBe(true);
  });

  test('is dirty when it is written to, or when the translation is gone', () => {
    expect(avoids(stage, AccessType.WRITE, ENTRY | GLOBAL)).toBe(false);
    expect(avoids(stage, AccessType.RMW, ENTRY | GLOBAL)).toBe(false);
    expect(avoids(stage, AccessType.READ, ENTRY)).toBe(false);
  });
});
