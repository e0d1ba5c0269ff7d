/**
 * What a step was seen to do, as observation rows in the order of happening.
 *
 * Walks append here and nowhere else; the replay engine compares these rows with the recorded ones and reports print
 * them. The array is reused from step to step: `count` goes back to 0, nothing is allocated.
 */

/** More rows than any single step can have: 5 levels x 5 nested levels, write-backs, checks and an outcome. */
const CAPACITY = 512;

/** Elements per row of `RowLog.rows`, and what stands where in a row. */
export const ROW = 5;
export const ROW_OP = 0;
export const ROW_ADDRESS_LO = 1;
export const ROW_ADDRESS_HI = 2;
export const ROW_VALUE_LO = 3;
export const ROW_VALUE_HI = 4;

export class RowLog {
  count = 0;
  /** `count` rows of ROW elements each; words and halves as signed numbers. */
  readonly rows = new Int32Array(CAPACITY * ROW);

  push(op: number, addressLo: number, addressHi: number, valueLo: number, valueHi: number): void {
    const { rows, count } = this;
    if (count === CAPACITY) throw new Error('one step produced more observations than any walk can');
    const at = count * ROW;
    rows[at + ROW_VALUE_HI] = valueHi;
    rows[at + ROW_VALUE_LO] = valueLo;
    rows[at + ROW_ADDRESS_HI] = addressHi;
    rows[at + ROW_ADDRESS_LO] = addressLo;
    rows[at + ROW_OP] = op;
    this.count = count + 1;
  }

  /** The word of row `index`. */
  op(index: number): number {
    return this.rows[index * ROW + ROW_OP]!;
  }
}
