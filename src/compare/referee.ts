/**
 * One side of a comparison: the machine, and where the guest's view is compared a bare processor beside it as referee,
 * the same that `rewalk replay --machine kvm` has (`replay/same-guest.ts`). Two lawful machines may still differ, e.g. one
 * forces NX on; only the referee can tell that from a change that matters.
 */

import type { KvmConfig } from '../formats/kvm-config.ts';
import { KvmMachine } from '../machine/kvm/machine.ts';
import type { Machine } from '../machine/machine.ts';
import { type KvmMachineMaker, machineFor } from '../replay/machines.ts';
import { NESTED_TDP_WITHOUT_TDP } from '../replay/result.ts';
import type { SameGuest } from '../replay/same-guest.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { takeRecorded, takeState } from './knowledge.ts';
import type { Scope } from './result.ts';
import type { Side } from './sides.ts';

/** What a referee finds unexplained and keeps; with more than that nothing counts as explained any more. */
const MAXIMUM_FOUND = 10_000;

const newKvm: KvmMachineMaker = (header, config, options) => new KvmMachine(header, config, options);

export class RefereedMachine {
  /** What is compared. */
  readonly machine: Machine;
  /** What steps and the recording's knowledge go to: the machine, with its referee if it has one. */
  readonly target: Machine;
  readonly description: string;
  readonly config: KvmConfig | undefined;
  private readonly referee: SameGuest | null;
  private readonly isBare: boolean;
  private readonly adOpen: boolean;
  private foundBefore = 0;

  /** Throws E_USAGE if the machine asked for does not fit the trace. */
  constructor(header: TraceHeader, { choice }: Side, scope: Scope, makeKvm = newKvm) {
    let kvm: Machine | null = null;
    const chosen = machineFor(header, choice, (...from) => {
      kvm = makeKvm(...from);
      return kvm;
    });
    this.machine = kvm ?? chosen.machine;
    this.referee = scope === 'guest' ? chosen.same : null;
    this.target = this.referee ?? this.machine;
    this.isBare = kvm === null;
    this.adOpen = header.adPolicy === 'unspecified';
    this.description = chosen.description;
    this.config = this.machine.kvm?.config;
    const all = { from: 0, to: Number.POSITIVE_INFINITY, filter: null, bail: false };
    this.referee?.restrict({ ...all, maxDiffs: MAXIMUM_FOUND });
  }

  /** Takes the registers that a run of steps begins with. */
  begin(columns: StepColumns): void {
    this.referee?.begin(columns);
    takeState(this.target, columns);
  }

  /** Applies one step of a run. Throws a Problem, or another error if the machine cannot go on. */
  apply({ firstOrdinal, op, address, operand, stimuli }: StepColumns, index: number): void {
    const at = 2 * index;
    this.beginStep();
    this.target.apply(
      firstOrdinal + index,
      op[index]!,
      address[at]! | 0,
      address[at + 1]! | 0,
      operand[at]! | 0,
      operand[at + 1]! | 0,
      stimuli,
    );
    if (this.referee?.failure !== undefined) throw new Error(this.referee.failure);
  }

  /** Takes what the recording tells of the state after a step, once the sides were held against each other. */
  learn(columns: StepColumns, index: number): void {
    const begin = index === 0 ? 0 : columns.observationEnd[index - 1]!;
    const end = columns.observationEnd[index]!;
    if (end > begin) takeRecorded(this.target, columns, begin, end, this.adOpen);
  }

  private beginStep(): void {
    this.foundBefore = this.referee?.differences.length ?? 0;
  }

  /** The machine is behind its referee: its log and registers are not those of the last step. */
  get isBehind(): boolean {
    return this.referee?.isBehind ?? false;
  }

  /**
   * Why the machine is not given the steps that come now, by name; empty if of the last one nothing was to be seen anyway.
   * Undefined: it is given them.
   */
  get hiddenBy(): string | undefined {
    if (this.referee?.hides !== true) return undefined;
    return this.target.log.count > 0 ? NESTED_TDP_WITHOUT_TDP : '';
  }

  /** Whether all that the machine did since is what a bare processor may do. Without a referee: no. */
  get isExplained(): boolean {
    if (this.isBare) return true;
    const found = this.referee?.differences.length ?? MAXIMUM_FOUND;
    return found === this.foundBefore && found < MAXIMUM_FOUND;
  }

  /** Lets the referee compare what is left in memory at the end. */
  end(): void {
    this.beginStep();
    this.referee?.result();
  }
}
