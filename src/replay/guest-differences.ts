/** What a guest on KVM saw differently and nothing explains: all of it counted by group, the first ones kept in full. */

import type { KvmConfig } from '../formats/kvm-config.ts';
import type { Machine } from '../machine/machine.ts';
import type { StepColumns } from '../trace/columns.ts';
import { logRows } from './align.ts';
import type { GuestComparison, GuestDifference } from './result.ts';

/** Groups kept; further shapes are counted together. */
const MAXIMUM_GROUPS = 1000;

/** The step that differs. */
export interface DifferingStep {
  readonly ordinal: number;
  readonly op: number;
  /** Its address. */
  readonly lo: number;
  readonly hi: number;
  /** The run of steps that it is in. */
  readonly columns: StepColumns | null;
}

export class GuestDifferences {
  private readonly bare: Machine;
  private readonly guest: Machine;
  private readonly config: KvmConfig;
  private readonly byGroup = new Map<string, { count: number; first: number }>();
  /** Kept in full. */
  readonly kept: GuestDifference[] = [];
  /** How many to keep. */
  maximum = 10;
  count = 0;

  constructor(bare: Machine, guest: Machine, config: KvmConfig) {
    this.bare = bare;
    this.guest = guest;
    this.config = config;
  }

  /** `cause`: one sentence; `group`: equal for differences of the like. */
  add({ ordinal, op, lo, hi, columns }: DifferingStep, cause: string, group: string): void {
    const { bare, guest, config, byGroup } = this;
    this.count++;
    const key = byGroup.has(group) || byGroup.size < MAXIMUM_GROUPS ? group : 'others';
    const found = byGroup.get(key);
    if (found === undefined) byGroup.set(key, { count: 1, first: ordinal });
    else found.count++;
    if (this.kept.length >= this.maximum) return;
    const index = ordinal - (columns?.firstOrdinal ?? 0);
    this.kept.push({
      step: ordinal,
      line: columns?.lineOf(index),
      op,
      addressLo: lo >>> 0,
      addressHi: hi >>> 0,
      operandLo: columns?.operand[2 * index] ?? 0,
      operandHi: columns?.operand[2 * index + 1] ?? 0,
      bare: logRows(bare.log),
      kvm: logRows(guest.log),
      config,
      cause,
      group,
      registers: bare.registers.slice(),
    });
  }

  /** Most frequent first. */
  groups(): GuestComparison['groups'] {
    return [...this.byGroup].map(([group, counts]) => ({ group, ...counts })).sort((a, b) => b.count - a.count);
  }
}
