/** The generator's random numbers, with words of 64 bits for the references, which work in BigInt. */

import { Random as SeededRandom } from '../../src/generate/random.ts';

export class Random extends SeededRandom {
  /** 64 bits. */
  uint64(): bigint {
    return (BigInt(this.uint32()) << 32n) | BigInt(this.uint32());
  }
}
