/**
 * Guests that announce neither stores nor register writes (`d_two`): what memory and registers hold is concluded from
 * what marks tell afterwards, from dumps, and from what is read; all of it inferred, and counted. The entries above a
 * leaf come from the next dump, since tables of these guests only grow.
 */

import { CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, EFER_LME, Reg, type RegId } from '../../formats/registers.ts';
import { PROVENANCE_SHIFT, Provenance, STORE_KNOWLEDGE, STORE_SIZE_SHIFT, StepKind } from '../../formats/step.ts';
import type { Dump } from '../kvm-guest/dump.ts';
import { type Mark, type MarkOf, parseMark } from '../kvm-guest/marks.ts';
import { agrees, dumpedEntry } from '../kvm-guest/unannounced.ts';
import { draft } from './draft.ts';
import type { Unit } from './exit-units.ts';
import { svmControlRegister } from './guest-actions.ts';
import type { Parts } from './parts.ts';
import { entryPlace, isLeaf, nestedTables, type TableFormat, tableBelow } from './second-stage.ts';
import type { DumpedVmcbNesting } from './svm-dumped.ts';

const FRAME = 0xf_ffff_ffff_f000n;
const PRESENT = 1n;
const ACCESSED = 0x20n;
/** Accessed and dirty. */
const SET_BY_PROCESSOR = 0x60n;
const EFER_MSR = 0xc000_0080;
/** CR3 bits 3 and 4: how the root table is cached. */
const CACHE_BITS = 0x18n;

/** Where what a guest calls physical lies in memory; `undefined`: nowhere that is known. */
type Place = (address: bigint) => bigint | undefined;

export class Unannounced {
  private readonly parts: Parts;
  private readonly dumps: readonly [string, Dump][];
  private readonly nesting: DumpedVmcbNesting | undefined;
  /** Entries that marks told since the last access. */
  private readonly told = new Set<bigint>();
  private dumpsWritten = 0;
  /** Guest-physical address of the last exit that L1 spoke of. */
  private exited = 0n;
  /** Where the entry is that the access under test goes through, 0: not told; and what it held before. */
  private leaf = 0n;
  private leafBefore = 0n;

  /** `dumps`: in the order in which they were written. `nesting`: of a guest that is a hypervisor. */
  constructor(parts: Parts, dumps: ReadonlyMap<string, Dump>, nesting: DumpedVmcbNesting | undefined) {
    this.parts = parts;
    this.dumps = [...dumps];
    this.nesting = nesting;
  }

  private get nextDump(): Dump | undefined {
    return this.dumps[this.dumpsWritten]?.[1];
  }

  // Registers.

  /** Ahead of an exit: register writes of which a mark behind it tells. */
  async lookAhead(unit: Unit, next: AsyncIterable<Unit>): Promise<void> {
    await this.rootShown(unit, next);
    const register = svmControlRegister(unit.exit?.reason ?? '');
    if (register === undefined) return;
    const { actions, registers, steps, told } = this.parts;
    const value = await this.toldLater(register, next);
    if (value === undefined) return;
    if (register === Reg.CR0 && (value & BigInt(CR0_PG)) !== 0n && told.bootRoot !== undefined) {
      if (registers.get(Reg.CR3) === 0n)
        steps.setRegister(Reg.CR3, told.bootRoot, Provenance.INFERRED, unit.exit!.position);
      told.bootRoot = undefined;
    }
    actions.announce({ kind: 'register', register, value, provenance: Provenance.INFERRED });
  }

  /** CR3 is written without an exit. A walk from the root that a mark tells next shows that it has been by now. */
  private async rootShown(unit: Unit, next: AsyncIterable<Unit>): Promise<void> {
    const { memory, registers, tables } = this.parts;
    const first = unit.events.find((event) => event.name === 'kvm_mmu_paging_element');
    const walk = unit.events.find((event) => event.name === 'kvm_mmu_pagetable_walk');
    if (first === undefined || walk === undefined || tables.twoStages || first.level < 4) return;
    const isRootOf = (root: bigint): boolean => {
      const known = memory.read(entryPlace(root & FRAME, walk.addr, first.level, 8), 8);
      return known !== undefined && agrees(known & ~ACCESSED, first.pte & ~ACCESSED, 0n);
    };
    if (isRootOf(registers.get(Reg.CR3))) return;
    for await (const { events } of next) {
      for (const event of events) {
        if (event.name !== 'mark') continue;
        const mark = parseMark(event.text, event.position);
        if (mark.kind !== 'root' && mark.kind !== 'cr3Switch' && mark.kind !== 'configuration') continue;
        if (isRootOf(mark.cr3)) this.written(Reg.CR3, mark.cr3, unit.exit?.position ?? 0);
        return;
      }
    }
  }

  private async toldLater(register: RegId, next: AsyncIterable<Unit>): Promise<bigint | undefined> {
    let longMode = false;
    for await (const { exit, events } of next) {
      if (svmControlRegister(exit?.reason ?? '') === register) {
        // Written once more before anybody tells; long mode is not to be had without PAE (SDM vol. 3A 4.1.2).
        const old = this.parts.registers.get(register);
        return longMode && register === Reg.CR4 ? old | BigInt(CR4_PAE) : undefined;
      }
      for (const event of events) {
        if (event.name === 'kvm_msr' && event.write && event.msr === EFER_MSR) {
          longMode = (event.value & BigInt(EFER_LME)) !== 0n;
        }
        if (event.name !== 'mark') continue;
        const value = this.valueIn(register, parseMark(event.text, event.position));
        if (value !== undefined) return value;
      }
    }
    return undefined;
  }

  /** What a mark says that CR0 or CR4 holds. */
  private valueIn(register: RegId, mark: Mark): bigint | undefined {
    const old = this.parts.registers.get(register);
    const bit = (mask: number, on: boolean): bigint => (on ? old | BigInt(mask) : old & ~BigInt(mask));
    switch (mark.kind) {
      case 'configuration':
      case 'l1Svm':
        return register === Reg.CR0 ? mark.cr0 : mark.cr4;
      case 'writeProtect':
        return register === Reg.CR0 ? bit(CR0_WP, mark.wp !== 0) : undefined;
      case 'globalOn':
      case 'globalOff':
        return register === Reg.CR4 ? bit(CR4_PGE, mark.kind === 'globalOn') : undefined;
      case 'keysOn':
        return register === Reg.CR4 ? mark.cr4 : undefined;
      case 'dump':
        return this.dumps.find(([name]) => name === mark.file)?.[1].registers.get(register === Reg.CR0 ? 'cr0' : 'cr4');
      default:
        return undefined;
    }
  }

  /** Of a register that is written without an exit, a mark tells afterwards. */
  private written(register: RegId, value: bigint, position: number): void {
    const { receipt, steps } = this.parts;
    receipt.note('register write not announced');
    steps.writeRegister(register, value, position, Provenance.INFERRED);
    steps.forgetStep();
  }

  // Marks.

  /**
   * The result of an access has been told: the entry, read once more. A replay that has it in its TLB, since no
   * INVLPG is announced, sets no bits of its own.
   */
  accessOver(entry: bigint, position: number): void {
    this.told.clear();
    if (this.leaf !== 0n && entry !== this.leafBefore) {
      this.receipt(this.leaf, entry);
      this.know(this.leaf, entry, Provenance.MARK, position);
    }
    this.leaf = 0n;
  }

  mark(mark: Mark, position: number): void {
    const { registers } = this.parts;
    switch (mark.kind) {
      case 'access':
        this.access(mark, position);
        return;
      case 'translateBegin':
        this.learn(mark.gva, undefined, position);
        return;
      case 'upperEntry':
        this.told.add(mark.address);
        this.read(mark.address, mark.entry, position);
        return;
      case 'l1Svm':
        if (registers.get(Reg.CR3) !== mark.cr3) this.written(Reg.CR3, mark.cr3, position);
        return;
      case 'cr3Switch':
        this.written(Reg.CR3, mark.cr3, position);
        return;
      case 'cr3Reload':
        this.written(Reg.CR3, registers.get(Reg.CR3), position);
        return;
      case 'cr3CacheBits':
        this.written(Reg.CR3, registers.get(Reg.CR3) | CACHE_BITS, position);
        return;
      case 'pkru':
        this.written(Reg.PKRU, mark.pkru, position);
        return;
      case 'l1Npf':
        this.exited = mark.gpa;
        return;
      case 'l1NpfFix':
        this.nptEntryStored(mark.entry, position);
        return;
      case 'l1SetNpte':
        this.nesting?.tlbControl(mark.tlb);
        this.store(mark.address, mark.entry, position);
        return;
      case 'dump':
        this.dumped(mark, position);
        return;
      default:
        return;
    }
  }

  private access(mark: MarkOf<'access'>, position: number): void {
    const { memory, tables } = this.parts;
    this.leaf = mark.entryAddress;
    this.leafBefore = mark.entry;
    if (mark.entryAddress !== 0n) this.read(mark.entryAddress, mark.entry, position);
    this.learn(mark.va, mark.entryAddress, position);
    const entry = mark.entryAddress === 0n ? undefined : memory.read(mark.entryAddress, 8);
    const second = tables.secondStage;
    if (second !== undefined && entry !== undefined) this.learnPath(second, entry & FRAME, undefined, position);
  }

  /** L1 has stored the entry of its nested tables that its last exit was about. */
  private nptEntryStored(entry: bigint, position: number): void {
    const { receipt, registers } = this.parts;
    const format = nestedTables(registers);
    this.learnPath(format, this.exited, undefined, position);
    const place = this.leafPlace(format, this.exited);
    if (place === undefined) receipt.note('entry whose place is not known');
    else this.store(place, entry, position);
  }

  private leafPlace(format: TableFormat, address: bigint): bigint | undefined {
    const { memory } = this.parts;
    let table = format.root;
    for (let level = format.levels; level > 1; level--) {
      const entry = memory.read(entryPlace(table, address, level, format.entrySize), format.entrySize);
      if (entry === undefined || (entry & format.present) === 0n || isLeaf(entry, level)) return undefined;
      table = tableBelow(entry, format.entrySize);
    }
    return entryPlace(table, address, 1, format.entrySize);
  }

  // Memory.

  /** Concludes what the tables above a linear address hold from the next dump. `leaf`: an entry that is told. */
  private learn(address: bigint, leaf: bigint | undefined, position: number): void {
    const { registers, tables } = this.parts;
    const { levels } = tables;
    if (levels < 4 || !tables.rootKnown) return;
    const format: TableFormat = {
      root: registers.get(Reg.CR3) & FRAME,
      levels,
      entrySize: 8,
      present: PRESENT,
      accessed: ACCESSED,
      dirty: 0x40n,
    };
    this.learnPath(format, address, leaf, position, (each) => tables.physical(each));
  }

  private learnPath(
    { root, levels, entrySize, present }: TableFormat,
    address: bigint,
    leaf: bigint | undefined,
    position: number,
    placeOf: Place = (each) => each,
  ): void {
    const { memory, residency } = this.parts;
    const dump = this.nextDump;
    if (dump === undefined) return;
    let table = root;
    for (let level = levels; level > 1; level--) {
      const place = placeOf(entryPlace(table, address, level, entrySize));
      if (place === undefined || place === leaf || !residency.isBacked(place >> 12n)) return;
      const known = memory.read(place, entrySize);
      if (!this.told.has(place)) {
        const dumped = dumpedEntry(dump, place);
        if (known === undefined || (known | ACCESSED) !== (dumped | ACCESSED)) {
          this.parts.receipt.note('entry above a leaf as the next dump has it');
          this.know(place, dumped & ~ACCESSED, Provenance.INFERRED, position);
        }
      }
      const entry = memory.read(place, entrySize);
      if (entry === undefined || (entry & present) === 0n || isLeaf(entry, level)) return;
      table = tableBelow(entry, entrySize);
    }
  }

  /** The guest has read an entry. */
  private read(address: bigint, seen: bigint, position: number): void {
    if (this.parts.memory.read(address, 8) === seen) return;
    this.receipt(address, seen);
    this.know(address, seen, Provenance.MARK, position);
  }

  /** Counts what an entry that was read shows. */
  private receipt(address: bigint, seen: bigint): void {
    const { memory, receipt } = this.parts;
    const known = memory.read(address, 8);
    if (known === seen) return;
    const isNews = known === undefined || !agrees(known, seen, SET_BY_PROCESSOR);
    receipt.note(
      known === undefined
        ? 'entry first known when read'
        : isNews
          ? 'store not announced'
          : 'accessed and dirty bits found set',
    );
  }

  private store(address: bigint, entry: bigint, position: number): void {
    const { memory, steps } = this.parts;
    memory.write(address, 8, entry);
    const op = StepKind.STORE | (Provenance.MARK << PROVENANCE_SHIFT) | (8 << STORE_SIZE_SHIFT);
    steps.add([draft(op, address, entry, position)]);
  }

  private know(address: bigint, entry: bigint, provenance: number, position: number): void {
    const { memory, steps } = this.parts;
    memory.write(address, 8, entry);
    const op = StepKind.STORE | (provenance << PROVENANCE_SHIFT) | (8 << STORE_SIZE_SHIFT) | STORE_KNOWLEDGE;
    steps.add([draft(op, address, entry, position)]);
  }

  /** All that a dump shows to be otherwise than it is known. */
  private dumped(mark: MarkOf<'dump'>, position: number): void {
    const { memory, receipt } = this.parts;
    const at = this.dumps.findIndex(([name]) => name === mark.file);
    if (at < 0) return;
    this.dumpsWritten = at + 1;
    for (const [frame, words] of this.dumps[at]![1].pages) {
      for (let i = 0; i < 512; i++) {
        const value = BigInt(words[2 * i]!) | (BigInt(words[2 * i + 1]!) << 32n);
        const address = (BigInt(frame) << 12n) + BigInt(8 * i);
        const known = memory.read(address, 8);
        if (known === value || (known === undefined && value === 0n)) continue;
        receipt.note('memory as a dump has it');
        this.know(address, value, Provenance.DUMP, position);
      }
    }
  }
}
