/** Names that the kernel prints for numbers, where text has nothing but the name. */

import { Problem } from '../../bits/problem.ts';

/** Bits of a page-fault error code (facts/kvm-mmu.md §9). */
const FAULT_FLAGS: ReadonlyMap<string, bigint> = new Map([
  ['P', 1n << 0n],
  ['W', 1n << 1n],
  ['U', 1n << 2n],
  ['RSVD', 1n << 3n],
  ['F', 1n << 4n],
  ['PK', 1n << 5n],
  ['SS', 1n << 6n],
  ['SGX', 1n << 15n],
]);

/** `P|W|0x100000000`: flags, then what has no name; empty for none. */
export function parseFaultFlags(text: string): bigint {
  let value = 0n;
  for (const name of text.split('|')) {
    if (name === '') continue;
    const bit = FAULT_FLAGS.get(name) ?? unnamed(name);
    if (bit === undefined) throw new Problem('E_IMPORT', `no flag of a page fault: ${JSON.stringify(name)}`);
    value |= bit;
  }
  return value;
}

const EXCEPTIONS: ReadonlyMap<string, number> = new Map(
  Object.entries({
    DE: 0,
    DB: 1,
    BP: 3,
    OF: 4,
    BR: 5,
    UD: 6,
    NM: 7,
    DF: 8,
    TS: 10,
    NP: 11,
    SS: 12,
    GP: 13,
    PF: 14,
    MF: 16,
    AC: 17,
    MC: 18,
    XM: 19,
    VE: 20,
    CP: 21,
    HV: 28,
    VC: 29,
    SX: 30,
  }),
);

/** `#PF`, or a number of an exception that the kernel has no name for. */
export function parseException(text: string): number {
  const vector = text.startsWith('#') ? EXCEPTIONS.get(text.slice(1)) : Number(unnamed(text) ?? -1n);
  if (vector === undefined || vector < 0 || vector > 255) {
    throw new Problem('E_IMPORT', `no exception: ${JSON.stringify(text)}`);
  }
  return vector;
}

export const MMIO_TYPES = ['unsatisfied-read', 'read', 'write'] as const;

function unnamed(text: string): bigint | undefined {
  return text.startsWith('0x') && text.length > 2 && text.length <= 18 && Number.isFinite(Number(text))
    ? BigInt(text)
    : undefined;
}
