/**
 * One side of a comparison: the machine, and where the guest's view is compared a bare processor beside it as referee,
 * the same that `rewalk replay --machine kvm` has (`replay/same-guest.ts`). Two lawful machines may still differ, e.g. one
 * forces NX on; only the referee can tell that from a change that matters.
 */

import type { KvmConfig } from '../formats/kvm-config.ts';
import { KvmMachine } from '../machine/kvm/machine.ts';
import type { Machine } from '../machine/machine.ts';
import { type KvmMachineMaker, machineFor } from '../replay/machines.ts';
import type { SameGuest } from '../replay/same-guest.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
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
    this.description = chosen.description;
    this.config = this.machine.kvm?.config;
    const all = { from: 0, to: Number.POSITIVE_INFINITY, filter: null, bail: false };
    this.referee?.restrict({ ...all, maxDiffs: MAXIMUM_FOUND });
  }

  begin(columns: StepColumns): void {
    this.referee?.begin(columns);
  }

  /** To be called before a step: what the referee finds from here on is the step's. */
  beginStep(): void {
    this.foundBefore = this.referee?.differences.length ?? 0;
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
