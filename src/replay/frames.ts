/**
 * Names of host frames: which frame of the recorded host a frame of the emulated one stands for. A name is bound where
 * it is first seen and has to hold from then on (recordings/README.md, "Frames").
 *
 * Pages of the guest and tables of KVM are apart. A page's name is a function of the machine's frame only: the machine
 * takes a new frame for each new epoch, while the recorded host may put many under one (the zero page) or use one again.
 * Tables have one name each, in both directions, until the machine gives the frame back. A recording spells the place
 * of an SPTE by physical or by kernel address; what lies between the two is learned once.
 *
 * Frames are numbers: addresses without their lowest 12 bits, 52 bits at most.
 */

/** Frame numbers from here on belong to kernel addresses: the canonical upper half with 57 bits (SDM vol. 1 3.3.7.1). */
import { hexText } from '../bits/word64.ts';

const KERNEL_FRAMES = 2 ** 52 - 2 ** 44;
/** The kernel maps physical memory at a multiple of 1 GiB. */
const DIRECT_MAP_ALIGNMENT = 2 ** 18;
const HUGE_FRAMES: readonly number[] = [0, 1, 2 ** 9, 2 ** 18];

interface TableName {
  /** -1: not known. */
  physical: number;
  kernel: number;
  /** The machine has given the frame back; the recorded one may be in use elsewhere. */
  free: boolean;
}

export class FrameNames {
  /** Recorded frame by the machine's. */
  private readonly pages = new Map<number, number>();
  /** Large pages: recorded first frame by the machine's first frame, level 2 and 3. */
  private readonly large: readonly Map<number, number>[] = [new Map(), new Map(), new Map(), new Map()];
  private readonly tables = new Map<number, TableName>();
  /** The machine's table by the recorded one's name. */
  private readonly byPhysical = new Map<number, number>();
  private readonly byKernel = new Map<number, number>();
  /** Frames from a physical to its kernel address; -1: not known yet. */
  private offset = -1;
  private readonly namesOfPages = new Set<number>();
  /** Pages of the machine that share a recorded frame with another one: where the recording tells less than the machine. */
  sharedPages = 0;

  /** Recorded frame that stands for a page of the machine, or -1. */
  pageName(machine: number): number {
    const name = this.pages.get(machine);
    if (name !== undefined) return name;
    for (let level = 2; level <= 3; level++) {
      const frames = HUGE_FRAMES[level]!;
      const offset = machine % frames;
      const base = this.large[level]!.get(machine - offset);
      if (base !== undefined) return base + offset;
    }
    return -1;
  }

  /** Whether a page's name is the recorded one, or free to become it. `level`: of the mapping whose first frame it is. */
  pageFits(machine: number, recorded: number, level: number): boolean {
    const name = level > 1 ? (this.large[level]!.get(machine) ?? this.pageName(machine)) : this.pageName(machine);
    return name < 0 || name === recorded;
  }

  /** Binds a page's name, whatever it was. Returns whether it was bound to it before. */
  bindPage(machine: number, recorded: number, level: number): boolean {
    const names = level > 1 ? this.large[level]! : this.pages;
    if (names.get(machine) === recorded) return true;
    const known = this.pageName(machine) === recorded;
    names.set(machine, recorded);
    if (!known) {
      if (this.namesOfPages.has(recorded)) this.sharedPages++;
      this.namesOfPages.add(recorded);
    }
    return known;
  }

  /** Recorded frame, by physical address if that is known, that stands for a table of the machine; or -1. */
  tableName(machine: number): number {
    const name = this.tables.get(machine);
    if (name === undefined) return -1;
    return name.physical >= 0 ? name.physical : name.kernel;
  }

  /** Whether a table's name is the recorded one, or free to become it. */
  tableFits(machine: number, recorded: number): boolean {
    const name = this.tables.get(machine);
    const physical = this.physicalOf(recorded);
    if (physical < 0) {
      if (name !== undefined && name.kernel >= 0) return name.kernel === recorded;
      // A kernel address below what lies between is that of no physical memory.
      if (this.offset >= 0) return false;
      // What lies between is not known.
      if (name !== undefined && name.physical >= 0) return isOffset(recorded - name.physical);
      return this.isAvailable(this.byKernel.get(recorded), machine);
    }
    if (name !== undefined && name.physical >= 0) return name.physical === physical;
    if (!this.isAvailable(this.byPhysical.get(physical), machine)) return false;
    return name === undefined || name.kernel < 0 || (this.offset < 0 && isOffset(name.kernel - physical));
  }

  /** Binds a table's name, whatever it was. Returns whether it was bound to it before. */
  bindTable(machine: number, recorded: number): boolean {
    const physical = this.physicalOf(recorded);
    const name = this.tables.get(machine);
    if (name !== undefined) {
      if (physical >= 0 ? name.physical === physical : name.kernel === recorded) return true;
      if (this.offset < 0 && name.physical >= 0 && physical < 0 && isOffset(recorded - name.physical)) {
        this.learnOffset(recorded - name.physical);
        return false;
      }
      if (this.offset < 0 && name.kernel >= 0 && physical >= 0 && isOffset(name.kernel - physical)) {
        this.learnOffset(name.kernel - physical);
        return false;
      }
      this.forget(machine);
    }
    const holder = physical >= 0 ? this.byPhysical.get(physical) : this.byKernel.get(recorded);
    if (holder !== undefined) this.forget(holder);
    this.tables.set(machine, { physical, kernel: physical >= 0 ? -1 : recorded, free: false });
    if (physical >= 0) this.byPhysical.set(physical, machine);
    else this.byKernel.set(recorded, machine);
    return false;
  }

  /** The machine has given a table back: the recorded frame may name another one from here on. */
  release(machine: number): void {
    const name = this.tables.get(machine);
    if (name !== undefined) name.free = true;
  }

  /** The machine takes a frame for a new table: what it was called is void. */
  forget(machine: number): void {
    const name = this.tables.get(machine);
    if (name === undefined) return;
    this.tables.delete(machine);
    if (this.byPhysical.get(name.physical) === machine) this.byPhysical.delete(name.physical);
    if (this.byKernel.get(name.kernel) === machine) this.byKernel.delete(name.kernel);
  }

  private isAvailable(holder: number | undefined, machine: number): boolean {
    return holder === undefined || holder === machine || this.tables.get(holder)?.free !== false;
  }

  /** Physical frame of a recorded one; -1 for a kernel address while the offset is not known, and for one below it. */
  private physicalOf(recorded: number): number {
    if (recorded < KERNEL_FRAMES) return recorded;
    return this.offset < 0 ? -1 : Math.max(recorded - this.offset, -1);
  }

  private learnOffset(offset: number): void {
    this.offset = offset;
    for (const [kernel, machine] of this.byKernel) {
      const name = this.tables.get(machine);
      if (name === undefined || name.physical >= 0) continue;
      name.physical = kernel - offset;
      this.byPhysical.set(name.physical, machine);
    }
    this.byKernel.clear();
  }
}

function isOffset(frames: number): boolean {
  return frames > 0 && frames % DIRECT_MAP_ALIGNMENT === 0;
}

/** The address that a frame number stands for. */
export function frameAddress(frame: number): string {
  return hexText((frame % 2 ** 20) * 4096, Math.floor(frame / 2 ** 20));
}
