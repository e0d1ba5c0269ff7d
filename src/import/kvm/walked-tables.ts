/**
 * The tables that KVM's own walks read: where each entry is, whether it holds what memory is known to hold, and the
 * accessed and dirty bits that KVM sets. An entry that differs is stated as knowledge ahead of the step that read it.
 */

import { CR0_PG, CR4_LA57, CR4_PAE, EFER_LMA, Reg, type RegId } from '../../formats/registers.ts';
import { PROVENANCE_SHIFT, Provenance, STORE_KNOWLEDGE, STORE_SIZE_SHIFT, StepKind } from '../../formats/step.ts';
import type { KnownMemory } from '../known-memory.ts';
import type { RegisterFile } from '../kvm-guest/register-file.ts';
import { type Draft, draft, registerDraft } from './draft.ts';
import type { EventReceipt } from './event-receipt.ts';
import {
  entryPlace,
  isLeaf,
  leafAddress,
  pagingOn,
  secondStageOf,
  type TableFormat,
  tableBelow,
  translate,
} from './second-stage.ts';
import { WalkShape } from './walk-shape.ts';

const FRAME = 0xf_ffff_ffff_f000n;
const PAGE_OFFSET = 0xfffn;
const PRESENT = 1n;
const ACCESSED = 0x20n;
const DIRTY = 0x40n;

/** Where an entry is, and which of its bits say accessed and dirty. */
interface Place {
  readonly address: bigint;
  readonly size: 4 | 8;
  readonly accessed: bigint;
  readonly dirty: bigint;
}

export interface Walk {
  readonly address: bigint;
  /** Table that the next entry is in; `undefined`: not known. */
  table: bigint | undefined;
  entrySize: 4 | 8;
  /** PDPTE registers are used for level 3. */
  pae: boolean;
  /** The last entry, and its level. */
  entry: bigint;
  level: number;
  failed: boolean;
  /** Error code's bits of what was asked for; of how it failed, 0 if it did not. */
  readonly access: number;
  error: number;
  /** All entries ANDed, and ORed. */
  all: bigint;
  any: bigint;
  /** The tables are of this format, the second stage's; `undefined`: the guest's own. */
  readonly second: TableFormat | undefined;
  /** The second stage translates for this walk: how, and what it makes of what was asked last. */
  readonly shape: WalkShape | undefined;
  inner: Walk | undefined;
  /** Entries read, by the addresses that KVM prints for them: those of the guest whose tables they are. */
  readonly places: Map<bigint, Place>;
}

export class WalkedTables {
  private readonly memory: KnownMemory;
  private readonly registers: RegisterFile;
  private readonly receipt: EventReceipt;
  /** Whether CR3 is known. */
  rootKnown: boolean;
  /** The guest announces what it stores into tables. */
  announced = true;
  /** The entry that KVM has set bits of last, and what it held. */
  private lastSet: { readonly place: Place; readonly before: bigint } | undefined;

  constructor(memory: KnownMemory, registers: RegisterFile, receipt: EventReceipt, rootKnown: boolean) {
    this.memory = memory;
    this.registers = registers;
    this.receipt = receipt;
    this.rootKnown = rootKnown;
  }

  /** A walk of a linear address. `access`: bits of an error code. */
  begin(address: bigint, access: number): Walk {
    const { registers } = this;
    const pae = registers.has(Reg.CR4, CR4_PAE);
    const long = registers.has(Reg.EFER, EFER_LMA);
    const root = registers.get(Reg.CR3);
    const second = secondStageOf(registers);
    // Without paging the linear address is what the second stage is asked for.
    if (second !== undefined && !pagingOn(registers)) return this.beginSecondStage(address, access, second);
    return {
      ...newWalk(address, access, pae ? 8 : 4),
      // Under a second stage the frame is known once that has translated it.
      table: !this.rootKnown || second !== undefined ? undefined : pae && !long ? root & 0xffff_ffe0n : root & FRAME,
      pae: pae && !long,
      shape: this.shapeOf(address),
    };
  }

  /** Of a walk that begins now: which further walks will be its own. */
  shapeOf(address: bigint): WalkShape | undefined {
    const { registers } = this;
    const second = secondStageOf(registers);
    if (second === undefined || !pagingOn(registers)) return undefined;
    const pae = registers.has(Reg.CR4, CR4_PAE);
    const long = registers.has(Reg.EFER, EFER_LMA);
    return new WalkShape(address, pae && !long ? undefined : registers.get(Reg.CR3), pae ? 8 : 4, second);
  }

  /** A walk of the second stage's tables by themselves, or `undefined` if there is no second stage. */
  beginSecond(address: bigint, access: number): Walk | undefined {
    const second = secondStageOf(this.registers);
    return second === undefined ? undefined : this.beginSecondStage(address, access, second);
  }

  private beginSecondStage(address: bigint, access: number, second: TableFormat): Walk {
    return { ...newWalk(address, access, second.entrySize), table: second.root, second };
  }

  /** Whether the walk that begins is a part of `walk`. */
  beginInner(walk: Walk, address: bigint, access: number): boolean {
    if (walk.shape?.takesWalk(address) !== true) return false;
    const second = secondStageOf(this.registers);
    walk.inner = second && this.beginSecondStage(address, access, second);
    return true;
  }

  get paging(): boolean {
    return this.registers.has(Reg.CR0, CR0_PG);
  }

  /** L1's tables under the guest that runs, or `undefined` if there are none. */
  get secondStage(): TableFormat | undefined {
    return secondStageOf(this.registers);
  }

  get twoStages(): boolean {
    return this.secondStage !== undefined;
  }

  /** Levels of the guest's paging, 0 without paging. */
  get levels(): number {
    const { registers } = this;
    if (!this.paging) return 0;
    if (!registers.has(Reg.EFER, EFER_LMA)) return registers.has(Reg.CR4, CR4_PAE) ? 3 : 2;
    return registers.has(Reg.CR4, CR4_LA57) ? 5 : 4;
  }

  /** An entry that the walk read; what it teaches goes ahead of `step`. */
  element(walk: Walk, level: number, pte: bigint, step: Draft): void {
    this.lastSet = undefined;
    if (walk.shape?.isInner(level, pte) === true) {
      if (walk.inner !== undefined) this.ownElement(walk.inner, level, pte, step, walk.places);
      return;
    }
    // KVM prints where the entry is for the guest, and memory has it where the second stage says.
    const shown = walk.inner?.address;
    if (shown !== undefined) walk.table = this.result(walk.inner!);
    this.ownElement(walk, level, pte, step, walk.places, shown);
  }

  private ownElement(
    walk: Walk,
    level: number,
    pte: bigint,
    step: Draft,
    places: Map<bigint, Place>,
    shownTable = walk.table,
  ): void {
    if (walk.pae && level === 3) {
      this.pdpte(walk, pte, step);
    } else if (walk.table === undefined || shownTable === undefined) {
      this.receipt.note('table address unknown');
    } else {
      const size = walk.entrySize;
      const place: Place = {
        address: entryPlace(walk.table, walk.address, level, size),
        size,
        accessed: walk.second?.accessed ?? ACCESSED,
        dirty: walk.second?.dirty ?? DIRTY,
      };
      places.set(entryPlace(shownTable, walk.address, level, size), place);
      this.compare(place, pte, step);
    }
    // Where the root is may be unknown; what the entries name is not.
    walk.table = tableBelow(pte, walk.entrySize);
    walk.entry = pte;
    if (!walk.pae || level < 3) {
      walk.all &= pte;
      walk.any |= pte;
    }
    walk.level = level;
  }

  private pdpte(walk: Walk, pte: bigint, step: Draft): void {
    const register = (Reg.PDPTE0 + Number((walk.address >> 30n) & 3n)) as RegId;
    if (this.registers.get(register) === pte) return;
    this.receipt.note('PDPTE register learned');
    this.registers.set(register, pte);
    step.before.push(registerDraft(StepKind.REGISTER_SET, register, pte, Provenance.INFERRED, step.position));
  }

  private compare({ address, size, accessed, dirty }: Place, pte: bigint, step: Draft): void {
    const known = this.memory.read(address, size);
    if (known === pte) return;
    const setByProcessor = accessed | dirty;
    this.receipt.note(
      known === undefined
        ? 'entry first known when read'
        : (known | setByProcessor) !== (pte | setByProcessor)
          ? this.announced
            ? 'unexplained overwrite'
            : 'store not announced'
          : (known & ~pte) === 0n
            ? 'accessed and dirty bits found set'
            : 'accessed and dirty bits found clear',
    );
    this.memory.write(address, size, pte);
    step.before.push(knowledge(address, size, pte, step.position));
  }

  /** KVM has set bits of the entry at `shown`: memory holds them from now on; the step itself predicts it. */
  bitsSet(walk: Walk | undefined, shown: bigint, dirtied: boolean): void {
    const size = this.registers.has(Reg.CR4, CR4_PAE) ? 8 : 4;
    const place = walk?.places.get(shown) ?? { address: shown, size, accessed: ACCESSED, dirty: DIRTY };
    const known = this.memory.read(place.address, place.size);
    if (known === undefined) return;
    if (this.lastSet?.place.address !== place.address) this.lastSet = { place, before: known };
    this.memory.write(place.address, place.size, known | place.accessed | (dirtied ? place.dirty : 0n));
  }

  /**
   * KVM printed that it sets bits of an entry, and then could not: L1's page-modification log is full. What the entry
   * goes on holding, as a step at `position`, if one is known.
   */
  lastSetRefused(position: number): Draft | undefined {
    const { lastSet } = this;
    this.lastSet = undefined;
    if (lastSet === undefined) return undefined;
    const { address, size } = lastSet.place;
    this.memory.write(address, size, lastSet.before);
    return knowledge(address, size, lastSet.before, position);
  }

  /** The guest-physical page (L1's) that a walk which went through led to, or `undefined`. */
  result(walk: Walk): bigint | undefined {
    if (walk.failed || walk.level === 0 || (walk.entry & (walk.second?.present ?? PRESENT)) === 0n) return undefined;
    const result = leafAddress(walk.entry, walk.level, walk.entrySize, walk.address);
    if (walk.shape === undefined) return result;
    if (walk.inner === undefined || walk.inner.address !== (result & FRAME)) return undefined;
    const page = this.result(walk.inner);
    return page === undefined ? undefined : page | (result & PAGE_OFFSET);
  }

  /** What L1 has under an address that is physical to the guest that runs; `undefined` if nothing. */
  physical(address: bigint): bigint | undefined {
    const second = secondStageOf(this.registers);
    return second === undefined ? address : translate(this.memory, second, address);
  }

  /** Where a linear address leads to, by what memory is known to hold; `undefined`: nowhere, or not known. */
  linearResult(address: bigint): bigint | undefined {
    const walk = this.begin(address, 0);
    const { levels, registers } = this;
    if (levels === 0) return this.physical(address);
    if (walk.pae || !this.rootKnown) return undefined;
    let table = registers.get(Reg.CR3) & FRAME;
    for (let level = levels; level >= 1; level--) {
      const place = this.physical(entryPlace(table, address, level, walk.entrySize));
      const entry = place === undefined ? undefined : this.memory.read(place, walk.entrySize);
      if (entry === undefined || (entry & PRESENT) === 0n) return undefined;
      if (isLeaf(entry, level)) return this.physical(leafAddress(entry, level, walk.entrySize, address));
      table = tableBelow(entry, walk.entrySize);
    }
    return undefined;
  }

  /** The processor has translated `address` by itself: A along the way, D in the leaf of a write. */
  processorAccess(address: bigint, write: boolean): void {
    const { levels, memory } = this;
    if (levels === 0 || !this.rootKnown) return;
    const walk = this.begin(address, write ? 2 : 0);
    const { entrySize } = walk;
    const root = this.registers.get(Reg.CR3);
    let table = walk.pae ? root & 0xffff_ffe0n : root & FRAME;
    for (let level = levels; level >= 1; level--) {
      if (walk.pae && level === 3) {
        table = this.registers.get((Reg.PDPTE0 + Number((address >> 30n) & 3n)) as RegId) & FRAME;
        continue;
      }
      const place = this.physical(entryPlace(table, address, level, entrySize));
      if (place === undefined) return;
      const entry = memory.read(place, entrySize);
      if (entry === undefined || (entry & PRESENT) === 0n) return;
      const leaf = isLeaf(entry, level);
      memory.write(place, entrySize, entry | ACCESSED | (leaf && write ? DIRTY : 0n));
      if (leaf) return;
      table = entry & FRAME;
    }
  }
}

function knowledge(address: bigint, size: 4 | 8, entry: bigint, position: number): Draft {
  const op = StepKind.STORE | (Provenance.INFERRED << PROVENANCE_SHIFT) | (size << STORE_SIZE_SHIFT) | STORE_KNOWLEDGE;
  return draft(op, address, entry, position);
}

function newWalk(address: bigint, access: number, entrySize: 4 | 8): Walk {
  return {
    address,
    table: undefined,
    entrySize,
    pae: false,
    entry: 0n,
    level: 0,
    failed: false,
    access,
    error: 0,
    all: -1n,
    any: 0n,
    second: undefined,
    shape: undefined,
    inner: undefined,
    places: new Map(),
  };
}
