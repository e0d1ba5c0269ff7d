/** What all who make steps of events work with: the importer's knowledge of the VM, and the steps themselves. */

import type { KvmProfile } from '../../formats/decode/kvm-role.ts';
import { KnownMemory } from '../known-memory.ts';
import { RegisterFile } from '../kvm-guest/register-file.ts';
import type { EventReceipt } from './event-receipt.ts';
import { GuestActions } from './guest-actions.ts';
import { Residency } from './residency.ts';
import { StepList } from './step-list.ts';
import { ToldByMarks } from './told-by-marks.ts';
import { UnitProgress } from './unit-progress.ts';
import { WalkedTables } from './walked-tables.ts';

/** KVM as far as it decides how events are read. */
export interface KvmKind {
  /** kvm-intel rather than kvm-amd. */
  readonly intel: boolean;
  readonly tdp: boolean;
  readonly profile: KvmProfile;
}

export class Parts {
  readonly receipt: EventReceipt;
  readonly kvm: KvmKind;
  readonly memory = new KnownMemory();
  readonly registers = new RegisterFile(this.memory);
  readonly tables: WalkedTables;
  readonly residency: Residency;
  readonly steps: StepList;
  readonly actions: GuestActions;
  readonly told = new ToldByMarks();
  /** The unit under way. */
  now = new UnitProgress({ exit: undefined, events: [], entry: undefined, resumedAt: undefined });

  /** `rootKnown`: CR3 is known from the start. */
  constructor(receipt: EventReceipt, kvm: KvmKind, rootKnown: boolean) {
    this.receipt = receipt;
    this.kvm = kvm;
    this.tables = new WalkedTables(this.memory, this.registers, receipt, rootKnown);
    this.residency = new Residency(receipt);
    this.steps = new StepList(receipt, this.registers, this.tables, this.residency, kvm.profile);
    this.actions = new GuestActions(kvm.tdp, (address) => this.tables.physical(address));
  }
}
