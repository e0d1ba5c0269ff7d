/**
 * Of a partial trace of the TDP MMU, which tells every change: which entries of KVM's tables both sides agree on. An entry is known
 * from the first event about it that is equal to the first undetermined step that changes it, and while it is known
 * neither what KVM built before nor its slot or page excuses a difference. The other MMU protects
 * entries without a word, and shadow entries follow the guest's, which change unseen: of those nothing is known so.
 */

import { KvmEvent } from '../formats/kvm-event.ts';
import { OBS_LEVEL_MASK, OBS_LEVEL_SHIFT } from '../formats/observation.ts';
import { usesNestedTdp } from './hidden-nesting.ts';
import type { Row, SidePair } from './result.ts';
import { rowsEvent } from './units.ts';

/** Entries kept; beyond that nothing more becomes known. */
const MAXIMUM_ENTRIES = 1 << 21;
const LEVELS = 8;
const ROLE_LEVEL = 0xf;

/** Guest frame and level of the entry that an event is about; undefined for events about none. */
function entryOf(rows: readonly Row[]): { readonly gfn: number; readonly level: number } | undefined {
  const event = rowsEvent(rows);
  const row = rows[0];
  if (row === undefined) return undefined;
  const frame = row.addressHi * 2 ** 32 + (row.addressLo >>> 0);
  switch (event) {
    case KvmEvent.SET_SPTE:
    case KvmEvent.TDP_SPTE_CHANGED:
    case KvmEvent.SPTE_REQUESTED:
    case KvmEvent.SPLIT_HUGE_PAGE:
      return { gfn: frame, level: (row.op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK };
    case KvmEvent.FAST_PAGE_FAULT:
      return { gfn: Math.floor(frame / 4096), level: 1 };
    default:
      return undefined;
  }
}

/** Frames of the table that an event is about, for events about tables. */
function tableOf(rows: readonly Row[]): { readonly first: number; readonly end: number } | undefined {
  const event = rowsEvent(rows);
  const row = rows[0];
  if (row === undefined || (event !== KvmEvent.GET_PAGE && event !== KvmEvent.PREPARE_ZAP_PAGE)) return undefined;
  const first = row.addressHi * 2 ** 32 + (row.addressLo >>> 0);
  return { first, end: first + 2 ** (9 * (row.valueLo & ROLE_LEVEL)) };
}

export class KnownEntries {
  private readonly known = new Set<number>();
  private readonly registers: Uint32Array;

  /** `registers`: the machine's, as they are at the moment. */
  constructor(registers: Uint32Array) {
    this.registers = registers;
  }

  /** The event may be about an entry that shadows one of L1's for its guest, and not about the TDP MMU's. */
  private mayBeShadow(event: number): boolean {
    return event !== KvmEvent.TDP_SPTE_CHANGED && usesNestedTdp(this.registers);
  }

  /** An event that changes or sets an entry was equal. */
  learn(event: number, op: number, addressLo: number, addressHi: number): void {
    if (event !== KvmEvent.TDP_SPTE_CHANGED && event !== KvmEvent.SET_SPTE) return;
    if (this.known.size >= MAXIMUM_ENTRIES || this.mayBeShadow(event)) return;
    const frame = (addressHi >>> 0) * 2 ** 32 + (addressLo >>> 0);
    this.known.add(frame * LEVELS + ((op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK));
  }

  /** Whether a pair is about an entry that both sides agreed on. */
  has({ recorded, replayed }: SidePair): boolean {
    const rows = recorded.length > 0 ? recorded : replayed;
    const entry = this.mayBeShadow(rowsEvent(rows)) ? undefined : entryOf(rows);
    return entry !== undefined && this.known.has(entry.gfn * LEVELS + entry.level);
  }

  /** An undetermined step: what it changed on one side only is open from here on. */
  forget(pairs: readonly SidePair[]): void {
    for (const { state, recorded, replayed } of pairs) {
      if (state === 'equal' || state === 'host') continue;
      for (const rows of [recorded, replayed]) {
        const entry = entryOf(rows);
        if (entry !== undefined) this.forgetRange(entry.gfn, entry.gfn + 2 ** (9 * (entry.level - 1)), entry.level);
        const table = tableOf(rows);
        if (table !== undefined) this.forgetRange(table.first, table.end, LEVELS);
      }
    }
  }

  /** Entries up to `level` for frames from `first` to before `end`. */
  private forgetRange(first: number, end: number, level: number): void {
    if (end - first === 1) {
      this.known.delete(first * LEVELS + 1);
      return;
    }
    for (const key of this.known) {
      const frame = Math.floor(key / LEVELS);
      if (frame >= first && frame < end && key % LEVELS <= level) this.known.delete(key);
    }
  }
}
