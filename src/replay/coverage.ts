/**
 * Coverage of a replay: which cells of the model (`coverage-cells.ts`) its steps reach. A recorder is attached to the
 * session's machine before the first step; a session without one is not touched and costs nothing more.
 *
 * ```
 * const session = new ReplaySession(file, header, options);
 * const coverage = coverageOf(session);
 * … session.run(columns) …
 * coverage.bits; // bit n of byte n/8 is cell n
 * ```
 */

import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import {
  CR0_PG,
  CR0_WP,
  CR4_LA57,
  CR4_PAE,
  CR4_PCIDE,
  CR4_PGE,
  CR4_PKE,
  CR4_PKS,
  CR4_PSE,
  CR4_SMAP,
  CR4_SMEP,
  EFER_NXE,
  Reg,
} from '../formats/registers.ts';
import {
  ACCESS_CPL_MASK,
  ACCESS_CPL_SHIFT,
  ACCESS_SHADOW_STACK,
  ACCESS_SOFTWARE,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_NAMES,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  INVALIDATION_MASK,
  INVALIDATION_SHIFT,
  INVALIDATION_TYPE_MASK,
  INVALIDATION_TYPE_SHIFT,
  Invalidation,
  NESTED_SVM,
  NESTED_TLB_CONTROL_MASK,
  NESTED_TLB_CONTROL_SHIFT,
  REGISTER_WRITE_TASK_SWITCH,
  STEP_KIND_MASK,
  STEP_REGISTER_MASK,
  STEP_REGISTER_SHIFT,
  StepKind,
} from '../formats/step.ts';
import { BareMachine } from '../machine/bare.ts';
import { KvmMachine } from '../machine/kvm/machine.ts';
import type { Machine } from '../machine/machine.ts';
import { ROW, ROW_VALUE_LO } from '../paging/row-log.ts';
import type { Stimulus } from '../trace/stimulus.ts';
import { cover } from './cover.ts';
import { HardwareCoverage } from './coverage-hardware.ts';
import { KvmCoverage } from './coverage-kvm.ts';
import { Checks, CoverageSet } from './coverage-set.ts';
import { SameGuest } from './same-guest.ts';

/** Bits of registers whose change is a cell: register, bit, check. */
const MODES: readonly (readonly [register: number, bit: number, check: string])[] = [
  [Reg.CR0, CR0_PG, 'pg'],
  [Reg.CR0, CR0_WP, 'wp'],
  [Reg.CR4, CR4_PSE, 'pse'],
  [Reg.CR4, CR4_PAE, 'pae'],
  [Reg.CR4, CR4_PGE, 'pge'],
  [Reg.CR4, CR4_PCIDE, 'pcide'],
  [Reg.CR4, CR4_SMEP, 'smep'],
  [Reg.CR4, CR4_SMAP, 'smap'],
  [Reg.CR4, CR4_PKE, 'pke'],
  [Reg.CR4, CR4_PKS, 'pks'],
  [Reg.CR4, CR4_LA57, 'la57'],
  [Reg.EFER, EFER_NXE, 'nxe'],
  [Reg.SMM, 1, 'smm'],
];

const WRITTEN: Readonly<Record<number, string>> = {
  [Reg.CR0]: 'cr0',
  [Reg.CR4]: 'cr4',
  [Reg.EFER]: 'efer',
  [Reg.PKRU]: 'pkru',
  [Reg.PKRS]: 'pkrs',
};

const INVPCID = ['address', 'pcid', 'all', 'all-but-global'];
const INVEPT = [undefined, 'eptp', 'all'];
const INVVPID = ['address', 'vpid', 'all', 'vpid-but-global'];

/** Steps as they are applied. */
class StepCoverage {
  private readonly machine: Machine;
  private readonly processor: Checks;
  private readonly kvm: Checks | null;

  constructor(machine: Machine, set: CoverageSet, hasKvm: boolean) {
    this.machine = machine;
    this.processor = new Checks('processor', set);
    this.kvm = hasKvm ? new Checks('kvm', set) : null;
    cover(machine, 'serves', (call: () => boolean, op: number) => {
      const served = call();
      if (served) this.access(op);
      return served;
    });
    cover(machine, 'apply', (call: () => void, ...args: unknown[]) => {
      const op = args[1] as number;
      const kind = op & STEP_KIND_MASK;
      if (kind === StepKind.ACCESS) {
        this.access(op);
        call();
        return;
      }
      const { registers } = machine;
      const before = kind === StepKind.REGISTER_WRITE || kind === StepKind.REGISTER_SET ? registers.slice() : null;
      call();
      if (before !== null) this.modes(before);
      this.step(kind, op, args[4] as number, args[5] as number, args[6] as readonly Stimulus[]);
    });
  }

  private access(op: number): void {
    const { processor } = this;
    processor.reach('access', ACCESS_TYPE_NAMES[(op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK]!);
    if ((op & ACCESS_USER) === 0 && ((op >>> ACCESS_CPL_SHIFT) & ACCESS_CPL_MASK) === 3)
      processor.reach('access', 'implicit');
    if ((op & ACCESS_SHADOW_STACK) !== 0) processor.reach('access', 'shadow-stack');
    if ((op & ACCESS_SOFTWARE) !== 0) processor.reach('access', 'software');
  }

  private modes(before: Uint32Array): void {
    const { registers } = this.machine;
    for (const [register, bit, check] of MODES) {
      const now = registers[2 * register]! & bit;
      if ((before[2 * register]! & bit) !== now) this.processor.reach(check, now !== 0 ? 'on' : 'off');
    }
  }

  private step(kind: number, op: number, lo: number, hi: number, stimuli: readonly Stimulus[]): void {
    const { processor } = this;
    const vendor = (op & NESTED_SVM) !== 0 ? 'svm' : 'vmx';
    switch (kind) {
      case StepKind.REGISTER_WRITE:
        this.write((op >>> STEP_REGISTER_SHIFT) & STEP_REGISTER_MASK, op, hi);
        break;
      case StepKind.PDPTE_LOAD:
        this.pdptes();
        break;
      case StepKind.INVALIDATE:
        this.invalidate(op, lo, hi);
        break;
      case StepKind.NESTED_ENTRY: {
        processor.reach('nested-entry', vendor);
        const control = (op >>> NESTED_TLB_CONTROL_SHIFT) & NESTED_TLB_CONTROL_MASK;
        if (vendor === 'svm' && (control === 1 || control === 3 || control === 7))
          processor.reach('nested-entry', `tlb-control-${control}`);
        break;
      }
      case StepKind.NESTED_EXIT:
        processor.reach('nested-exit', vendor);
        break;
      case StepKind.VCPU:
        processor.reach('vcpu', 'switched');
        break;
      case StepKind.RARE: {
        const stimulus = stimuli[lo];
        if (this.kvm === null || stimulus === undefined) break;
        if (stimulus.kind === 'memslot') this.kvm.reach('memslot', stimulus.what);
        if (stimulus.kind === 'hypervisor') this.kvm.reach('hypervisor-call', stimulus.what);
      }
    }
  }

  private write(register: number, op: number, hi: number): void {
    const { processor } = this;
    const name = WRITTEN[register];
    if (name !== undefined) processor.reach('register-write', name);
    if (register !== Reg.CR3) return;
    const keeps = hi < 0 && (this.machine.registers[2 * Reg.CR4]! & CR4_PCIDE) !== 0;
    const taskSwitch = (op & REGISTER_WRITE_TASK_SWITCH) !== 0;
    processor.reach('register-write', taskSwitch ? 'cr3-task-switch' : keeps ? 'cr3-keep' : 'cr3');
  }

  private pdptes(): void {
    const { log } = this.machine;
    for (let k = 0; k < log.count; k++) {
      if ((log.op(k) & OBS_KIND_MASK) === Obs.PDPTE_LOADED)
        this.processor.reach('pdpte-load', log.rows[k * ROW + ROW_VALUE_LO] === 1 ? 'loaded' : 'refused');
    }
  }

  private invalidate(op: number, lo: number, hi: number): void {
    const { processor } = this;
    const type = (op >>> INVALIDATION_TYPE_SHIFT) & INVALIDATION_TYPE_MASK;
    const reach = (check: string, outcome: string | undefined): void => {
      // An operand that the instruction refuses.
      if (outcome !== undefined) processor.reach(check, outcome);
    };
    switch ((op >>> INVALIDATION_SHIFT) & INVALIDATION_MASK) {
      case Invalidation.INVLPG:
        reach('invlpg', 'done');
        break;
      case Invalidation.INVPCID:
        reach('invpcid', INVPCID[type]);
        break;
      case Invalidation.INVEPT:
        reach('invept', INVEPT[type]);
        break;
      case Invalidation.INVVPID:
        reach('invvpid', INVVPID[type]);
        break;
      case Invalidation.INVLPGA:
        reach('invlpga', 'done');
        break;
      case Invalidation.EPTP_SWITCH:
        reach('eptp-switch', lo !== 0 || hi !== 0 ? 'by-value' : 'by-list');
    }
  }
}

/** Records from here on what a session's machine reaches; the set fills while the session runs. */
export function coverageOf(session: { readonly machine: Machine }): CoverageSet {
  const set = new CoverageSet();
  const { machine } = session;
  const bare = machine instanceof SameGuest ? machine.bare : machine;
  const kvm = machine instanceof SameGuest ? machine.guest : machine;
  if (bare instanceof BareMachine) new HardwareCoverage(bare, set);
  if (kvm instanceof KvmMachine) new KvmCoverage(kvm, set);
  new StepCoverage(machine, set, kvm instanceof KvmMachine);
  return set;
}
