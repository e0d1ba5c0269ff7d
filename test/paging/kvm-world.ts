/** A KVM page walk over the memory and registers of a random world, and what the tests need to see of it. */

import { KVM_EVENT_MASK, KVM_EVENT_SHIFT, KVM_TRACEPOINTS } from '../../src/formats/kvm-event.ts';
import { OBS_LEVEL_MASK, OBS_LEVEL_SHIFT } from '../../src/formats/observation.ts';
import { REGISTER_COUNT } from '../../src/formats/registers.ts';
import { Memory } from '../../src/machine/memory.ts';
import type { PagingFeatures } from '../../src/paging/configure.ts';
import { frameHi, frameLo, type GuestMemory } from '../../src/paging/guest-memory.ts';
import { KvmPageWalk, type KvmWalkOptions, WalkFault } from '../../src/paging/kvm-page-walk.ts';
import { ROW, RowLog } from '../../src/paging/row-log.ts';

export function both(lo: number, hi: number): bigint {
  return (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
}

/** All of memory in one writable memslot, but for what the test takes out. */
export class SlotMemory implements GuestMemory {
  readonly memory = new Memory();
  readonly absent = new Set<number>();
  readonly readOnly = new Set<number>();
  /** Entries written, in order, and frames marked dirty. */
  writes: { address: bigint; value: bigint; size: number }[] = [];
  dirty: number[] = [];

  get words(): Int32Array {
    return this.memory.words;
  }

  pageIndexOf(gfn: number): number {
    return this.absent.has(gfn) ? -1 : this.memory.pageIndex(frameLo(gfn), frameHi(gfn));
  }

  isWritable(gfn: number): boolean {
    return !this.readOnly.has(gfn);
  }

  writeEntry(gfn: number, offset: number, lo: number, hi: number, size: number): void {
    this.writes.push({ address: BigInt(gfn) * 0x1000n + BigInt(offset), value: both(lo, hi), size });
    this.memory.store(frameLo(gfn) | offset, frameHi(gfn), lo, hi, size);
  }

  markDirty(gfn: number): void {
    this.dirty.push(gfn);
  }

  store(address: number, value: bigint, size: 4 | 8): void {
    const lo = Number(value & 0xffff_ffffn) | 0;
    this.memory.store(address | 0, Math.floor(address / 0x1_0000_0000), lo, Number(value >> 32n) | 0, size);
  }
}

export const FEATURES: PagingFeatures = {
  amd: false,
  maxphyaddr: 48,
  pse36: true,
  page1g: true,
  eptExecuteOnly: true,
  ept2m: true,
  ept1g: true,
  eptAdvancedInfo: false,
};

/** What the walks of one vCPU share. */
export class KvmRig {
  readonly memory = new SlotMemory();
  readonly log = new RowLog();
  readonly registers = new Uint32Array(2 * REGISTER_COUNT);
  readonly fault = new WalkFault();

  walk(options: Pick<KvmWalkOptions, 'profile'> & Partial<KvmWalkOptions>): KvmPageWalk {
    const { memory, log, registers, fault } = this;
    const rest = { ngpa: false, ept: false, tdp: true, features: FEATURES };
    return new KvmPageWalk({ memory, log, registers, fault, ...rest, ...options });
  }

  set(register: number, value: bigint): void {
    this.registers[2 * register] = Number(value & 0xffff_ffffn);
    this.registers[2 * register + 1] = Number((value >> 32n) & 0xffff_ffffn);
  }

  /** Rows since the last call, as `walk 1000 2`, `element 2 1023`, `accessed 5008`, `error 7`. */
  events(): string[] {
    const { log } = this;
    const texts: string[] = [];
    for (let i = 0; i < log.count; i++) {
      const [op, addressLo, addressHi, valueLo, valueHi] = log.rows.subarray(i * ROW, i * ROW + ROW) as unknown as [
        number,
        number,
        number,
        number,
        number,
      ];
      const address = both(addressLo, addressHi).toString(16);
      const value = both(valueLo, valueHi).toString(16);
      const level = (op >>> OBS_LEVEL_SHIFT) & OBS_LEVEL_MASK;
      switch (KVM_TRACEPOINTS[(op >>> KVM_EVENT_SHIFT) & KVM_EVENT_MASK]) {
        case 'kvm_mmu_pagetable_walk':
          texts.push(`walk ${address} ${value}`);
          break;
        case 'kvm_mmu_paging_element':
          texts.push(`element ${level} ${value}`);
          break;
        case 'kvm_mmu_set_accessed_bit':
          texts.push(`accessed ${address}`);
          break;
        case 'kvm_mmu_set_dirty_bit':
          texts.push(`dirty ${address}`);
          break;
        case 'kvm_mmu_walker_error':
          texts.push(`error ${value}`);
          break;
        default:
          texts.push(`row ${op}`);
      }
    }
    log.count = 0;
    return texts;
  }
}
