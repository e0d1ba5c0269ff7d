/**
 * The second-stage tables of the guest that is a hypervisor, as far as reading them goes: where they begin, how an
 * entry is told to be a leaf, and what a guest-physical address of its guest's leads to.
 */

import {
  CR0_PG,
  CR4_LA57,
  CR4_PAE,
  EFER_LMA,
  GuestMode,
  NESTED_NP_ENABLE,
  Reg,
  SECONDARY_EPT,
} from '../../formats/registers.ts';
import type { KnownMemory } from '../known-memory.ts';
import type { RegisterFile } from '../kvm-guest/register-file.ts';

const FRAME = 0xf_ffff_ffff_f000n;
const LARGE = 0x80n;

/** How tables are laid out and what their bits mean. */
export interface TableFormat {
  readonly root: bigint;
  readonly levels: number;
  readonly entrySize: 4 | 8;
  /** Any of these: the entry is present. */
  readonly present: bigint;
  readonly accessed: bigint;
  readonly dirty: bigint;
}

/** L1's EPT or nested page tables under the guest that runs, or `undefined` if there are none. */
export function secondStageOf(registers: RegisterFile): TableFormat | undefined {
  switch (Number(registers.get(Reg.GUEST_MODE))) {
    case GuestMode.SVM:
      return registers.has(Reg.NESTED_CONTROL, NESTED_NP_ENABLE) ? nestedTables(registers) : undefined;
    case GuestMode.VMX: {
      if (!registers.has(Reg.SECONDARY_CONTROLS, SECONDARY_EPT)) return undefined;
      const eptp = registers.get(Reg.EPTP);
      const levels = Number((eptp >> 3n) & 7n) + 1;
      return { root: eptp & FRAME, levels, entrySize: 8, present: 7n, accessed: 0x100n, dirty: 0x200n };
    }
    default:
      return undefined;
  }
}

/** Of the format that the hypervisor's own paging has (APM vol. 2 15.25.3). */
export function nestedTables(registers: RegisterFile): TableFormat {
  const pae = registers.has(Reg.HOST_CR4, CR4_PAE);
  const long = registers.has(Reg.HOST_EFER, EFER_LMA);
  const levels = long ? (registers.has(Reg.HOST_CR4, CR4_LA57) ? 5 : 4) : pae ? 3 : 2;
  const ncr3 = registers.get(Reg.NCR3);
  const root = pae && !long ? ncr3 & 0xffff_ffe0n : ncr3 & FRAME;
  return { root, levels, entrySize: pae ? 8 : 4, present: 1n, accessed: 0x20n, dirty: 0x40n };
}

/** Whether the guest that runs has paging on. */
export function pagingOn(registers: RegisterFile): boolean {
  return registers.has(Reg.CR0, CR0_PG);
}

export function bitsPerLevel(entrySize: 4 | 8): number {
  return entrySize === 4 ? 10 : 9;
}

export function entryPlace(table: bigint, address: bigint, level: number, entrySize: 4 | 8): bigint {
  const bits = bitsPerLevel(entrySize);
  const index = (address >> BigInt(12 + bits * (level - 1))) & ((1n << BigInt(bits)) - 1n);
  return table + index * BigInt(entrySize);
}

export function isLeaf(entry: bigint, level: number): boolean {
  return level === 1 || ((entry & LARGE) !== 0n && level <= 3);
}

/** The address in the page that a leaf maps. */
export function leafAddress(entry: bigint, level: number, entrySize: 4 | 8, address: bigint): bigint {
  const offset = (1n << BigInt(12 + bitsPerLevel(entrySize) * (level - 1))) - 1n;
  return (entry & FRAME & ~offset) | (address & offset);
}

/** Frame of the table that an entry names. */
export function tableBelow(entry: bigint, entrySize: 4 | 8): bigint {
  return entry & (entrySize === 4 ? 0xffff_f000n : FRAME);
}

/** Where the tables lead to, by what memory is known to hold; `undefined` if they lead nowhere. */
export function translate(memory: KnownMemory, format: TableFormat, address: bigint): bigint | undefined {
  const { entrySize } = format;
  let table = format.root;
  for (let level = format.levels; level >= 1; level--) {
    const entry = memory.read(entryPlace(table, address, level, entrySize), entrySize);
    if (entry === undefined || (entry & format.present) === 0n) return undefined;
    if (isLeaf(entry, level)) return leafAddress(entry, level, entrySize, address);
    table = tableBelow(entry, entrySize);
  }
  return undefined;
}
