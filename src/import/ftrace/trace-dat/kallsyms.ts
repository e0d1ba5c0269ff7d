/** Which function of the recording kernel an address lies in (`/proc/kallsyms`). */

import { textOf } from './byte-source.ts';

const DIGITS = 16;

export class Kallsyms {
  readonly #read: () => Uint8Array;
  #lines: string[] | undefined;
  readonly #known = new Map<bigint, string | undefined>();

  /** `read` is called at the first question. */
  constructor(read: () => Uint8Array) {
    this.#read = read;
  }

  /** The name of the function, undefined if addresses are hidden (all zero) or too low. */
  at(address: bigint): string | undefined {
    if (!this.#known.has(address)) this.#known.set(address, this.#search(address));
    return this.#known.get(address);
  }

  /** Lines are `ffffffff81000000 T name [module]`, in no order. */
  #search(address: bigint): string | undefined {
    this.#lines ??= textOf(this.#read()).split('\n');
    const wanted = address.toString(16).padStart(DIGITS, '0');
    let best = '0'.repeat(DIGITS);
    let found: string | undefined;
    for (const line of this.#lines) {
      const start = line.slice(0, DIGITS);
      if (start <= best || start > wanted) continue;
      best = start;
      found = line;
    }
    return found?.slice(DIGITS + 3).split(/\s/, 1)[0];
  }
}
