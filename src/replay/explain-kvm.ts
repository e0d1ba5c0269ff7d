/**
 * An emulated KVM's part of an explanation: what the processor made of KVM's tables, attempt by attempt, among KVM's own walks;
 * the SPTEs on the way to the addresses of the step, and the contexts that took part.
 */

import { hexText } from '../bits/word64.ts';
import {
  ACCESS_CPL_MASK,
  ACCESS_CPL_SHIFT,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  AccessType,
  SOFTWARE_IMPLICIT,
  STEP_KIND_MASK,
  StepKind,
} from '../formats/step.ts';
import type { KvmMachine } from '../machine/kvm/machine.ts';
import { Outcome } from '../machine/kvm/processor.ts';
import { FETCH, USER, WRITE } from '../paging/access.ts';
import { logRows } from './align.ts';
import { hardwareWalks } from './explain-hardware.ts';
import type { HardwareView } from './explain-hardware-nodes.ts';
import { nameOfMmu, nameOfWalk } from './explain-names.ts';
import { softwareWalks } from './explain-software.ts';
import { contextsOf, tablesFor } from './explain-state.ts';
import { contextsIn } from './explain-walks.ts';
import type { Watch } from './explain-watch.ts';
import type { ProcessorListener } from './explain-watch-processor.ts';
import type { ExplainedContext, ExplainedTables, ExplainedWalk } from './explanation.ts';
import type { Row } from './result.ts';

/** The word of an ACCESS step that asks for what error-code bits W, U and F say. */
function stepOfAccess(access: number): number {
  const type = (access & FETCH) !== 0 ? AccessType.FETCH : (access & WRITE) !== 0 ? AccessType.WRITE : AccessType.READ;
  return StepKind.ACCESS | (type << ACCESS_TYPE_SHIFT) | ((access & USER) !== 0 ? ACCESS_USER : 0);
}

function viewOf(machine: KvmMachine): HardwareView {
  const { processor, config, vcpu } = machine;
  const { hardware } = processor;
  return {
    cpuWalk: hardware.cpuWalk,
    tdpWalk: hardware.tdpWalk,
    registers: hardware.registers,
    maxphyaddr: config.hostMaxphyaddr,
    vendor: config.vendor,
    executeOnly: true,
    first: config.tdp ? nameOfWalk(vcpu, vcpu.gvaWalk) : nameOfMmu(vcpu, vcpu.mmu),
    second: nameOfMmu(vcpu, vcpu.mmu),
    sptes: config.tdp ? 'second' : 'first',
    config,
  };
}

/** Collects what the processor above KVM does in a step. */
export class KvmStep {
  private readonly watch: Watch;
  private walks: { readonly row: number; readonly walks: ExplainedWalk[] }[] = [];
  private reached: { lo: number; hi: number } | undefined;

  constructor(watch: Watch) {
    this.watch = watch;
  }

  /** A new step. */
  begin(): void {
    this.walks = [];
    this.reached = undefined;
  }

  /** The processor has made an access, or was asked what it would make of one. */
  readonly listen: ProcessorListener = (processor, how, op, lo, hi, outcome) => {
    const { machine } = this.watch;
    const rows = logRows(processor.hardware.log);
    if (outcome === Outcome.OK) this.reached = { lo: processor.meantLo, hi: processor.meantHi };
    const attempt = this.walks.length + 1;
    const isProbe = how === 'probe' || how === 'probe-gpa';
    const title = isProbe
      ? "what the processor makes of the access with KVM's tables as they are"
      : `the processor, attempt ${attempt}`;
    const served = processor.servedByTlb && outcome === Outcome.OK && !isProbe;
    const address = { lo: lo | 0, hi: hi | 0 };
    const word = how === 'probe-gpa' ? stepOfAccess(op) : op;
    const walks = hardwareWalks(served ? [] : rows, viewOf(machine), word, address.lo, address.hi, title, served);
    const told = walks.map((walk) =>
      served ? { ...walk, result: `reaches ${hexText(processor.hpaLo, processor.hpaHi)}` } : walk,
    );
    this.walks.push({ row: machine.log.count, walks: told });
  };

  /** The processor's walks and KVM's in the order in which they were made. */
  allWalks(rows: readonly Row[], op: number): ExplainedWalk[] {
    const kind = op & STEP_KIND_MASK;
    const implicit =
      kind === StepKind.SOFTWARE_WALK
        ? (op & SOFTWARE_IMPLICIT) !== 0
        : kind === StepKind.ACCESS && (op & ACCESS_USER) === 0 && ((op >>> ACCESS_CPL_SHIFT) & ACCESS_CPL_MASK) === 3;
    const software = softwareWalks(rows, this.watch.walkRows, { implicit });
    const placed = [
      ...this.walks.map(({ row, walks }) => ({ row, walks })),
      ...software.map(({ row, ...walk }) => ({ row: row + 0.5, walks: [walk] })),
    ];
    placed.sort((a, b) => a.row - b.row);
    return placed.flatMap(({ walks }) => walks);
  }

  /** KVM's tables for the addresses of its faults, and for the one that the access reached. */
  tables(): ExplainedTables[] {
    const { machine, addresses, before } = this.watch;
    const { vcpu } = machine;
    const wanted = [...addresses];
    const { reached } = this;
    const { config } = machine;
    if (reached !== undefined && config.tdp) wanted.push({ mmu: vcpu.mmu, lo: reached.lo & ~0xfff, hi: reached.hi });
    const tables = wanted.map(({ mmu, lo, hi }) => tablesFor(machine, mmu, lo & ~0xfff, hi, before));
    const keys = new Set<string>();
    return tables.filter(({ context, address }) => {
      const key = `${context} ${address}`;
      if (keys.has(key)) return false;
      keys.add(key);
      return true;
    });
  }

  contexts(walks: readonly ExplainedWalk[]): ExplainedContext[] {
    const used = contextsIn(walks);
    for (const { context } of this.watch.seen) used.add(context);
    return contextsOf(this.watch.machine, used);
  }
}
