/** The fields of one binary record, found with the format that the recording kernel gave. */

import { Problem } from '../../../bits/problem.ts';
import type { EventFields } from '../event-fields.ts';
import { textOf } from './byte-source.ts';
import type { EventFormat, FieldFormat } from './event-format.ts';
import type { SymbolTable } from './print-format.ts';

/** Used again for every record of its event. */
export class BinaryFields implements EventFields {
  readonly format: EventFormat;
  #view: DataView = new DataView(new ArrayBuffer(0));
  #start = 0;
  #length = 0;
  readonly #tables = new Map<string, SymbolTable | undefined>();

  constructor(format: EventFormat) {
    this.format = format;
  }

  /** Now these are the fields of the record `view[start..start + length)`. */
  at(view: DataView, start: number, length: number): this {
    this.#view = view;
    this.#start = start;
    this.#length = length;
    return this;
  }

  has(name: string): boolean {
    return this.format.field(name) !== undefined;
  }

  number(name: string): number {
    const field = this.#field(name);
    const at = this.#start + field.offset;
    switch (field.size) {
      case 1:
        return field.signed ? this.#view.getInt8(at) : this.#view.getUint8(at);
      case 2:
        return field.signed ? this.#view.getInt16(at, true) : this.#view.getUint16(at, true);
      case 4:
        return field.signed ? this.#view.getInt32(at, true) : this.#view.getUint32(at, true);
      default:
        return Number(field.signed ? BigInt.asIntN(64, this.big(name)) : this.big(name));
    }
  }

  big(name: string): bigint {
    const field = this.#field(name);
    if (field.size === 8) return this.#view.getBigUint64(this.#start + field.offset, true);
    if (field.size === 1 || field.size === 2 || field.size === 4) return BigInt.asUintN(64, BigInt(this.number(name)));
    throw new Problem('E_IMPORT', `${this.format.name}: the field ${name} has ${field.size} bytes`);
  }

  bytes(name: string, count: number): Uint8Array {
    const field = this.#field(name);
    if (count > field.size) throw new Problem('E_IMPORT', `${this.format.name}: ${name} is longer than its field`);
    return this.#slice(field.offset, count);
  }

  /** Text up to a NUL: an array, or one whose place the field holds. */
  text(name: string): string {
    const field = this.#field(name);
    let { offset } = field;
    let length = field.size === 0 ? this.#length - offset : field.size;
    if (field.located) {
      const place = this.#view.getUint32(this.#start + offset, true);
      offset = place & 0xffff;
      length = place >>> 16;
      if (offset + length > this.#length) throw this.#tooShort(name);
    }
    const bytes = this.#slice(offset, length);
    const end = bytes.indexOf(0);
    return textOf(end === -1 ? bytes : bytes.subarray(0, end));
  }

  symbol(among: string, value: bigint): string {
    return this.#table(among)?.get(value) ?? hexadecimal(value);
  }

  flags(among: string, value: bigint, between: string): string {
    const names: string[] = [];
    let rest = value;
    for (const [mask, name] of this.#table(among) ?? []) {
      if (mask === 0n || (rest & mask) !== mask) continue;
      names.push(name);
      rest &= ~mask;
    }
    if (rest !== 0n) names.push(hexadecimal(rest));
    return names.join(between);
  }

  comparisons(name: string): readonly number[] {
    return this.format.comparisons(name);
  }

  /** The table that has the name in it. */
  #table(among: string): SymbolTable | undefined {
    if (!this.#tables.has(among)) {
      const table = this.format.tables.find((candidate) => [...candidate.values()].includes(among));
      this.#tables.set(among, table);
    }
    return this.#tables.get(among);
  }

  #slice(offset: number, length: number): Uint8Array {
    return new Uint8Array(this.#view.buffer, this.#view.byteOffset + this.#start + offset, length);
  }

  /** The field, which lies within the record. */
  #field(name: string): FieldFormat {
    const field = this.format.field(name);
    if (field === undefined) {
      throw new Problem('E_IMPORT', `the recording kernel's ${this.format.name} has no field ${name}`);
    }
    if (field.offset + field.size > this.#length) throw this.#tooShort(name);
    return field;
  }

  #tooShort(name: string): Problem {
    return new Problem('E_IMPORT', `${this.format.name}: the record ends before its field ${name}`);
  }
}

function hexadecimal(value: bigint): string {
  return `0x${value.toString(16)}`;
}
