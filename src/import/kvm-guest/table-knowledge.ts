/**
 * What the guest shows of its tables: where the entries are that marks name by address and level, whether what the
 * guest read agrees with what was known, and what must be concluded where no mark tells.
 */

import { Dim } from '../../formats/observation.ts';
import { Reg } from '../../formats/registers.ts';
import { Provenance } from '../../formats/step.ts';
import type { Dump } from './dump.ts';
import {
  addressBelow,
  EPT,
  entryAddress,
  entrySize,
  FRAME_MASK,
  LONG_MODE,
  NPT,
  shapeOfMode,
  type TableAddress,
  type TableShape,
  translateThrough,
} from './guest-tables.ts';
import type { StepWriter } from './step-writer.ts';
import { ACCESSED, agrees, dumpedEntry, imageTables, learnPath } from './unannounced.ts';

/** FRAME_MASK below 2^40, which spares the reserved bits that tests set. */
const LOW_FRAME_MASK = 0xff_ffff_f000n;
/** Accessed and dirty bits of the two formats. */
const X86_AD = 0x60n;
const EPT_AD = 0x300n;
const USER = 1n << 2n;
/** Where in the page the guests touch memory behind a protected table. */
const TOUCHED_OFFSET = 0x40n;

/** The guest hypervisor's own second stage. */
interface SecondStage {
  readonly dim: number;
  readonly shape: TableShape;
  readonly root: bigint;
  readonly hardwareBits: bigint;
}

export class TableKnowledge {
  private readonly writer: StepWriter;
  /** The guest announces its stores. */
  private readonly announced: boolean;
  private readonly count: (what: string) => void;
  /** The first address that the processor cannot form: 2^MAXPHYADDR. */
  private readonly endOfMemory: bigint;
  private shape: TableShape = LONG_MODE;
  private second: SecondStage | undefined;
  private leaf = 0n;
  /** Entries that marks told since the last access. */
  private readonly told = new Set<bigint>();
  private readonly imaged = new Set<number>();
  /** Guest-physical address of the table that the hypervisor protects, and the entry of it that is under test. */
  private protectedTable = 0n;
  private protectedEntry = 0n;
  /** Last announced store into each table page. */
  private readonly lastStore = new Map<bigint, bigint>();

  constructor(writer: StepWriter, announced: boolean, maxphyaddr: number, count: (what: string) => void) {
    this.writer = writer;
    this.announced = announced;
    this.endOfMemory = 1n << BigInt(maxphyaddr);
    this.count = count;
  }

  useShape(mode: number): void {
    this.shape = shapeOfMode(mode);
  }

  useNpt(root: bigint, on: boolean): void {
    if (on) this.second = { dim: Dim.NPT, shape: NPT, root, hardwareBits: X86_AD };
  }

  useEpt(root: bigint, on: boolean): void {
    if (on) this.second = { dim: Dim.EPT, shape: EPT, root, hardwareBits: EPT_AD };
  }

  /** Bytes of an entry in the guest's own tables. */
  get entrySize(): 4 | 8 {
    return entrySize(this.shape);
  }

  stored(address: bigint): void {
    this.lastStore.set(address & ~0xfffn, address);
  }

  /** How the tables that CR3 points at are addressed: through the second stage while the guest's guest runs. */
  private get translate(): TableAddress | undefined {
    const { second, writer } = this;
    if (second === undefined || !writer.inL2) return undefined;
    return (address) => translateThrough(writer.memory, second.shape, second.root, address);
  }

  private get root(): bigint {
    return this.writer.registers.get(Reg.CR3);
  }

  unknown(table: bigint): boolean {
    return this.writer.memory.read(table & FRAME_MASK, 8) === undefined;
  }

  /** Compares an entry that the guest read with what was known, and keeps what it read. */
  compare(address: bigint, size: 4 | 8, seen: bigint, hardwareBits = this.second?.hardwareBits ?? X86_AD): void {
    const { writer } = this;
    const known = writer.memory.read(address, size);
    if (known !== undefined && agrees(known, seen, hardwareBits)) {
      writer.memory.write(address, size, seen);
      return;
    }
    const change = this.announced ? 'unexplained overwrite' : 'store not announced';
    this.count(known === undefined ? 'entry first known when read' : change);
    writer.know(address, size, seen, Provenance.INFERRED);
  }

  /** The leaf entry of an access, as the guest read it just before. */
  compareLeaf(address: bigint, seen: bigint): void {
    this.leaf = address;
    this.compare(address, this.entrySize, seen, X86_AD);
  }

  /**
   * The same entry, as the guest read it just after. `untouched`: the access ended in a way that leaves A and D alone;
   * where they changed all the same, what was read is what there is from here on.
   */
  seeLeaf(seen: bigint, untouched: boolean): void {
    const { leaf, entrySize, writer } = this;
    this.told.clear();
    if (leaf === 0n) return;
    const before = writer.memory.read(leaf, entrySize);
    this.see(Dim.GUEST, 0, leaf, entrySize, seen, X86_AD);
    if (untouched && before !== seen) {
      this.count('A or D set by an access that faulted on a reserved bit');
      writer.know(leaf, entrySize, seen, Provenance.INFERRED);
    }
    this.leaf = 0n;
  }

  private see(dim: number, level: number, address: bigint, size: 4 | 8, seen: bigint, hardwareBits: bigint): void {
    this.writer.observeEntry(dim, level, address, size, seen);
    this.compare(address, size, seen, hardwareBits);
  }

  /** An entry above a leaf, which the guest read; in recordings without stores perhaps just after it stored it. */
  seeUpper(address: bigint, level: number, seen: bigint): void {
    this.told.add(address);
    const known = this.writer.memory.read(address, this.entrySize);
    const news = known === undefined || !agrees(known, seen, X86_AD);
    if (news && !this.announced) this.compare(address, this.entrySize, seen, X86_AD);
    else this.see(Dim.GUEST, level, address, this.entrySize, seen, X86_AD);
  }

  /** An entry of the hypervisor's second stage. An entry whose table does not exist reads as 0. */
  seeSecond(gpa: bigint, level: number, seen: bigint): void {
    const { second, writer } = this;
    if (second === undefined) return;
    const address = entryAddress(writer.memory, second.shape, second.root, gpa, level);
    if (address !== undefined) this.see(second.dim, level, address, 8, seen, second.hardwareBits);
    else if (seen !== 0n) this.count('entry whose place is not known');
  }

  /** Entries of all levels for the page of an access, and of level 1 for the page of its table. */
  seeAllLevels(leaf: bigint, leafAddress: bigint, levels: readonly bigint[], table: bigint): void {
    const { second, writer } = this;
    if (second === undefined) return;
    levels.forEach((seen, i) => {
      this.seeSecond(leaf & FRAME_MASK, i + 1, seen);
    });
    const root = this.root & FRAME_MASK;
    const rootAt = translateThrough(writer.memory, second.shape, second.root, root);
    if (rootAt !== undefined) this.seeSecond((leafAddress & ~0xfffn) + root - rootAt, 1, table);
  }

  // Tables of the guest's guest that its hypervisor protects.

  /** `second`: the second stage's entry that will map the table, which names the page that it is in. */
  protects(gpa: bigint, second: bigint): void {
    this.protectedTable = gpa;
    this.protectedEntry = this.lastStore.get(second & LOW_FRAME_MASK) ?? 0n;
  }

  /** Where the guest's guest reads the protected entry: its tables are mapped where they lie. */
  get protectedEntryAddress(): bigint {
    return this.protectedEntry;
  }

  /** The page is one of the tables of the guest's guest, which lie above their root. */
  ofInnerGuest(address: bigint): boolean {
    const root = this.translate?.(this.root & FRAME_MASK);
    return root !== undefined && address >= root;
  }

  /** The linear address that the protected table's entry under test is for. */
  protectedAddress(): bigint | undefined {
    const { writer, shape, protectedTable, protectedEntry } = this;
    const index = Number(protectedEntry & 0xfffn) / this.entrySize;
    const page = addressBelow(writer.memory, shape, this.root, protectedTable, index, this.translate);
    return page === undefined ? undefined : page + TOUCHED_OFFSET;
  }

  seeProtected(seen: bigint): void {
    if (this.protectedEntry !== 0n) this.see(Dim.GUEST, 1, this.protectedEntry, this.entrySize, seen, X86_AD);
  }

  seeProtecting(seen: bigint): void {
    this.seeSecond(this.protectedTable, 1, seen);
  }

  // Where no mark tells.

  image(dump: Dump, root: bigint): void {
    imageTables(this.writer, dump, this.shape, root, this.imaged);
  }

  /** All tables that a dump shows. */
  imageAll(dump: Dump): void {
    const done = new Set<number>();
    if (this.second !== undefined) imageTables(this.writer, dump, this.second.shape, this.second.root, done);
    imageTables(this.writer, dump, this.shape, this.root, done, this.translate);
  }

  /** Concludes what the tables above an access hold from the next dump. */
  learn(dump: Dump | undefined, address: bigint, leaf: bigint | undefined): void {
    if (dump === undefined) return;
    const { second, writer, translate, told, endOfMemory } = this;
    learnPath(writer, dump, this.shape, this.root, address, leaf, told, endOfMemory, translate);
    const entry = leaf === undefined || !writer.inL2 ? undefined : writer.memory.read(leaf, 8);
    if (second !== undefined && entry !== undefined) {
      learnPath(writer, dump, second.shape, second.root, entry & FRAME_MASK, undefined, told, endOfMemory);
    }
  }

  /** Concludes what maps the page at `address`, which was fetched from at that privilege. */
  learnFetched(dump: Dump | undefined, address: bigint, user: boolean): void {
    if (dump === undefined) return;
    const { writer, translate, endOfMemory } = this;
    this.learn(dump, address, undefined);
    const place = entryAddress(writer.memory, this.shape, this.root, address, 1, translate);
    if (place === undefined || place >= endOfMemory) return;
    const dumped = dumpedEntry(dump, place) & ~ACCESSED;
    const entry = user ? dumped | USER : dumped & ~USER;
    if (writer.memory.read(place, 8) !== entry) writer.know(place, 8, entry, Provenance.INFERRED);
  }

  /** The hypervisor has stored an entry of its second stage without announcing it. */
  fixSecond(dump: Dump | undefined, gpa: bigint, entry: bigint): void {
    const { second, writer } = this;
    if (second === undefined) return;
    if (dump !== undefined)
      learnPath(writer, dump, second.shape, second.root, gpa, undefined, this.told, this.endOfMemory);
    const address = entryAddress(writer.memory, second.shape, second.root, gpa, 1);
    if (address === undefined) this.count('entry whose place is not known');
    else writer.store(address, 8, entry, Provenance.MARK);
  }
}
