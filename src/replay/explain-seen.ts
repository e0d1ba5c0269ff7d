/** What is seen of a step: actions that no row tells, whose walk wrote which row, addresses of faults, SPTEs before the step. */

import { hexText } from '../bits/word64.ts';
import { decodeRole } from '../formats/decode/kvm-role.ts';
import { decodeSpte } from '../formats/decode/kvm-spte.ts';
import type { KvmMachine } from '../machine/kvm/machine.ts';
import type { Mmu } from '../mmu/mmu.ts';
import type { KvmPageWalk } from '../paging/kvm-page-walk.ts';
import { nameOfMmu } from './explain-names.ts';
import type { ContextName, ExplainedAction } from './explanation.ts';

/** A word that an action is about, so that two actions can be told apart by its fields. */
export interface SeenWord {
  readonly format: 'role' | 'spte' | 'extended-role' | 'plain';
  readonly lo: number;
  readonly hi: number;
  /** Of an SPTE. */
  readonly level: number;
}

/** Something that was done. */
export interface Seen {
  readonly context: ContextName;
  readonly kind: ExplainedAction['kind'];
  /** A verb phrase without its words: `drops the linear mappings of vpid01`. */
  readonly does: string;
  readonly word: SeenWord | undefined;
  /** Of a change of an SPTE: the table that it stands in. */
  readonly table: { readonly gfn: number; readonly role: number } | undefined;
  /** Rows that the machine's log had by then. */
  readonly row: number;
}

/** A row that a software walk wrote: which walk. */
export interface WalkRow {
  readonly row: number;
  readonly walk: KvmPageWalk;
  readonly context: ContextName;
  /** Where a walk begins (PAGETABLE_WALK): what it was to go by. */
  readonly begun: WalkBegun | undefined;
  /** Where it failed (WALKER_ERROR): EPT qualification as it stands then. */
  readonly qualification: number;
}

export interface WalkBegun {
  readonly ac: boolean;
  readonly rootLevel: number;
  readonly hasSecond: boolean;
  readonly registers: Uint32Array;
}

/** Whoever watches a part of the machine notes here, in order. */
export class Notes {
  readonly machine: KvmMachine;
  readonly seen: Seen[] = [];
  readonly walkRows: WalkRow[] = [];
  /** Addresses of faults that were handled, by MMU. */
  readonly addresses: { readonly mmu: Mmu; readonly lo: number; readonly hi: number }[] = [];
  /** SPTEs that were changed, with what they were before: halves by sptep. */
  readonly before = new Map<number, readonly [lo: number, hi: number]>();
  /** A step is being applied that is watched. */
  isOn = false;
  /** Keep what walks go by; off while only sequences are compared. */
  isDetailed = false;
  /** Calls inside of which nothing is noted: their outcome is. */
  private quiet = 0;

  constructor(machine: KvmMachine) {
    this.machine = machine;
  }

  /** A new step. */
  begin(): void {
    this.seen.length = 0;
    this.walkRows.length = 0;
    this.addresses.length = 0;
    this.before.clear();
    this.quiet = 0;
    this.isOn = true;
  }

  /** What is noted now is kept. */
  get isHeard(): boolean {
    return this.isOn && this.quiet === 0;
  }

  /** The MMU in force. */
  get mmuName(): ContextName {
    return nameOfMmu(this.machine.vcpu, this.machine.vcpu.mmu);
  }

  note(context: ContextName, kind: Seen['kind'], does: string, word?: SeenWord, table?: Seen['table']): void {
    if (!this.isHeard) return;
    this.seen.push({ context, kind, does, word, table, row: this.machine.log.count });
  }

  quietly<T>(call: () => T): T {
    this.quiet++;
    try {
      return call();
    } finally {
      this.quiet--;
    }
  }
}

export function roleWord(role: number): SeenWord {
  return { format: 'role', lo: role >>> 0, hi: 0, level: 0 };
}

export function plainWord(lo: number, hi: number): SeenWord {
  return { format: 'plain', lo: lo >>> 0, hi: hi >>> 0, level: 0 };
}

/** The word of an action in words. */
export function seenWordText(word: SeenWord, { profile, vendor, tdp }: KvmMachine['config']): string {
  const { lo, hi, level } = word;
  switch (word.format) {
    case 'role':
      return decodeRole({ lo, hi: 0 }, profile).short;
    case 'spte':
      return decodeSpte({ lo, hi }, { profile, ept: vendor === 'intel' && tdp, level }).short;
    default:
      return hexText(lo, hi);
  }
}
