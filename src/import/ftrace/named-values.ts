/**
 * Fields as libtraceevent (trace-cmd, perf) writes them when it does not understand an event's print format:
 * `[FAILED TO PARSE] mmu_valid_gen=0 gfn=256 role=14213`, numbers decimal, pointers hexadecimal with `0x`.
 */

import { Problem } from '../../bits/problem.ts';
import type { Cursor } from './cursor.ts';
import type { EventFields } from './event-fields.ts';

export const UNPARSED = '[FAILED TO PARSE]';

export class NamedValues implements EventFields {
  readonly #values = new Map<string, bigint>();

  constructor(cursor: Cursor) {
    for (const pair of cursor.text.slice(cursor.at).split(' ')) {
      const equals = pair.indexOf('=');
      if (pair === '') continue;
      const value = pair.slice(equals + 1);
      if (equals <= 0 || !/^-?\d{1,20}$|^0x[\da-f]{1,16}$/i.test(value)) {
        throw new Problem('E_IMPORT', `no field of an event: ${JSON.stringify(pair.slice(0, 40))}`);
      }
      this.#values.set(pair.slice(0, equals), BigInt(value));
    }
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  number(name: string): number {
    return Number(this.#value(name));
  }

  big(name: string): bigint {
    return BigInt.asUintN(64, this.#value(name));
  }

  bytes(name: string, _count: number): Uint8Array {
    return this.#unknown(name);
  }

  symbol(_among: string, _value: bigint): string {
    return this.#unknown('names');
  }

  flags(_among: string, _value: bigint, _between: string): string {
    return this.#unknown('names');
  }

  comparisons(name: string): readonly number[] {
    return this.#unknown(name);
  }

  #value(name: string): bigint {
    const value = this.#values.get(name);
    if (value === undefined) throw new Problem('E_IMPORT', `the event has no field ${name}`);
    return value;
  }

  #unknown(what: string): never {
    throw new Problem('E_IMPORT', `an event that libtraceevent did not understand lacks its ${what}`);
  }
}
