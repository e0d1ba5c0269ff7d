/** Which accessed and dirty flags an access of a guest on KVM may have set, or left unset, by what it may have cached. */

import { KvmEvent, kvmEventOf } from '../formats/kvm-event.ts';
import {
  Dim,
  OBS_KIND_MASK,
  OBS_NESTED_ACCESS_MASK,
  OBS_NESTED_ACCESS_SHIFT,
  Obs,
  observationDim,
  observationLevel,
} from '../formats/observation.ts';
import { ACCESS_SOFTWARE, ACCESS_TYPE_MASK, ACCESS_TYPE_SHIFT, AccessType } from '../formats/step.ts';
import { OF_TABLE } from '../paging/access.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_LO, type RowLog } from '../paging/row-log.ts';
import { GuestOutcome } from './guest-outcome.ts';
import type { GuestTwin, SeenAccess } from './guest-twin.ts';

const ENTRY_PS = 1 << 7;
/** In the guest's entries and in those of NPT. */
const X86_D = 1 << 6;
const EPT_D = 1 << 9;
const WRITES: ReadonlySet<number> = new Set([AccessType.WRITE, AccessType.RMW]);

/** Accessed and dirty bits of an entry, at a physical address, that one machine has and the other has not. */
export interface FlagBits {
  readonly addressLo: number;
  readonly addressHi: number;
  readonly bits: number;
}

export class EntryFlags {
  private readonly twin: GuestTwin;
  private readonly outcome = new GuestOutcome();

  constructor(twin: GuestTwin) {
    this.twin = twin;
  }

  /**
   * Whether the access may have ended like that, as it did on the bare machine, and yet not have set `bits` in the entry
   * at an address: by a translation that was made when the entry had them, or when other tables were in use.
   */
  avoids(access: SeenAccess, entry: FlagBits): boolean {
    const { twin, outcome } = this;
    const { op, lo, hi, seen } = access;
    if ((op & ACCESS_SOFTWARE) !== 0) return false;
    return twin.asBefore(() => {
      twin.set(twin.view(access));
      const avoided = (): boolean => {
        outcome.ofLog(twin.machine.log);
        return outcome.equals(seen) && !this.sets(op, entry);
      };
      return twin.lawful.judge(op, lo, hi, avoided).kind === 'allowed';
    });
  }

  /**
   * Whether, with the tables as they stand or with what may be cached of them, the access may set `bits` in the entry; or
   * KVM's emulator may, where it makes the access: it reads what it is going to change before it writes (facts/kvm-mmu.md
   * §6.6, §6.7).
   */
  maySet(access: SeenAccess, entry: FlagBits): boolean {
    const { twin } = this;
    const { op, lo, hi } = access;
    return twin.asBefore(() => {
      const view = twin.view(access);
      twin.set(view);
      if (twin.isPossible(access, () => this.sets(op, entry))) return true;
      if (!view.reachesDevice()) return false;
      twin.set(view);
      const reads = (op & ~(ACCESS_TYPE_MASK << ACCESS_TYPE_SHIFT)) | (AccessType.READ << ACCESS_TYPE_SHIFT);
      twin.machine.probe(reads | ACCESS_SOFTWARE, lo, hi);
      return this.sets(reads, entry);
    });
  }

  /**
   * Calls `each` with the physical addresses at which KVM's walker may have set A or D by its `log` of the access: events
   * tell where an entry of EPT and NPT is for L1, and where one of L2's tables is for L2 (facts/kvm-mmu.md §5.2), without
   * saying which it is.
   */
  forEachSetByKvm(access: SeenAccess, log: RowLog, each: (addressLo: number, addressHi: number) => void): void {
    const { twin } = this;
    let ready = false;
    for (let i = 0; i < log.count; i++) {
      const row = log.op(i);
      if ((row & OBS_KIND_MASK) !== Obs.KVM_EVENT) continue;
      const event = kvmEventOf(row);
      if (event !== KvmEvent.SET_ACCESSED_BIT && event !== KvmEvent.SET_DIRTY_BIT) continue;
      const [lo, hi] = [log.rows[i * ROW + ROW_ADDRESS_LO]!, log.rows[i * ROW + ROW_ADDRESS_HI]!];
      each(lo, hi);
      if (!ready) {
        twin.noteTables();
        twin.set(twin.view(access));
        ready = true;
      }
      const address = twin.physicalOf(lo, hi);
      if (address !== undefined) each(address.lo, address.hi);
    }
  }

  /**
   * Whether the twin's last walk, for an access with word `op`, would have set the bits: dirty ones only in the entry that
   * maps what is written, in EPT and NPT on the way to it; in the guest's entries none if it ended in #PF.
   */
  private sets(op: number, { addressLo, addressHi, bits }: FlagBits): boolean {
    const { machine } = this.twin;
    const { rows, count } = machine.log;
    const pageFault = machine.failedWalk() === machine.cpuWalk;
    const writes = WRITES.has((op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK);
    let set = bits;
    for (let at = 0; at < count * ROW; at += ROW) {
      const row = rows[at]!;
      const kind = row & OBS_KIND_MASK;
      if (kind === Obs.NESTED_WALK) set = writesTo(row) ? bits : bits & ~dirtyOf(row);
      if (kind !== Obs.ELEMENT) continue;
      if (rows[at + ROW_ADDRESS_LO] !== addressLo || rows[at + ROW_ADDRESS_HI] !== addressHi) continue;
      const value = rows[at + ROW_VALUE_LO]!;
      const leaf = observationLevel(row) === 1 || (value & ENTRY_PS) !== 0;
      const ofGuest = observationDim(row) === Dim.GUEST;
      if (ofGuest && pageFault) continue;
      const wanted = !ofGuest ? set : writes && leaf ? bits : bits & ~X86_D;
      if ((value & wanted) !== wanted) return true;
    }
    return false;
  }
}

/** The dirty bit of the format that a walk's row belongs to. */
function dirtyOf(row: number): number {
  return observationDim(row) === Dim.EPT ? EPT_D : X86_D;
}

/** Whether a second-stage walk is one for writing, as those of page tables are (APM vol. 2 15.25.5, SDM vol. 3C 29.3.5). */
function writesTo(row: number): boolean {
  const type = (row >>> OBS_NESTED_ACCESS_SHIFT) & OBS_NESTED_ACCESS_MASK;
  return (row & OF_TABLE) !== 0 || type === AccessType.WRITE || type === AccessType.RMW;
}
