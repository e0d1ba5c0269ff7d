/** Physical memory for the plain walker: a map of 8-byte words. What nobody wrote is 0. */

import type { PlainMemory } from './plain-walker.ts';

export class WordMap implements PlainMemory {
  /** Value by address / 8; physical addresses have at most 52 bits, so a number is exact. */
  readonly words = new Map<number, bigint>();

  read64(address: bigint): bigint {
    return this.words.get(Number(address >> 3n)) ?? 0n;
  }

  write64(address: bigint, value: bigint): void {
    this.words.set(Number(address >> 3n), value);
  }

  read32(address: bigint): bigint {
    return BigInt.asUintN(32, this.read64(address) >> shiftWithin(address));
  }

  write32(address: bigint, value: bigint): void {
    const shift = shiftWithin(address);
    this.write64(address, (this.read64(address) & ~(0xffff_ffffn << shift)) | (BigInt.asUintN(32, value) << shift));
  }
}

/** Which half of its 8-byte word an entry of 4 bytes is. */
function shiftWithin(address: bigint): bigint {
  return (address & 4n) === 0n ? 0n : 32n;
}
