/**
 * Stores that the guest has announced and not yet made, in the order in which it makes them. A mark may stand for many
 * (a page zeroed, a run of entries); a fault on one of them tells how far the guest has come.
 */

import { fromBigInt } from '../../bits/word64.ts';
import { PROVENANCE_SHIFT, Provenance, STORE_EMULATED, STORE_SIZE_SHIFT, StepKind } from '../../formats/step.ts';
import type { KnownMemory } from '../known-memory.ts';
import { type Draft, draft, rareDraft } from './draft.ts';

/** `count` stores of `size` bytes; the n-th stores `first + n × increment`. */
export interface StoreRun {
  readonly address: bigint;
  readonly count: number;
  readonly size: 1 | 2 | 4 | 8;
  readonly first: bigint;
  readonly increment: bigint;
}

const PAGE_SIZE = 0x1000n;

export function singleStore(address: bigint, size: StoreRun['size'], value: bigint): StoreRun {
  return { address, count: 1, size, first: value, increment: 0n };
}

/** A page zeroed, by stores of four bytes. */
export function clearedPage(address: bigint): StoreRun {
  return { address, count: 1024, size: 4, first: 0n, increment: 0n };
}

function valueAt(run: StoreRun, index: number): bigint {
  return BigInt.asUintN(8 * run.size, run.first + BigInt(index) * run.increment);
}

function part(run: StoreRun, from: number, to: number): StoreRun {
  return {
    ...run,
    address: run.address + BigInt(from * run.size),
    count: to - from,
    first: run.first + BigInt(from) * run.increment,
  };
}

/**
 * The stores that make up one entry. A guest with registers of four bytes stores an entry of eight so that no torn one
 * is ever seen: low half 0, high half, low half (rig/kvm/README.md).
 */
function entryStores(run: StoreRun, index: number, wordSize: number): StoreRun[] {
  const address = run.address + BigInt(index * run.size);
  const value = valueAt(run, index);
  if (run.size <= wordSize) return [singleStore(address, run.size, value)];
  return [
    singleStore(address, 4, 0n),
    singleStore(address + 4n, 4, value >> 32n),
    singleStore(address, 4, value & 0xffff_ffffn),
  ];
}

export class GuestStores {
  private readonly memory: KnownMemory;
  private runs: StoreRun[];
  /** Bytes of a register of the guest. */
  private readonly wordSize: 4 | 8;

  constructor(memory: KnownMemory, runs: readonly StoreRun[], wordSize: 4 | 8) {
    this.memory = memory;
    this.runs = [...runs];
    this.wordSize = wordSize;
  }

  get done(): boolean {
    return this.runs.length === 0;
  }

  /** Whether one of the stores to come is in the page of `address`. */
  touches(address: bigint): boolean {
    const page = address & ~(PAGE_SIZE - 1n);
    return this.runs.some((run) => {
      const end = run.address + BigInt(run.count * run.size);
      return run.address < page + PAGE_SIZE && end > page;
    });
  }

  /** The same of an address of which only the place within its page means something. */
  mayBeAt(address: bigint): boolean {
    const place = address & (PAGE_SIZE - 1n);
    return this.runs.some((run) => {
      const start = run.address & (PAGE_SIZE - 1n);
      return place >= start && place < start + BigInt(run.count * run.size);
    });
  }

  /** The guest has come as far as the store at `address`: the stores before it, as steps. */
  upTo(address: bigint, position: number): Draft[] {
    const result: Draft[] = [];
    for (let i = 0; i < this.runs.length; i++) {
      const run = this.runs[i]!;
      const index = Number((address - run.address) / BigInt(run.size));
      if (address < run.address || index >= run.count) continue;
      for (const earlier of this.runs.slice(0, i)) result.push(...this.write(earlier, position));
      if (index > 0) result.push(...this.write(part(run, 0, index), position));
      const rest = index + 1 < run.count ? [part(run, index + 1, run.count)] : [];
      this.runs = [...entryStores(run, index, this.wordSize), ...rest, ...this.runs.slice(i + 1)];
      // A fault at the upper half: what comes before it went through.
      const reached = this.runs.findIndex((each) => each.address === address);
      for (const earlier of this.runs.splice(0, Math.max(0, reached))) result.push(...this.write(earlier, position));
      return result;
    }
    return result;
  }

  /** The next store, made by the hypervisor's emulator. */
  emulate(position: number): Draft | undefined {
    const run = this.runs.shift();
    if (run === undefined) return undefined;
    if (run.count > 1) this.runs.unshift(part(run, 1, run.count));
    const [only] = this.write(part(run, 0, 1), position);
    only!.op |= STORE_EMULATED;
    return only;
  }

  /** All that is left, made by the guest itself. */
  rest(position: number): Draft[] {
    return this.runs.splice(0).flatMap((run) => this.write(run, position));
  }

  private write(run: StoreRun, position: number): Draft[] {
    for (let i = 0; i < run.count; i++) {
      this.memory.write(run.address + BigInt(i * run.size), run.size, valueAt(run, i));
    }
    if (run.count === 1) {
      const op = StepKind.STORE | (Provenance.MARK << PROVENANCE_SHIFT) | (run.size << STORE_SIZE_SHIFT);
      return [draft(op, run.address, valueAt(run, 0), position)];
    }
    const wholePage = run.count * run.size === Number(PAGE_SIZE) && run.address % PAGE_SIZE === 0n;
    if (wholePage && run.first === 0n && run.increment === 0n) {
      return [draft(StepKind.CLEAR_PAGE | (Provenance.MARK << PROVENANCE_SHIFT), run.address, 0n, position)];
    }
    const fill = {
      kind: 'entry-fill',
      address: fromBigInt(run.address),
      count: run.count,
      first: fromBigInt(run.first),
      increment: fromBigInt(run.increment),
      size: run.size as 4 | 8,
    } as const;
    return [rareDraft(fill, Provenance.MARK, position)];
  }
}
