/** Memory slots as the importer keeps them, and as stimuli. */

import { fromBigInt } from '../../bits/word64.ts';
import type { Memslot } from '../../trace/stimulus.ts';
import type { Dump } from '../kvm-guest/dump.ts';

/** KVM_MEM_LOG_DIRTY_PAGES and KVM_MEM_READONLY. */
const LOG_DIRTY = 1n;
const READ_ONLY = 2n;

export interface BackedSlot {
  readonly slot: number;
  readonly gpa: bigint;
  readonly size: bigint;
  readonly readOnly: boolean;
  readonly dirtyLog: boolean;
  /** Host-virtual address of the first byte. */
  readonly hva: bigint;
}

/** What a slot's flags say. */
export function slotFlags(flags: bigint): { readonly readOnly: boolean; readonly dirtyLog: boolean } {
  return { readOnly: (flags & READ_ONLY) !== 0n, dirtyLog: (flags & LOG_DIRTY) !== 0n };
}

/** The slots of a dump. */
export function slotsOf(dump: Dump): BackedSlot[] {
  return dump.slots.map(({ slot, gpa, size, flags, hva }) => ({ slot, gpa, size, hva, ...slotFlags(flags) }));
}

export function memslot(what: Memslot['what'], slot: BackedSlot): Memslot {
  const gone = what === 'delete';
  return {
    kind: 'memslot',
    what,
    slot: slot.slot,
    addressSpace: 0,
    address: fromBigInt(gone ? 0n : slot.gpa),
    size: fromBigInt(gone ? 0n : slot.size),
    readOnly: slot.readOnly,
    dirtyLog: slot.dirtyLog,
    userspace: fromBigInt(slot.hva),
  };
}
