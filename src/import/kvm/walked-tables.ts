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

const FRAME = 0xf_ffff_ffff_f000n;
const PRESENT = 1n;
const ACCESSED = 0x20n;
const DIRTY = 0x40n;
const LARGE = 0x80n;

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
}

export class WalkedTables {
  private readonly memory: KnownMemory;
  private readonly registers: RegisterFile;
  private readonly receipt: EventReceipt;
  /** Whether CR3 is known. */
  rootKnown: boolean;

  constructor(memory: KnownMemory, registers: RegisterFile, receipt: EventReceipt, rootKnown: boolean) {
    this.memory = memory;
    this.registers = registers;
    this.receipt = receipt;
    this.rootKnown = rootKnown;
  }

  /** `access`: bits of an error code. */
  begin(address: bigint, access: number): Walk {
    const { registers } = this;
    const pae = registers.has(Reg.CR4, CR4_PAE);
    const long = registers.has(Reg.EFER, EFER_LMA);
    const root = registers.get(Reg.CR3);
    return {
      address,
      table: this.rootKnown ? (pae && !long ? root & 0xffff_ffe0n : root & FRAME) : undefined,
      entrySize: pae ? 8 : 4,
      pae: pae && !long,
      entry: 0n,
      level: 0,
      failed: false,
      access,
      error: 0,
      all: -1n,
      any: 0n,
    };
  }

  get paging(): boolean {
    return this.registers.has(Reg.CR0, CR0_PG);
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
    if (walk.pae && level === 3) {
      this.pdpte(walk, pte, step);
    } else if (walk.table === undefined) {
      this.receipt.note('table address unknown');
    } else {
      const bits = walk.entrySize === 4 ? 10n : 9n;
      const index = (walk.address >> (12n + bits * BigInt(level - 1))) & ((1n << bits) - 1n);
      this.compare(walk.table + index * BigInt(walk.entrySize), walk.entrySize, pte, step);
    }
    // Where the root is may be unknown; what the entries name is not.
    walk.table = pte & (walk.entrySize === 4 ? 0xffff_f000n : FRAME);
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

  private compare(address: bigint, size: 4 | 8, pte: bigint, step: Draft): void {
    const known = this.memory.read(address, size);
    if (known === pte) return;
    const setByProcessor = ACCESSED | DIRTY;
    this.receipt.note(
      known === undefined
        ? 'entry first known when read'
        : (known | setByProcessor) !== (pte | setByProcessor)
          ? 'unexplained overwrite'
          : (known & ~pte) === 0n
            ? 'accessed and dirty bits found set'
            : 'accessed and dirty bits found clear',
    );
    this.memory.write(address, size, pte);
    const op =
      StepKind.STORE | (Provenance.INFERRED << PROVENANCE_SHIFT) | (size << STORE_SIZE_SHIFT) | STORE_KNOWLEDGE;
    step.before.push(draft(op, address, pte, step.position));
  }

  /** KVM has set bits of the entry at `address`: memory holds them from now on; the step itself predicts it. */
  bitsSet(address: bigint, dirty: boolean): void {
    const size = this.registers.has(Reg.CR4, CR4_PAE) ? 8 : 4;
    const known = this.memory.read(address, size);
    if (known !== undefined) this.memory.write(address, size, known | ACCESSED | (dirty ? DIRTY : 0n));
  }

  /** The guest-physical page that a walk which went through led to, or `undefined`. */
  result(walk: Walk): bigint | undefined {
    if (walk.failed || walk.level === 0 || (walk.entry & PRESENT) === 0n) return undefined;
    const bits = walk.entrySize === 4 ? 10 : 9;
    const shift = BigInt(12 + bits * (walk.level - 1));
    const offset = (1n << shift) - 1n;
    return (walk.entry & FRAME & ~offset) | (walk.address & offset);
  }

  /** The processor has translated `address` by itself: A along the way, D in the leaf of a write. */
  processorAccess(address: bigint, write: boolean): void {
    const { levels, memory } = this;
    if (levels === 0 || !this.rootKnown) return;
    const walk = this.begin(address, write ? 2 : 0);
    for (let level = levels; level >= 1 && walk.table !== undefined; level--) {
      if (walk.pae && level === 3) {
        walk.table = this.registers.get((Reg.PDPTE0 + Number((address >> 30n) & 3n)) as RegId) & FRAME;
        continue;
      }
      const bits = walk.entrySize === 4 ? 10n : 9n;
      const index = (address >> (12n + bits * BigInt(level - 1))) & ((1n << bits) - 1n);
      const place: bigint = walk.table + index * BigInt(walk.entrySize);
      const entry = memory.read(place, walk.entrySize);
      if (entry === undefined || (entry & PRESENT) === 0n) return;
      const leaf = level === 1 || (entry & LARGE) !== 0n;
      memory.write(place, walk.entrySize, entry | ACCESSED | (leaf && write ? DIRTY : 0n));
      if (leaf) return;
      walk.table = entry & FRAME;
    }
  }
}
