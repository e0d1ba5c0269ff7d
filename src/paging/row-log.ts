/**
 * What a step was seen to do, as observation rows in the order of happening.
 *
 * Walks append here and nowhere else; the replay engine compares these rows with the recorded ones and reports print
 * them. The array is reused from step to step: `count` goes back to 0, nothing is allocated.
 */

/** More rows than any walk can have: 5 levels x 5 nested levels, write-backs, checks and an outcome. */
const CAPACITY = 512;
/** Rows of one step at most: zapping all tables of a large guest is one step, too. */
const MAXIMUM = 1 << 24;

// V8 folds constants that a module keeps to itself; exported ones it loads at each use, hence two names for `push`.
const SIZE = 5;
const AT_OP = 0;
const AT_ADDRESS_LO = 1;
const AT_ADDRESS_HI = 2;
const AT_VALUE_LO = 3;
const AT_VALUE_HI = 4;

/** Elements per row of `RowLog.rows`, and what stands where in a row. */
export const ROW = SIZE;
export const ROW_OP = AT_OP;
export const ROW_ADDRESS_LO = AT_ADDRESS_LO;
export const ROW_ADDRESS_HI = AT_ADDRESS_HI;
export const ROW_VALUE_LO = AT_VALUE_LO;
export const ROW_VALUE_HI = AT_VALUE_HI;

export class RowLog {
  count = 0;
  /** `count` rows of `ROW` elements each; words and halves as signed numbers. */
  rows = new Int32Array(CAPACITY * SIZE);

  push(op: number, addressLo: number, addressHi: number, valueLo: number, valueHi: number): void {
    const { count } = this;
    const at = count * SIZE;
    if (at === this.rows.length) this.grow();
    const { rows } = this;
    rows[at + AT_VALUE_HI] = valueHi;
    rows[at + AT_VALUE_LO] = valueLo;
    rows[at + AT_ADDRESS_HI] = addressHi;
    rows[at + AT_ADDRESS_LO] = addressLo;
    rows[at + AT_OP] = op;
    this.count = count + 1;
  }

  private grow(): void {
    if (this.count >= MAXIMUM) throw new Error('one step produced more observations than any host has memory for');
    const larger = new Int32Array(this.rows.length * 2);
    larger.set(this.rows);
    this.rows = larger;
  }

  /** The word of row `index`. */
  op(index: number): number {
    return this.rows[index * SIZE + AT_OP]!;
  }
}
