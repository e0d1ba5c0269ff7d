/** A set of cells that were reached, as results files keep it: bit n of byte n/8 is cell n. */

import { COVERAGE_CELLS, type CoverageCheck, type CoverageContext, checkOf } from './coverage-cells.ts';

export class CoverageSet {
  readonly bits: Uint8Array;
  /** Names of what was reached and is not in the list: bugs of whoever recorded, which tests look for. */
  readonly unlisted = new Set<string>();

  constructor(bits: Uint8Array = new Uint8Array((COVERAGE_CELLS.length + 7) >>> 3)) {
    this.bits = bits;
  }

  /** Cells in the list that `bits` is about. */
  get cells(): number {
    return COVERAGE_CELLS.length;
  }

  has(cell: number): boolean {
    return ((this.bits[cell >>> 3]! >>> (cell & 7)) & 1) !== 0;
  }

  reach(check: CoverageCheck, level: number, outcome: string): void {
    const cell = check.at(level, outcome);
    if (cell >= 0) this.bits[cell >>> 3]! |= 1 << (cell & 7);
    else if (this.unlisted.size < 1000) {
      const { context, check: name } = check.family;
      this.unlisted.add(`${context}/${name}/l${level}/${outcome}`);
    }
  }

  add(other: CoverageSet): void {
    other.bits.forEach((byte, i) => {
      this.bits[i]! |= byte;
    });
    for (const name of other.unlisted) this.unlisted.add(name);
  }

  get count(): number {
    let count = 0;
    for (let byte of this.bits) for (; byte !== 0; byte &= byte - 1) count++;
    return count;
  }
}

/** The checks of a context by name, looked up once each. */
export class Checks {
  private readonly context: CoverageContext;
  private readonly prefix: string;
  private readonly set: CoverageSet;
  private readonly found = new Map<string, CoverageCheck>();

  constructor(context: CoverageContext, set: CoverageSet, prefix = '') {
    this.context = context;
    this.set = set;
    this.prefix = prefix;
  }

  reach(name: string, outcome: string, level = 0): void {
    let check = this.found.get(name);
    if (check === undefined) {
      check = checkOf(this.context, this.prefix + name);
      this.found.set(name, check);
    }
    this.set.reach(check, level, outcome);
  }
}
