/**
 * What a step was seen to do, as observation rows in the order of happening.
 *
 * Walks append here and nowhere else; the replay engine compares these rows with the recorded ones and reports print
 * them. The arrays are reused from step to step: `count` goes back to 0, nothing is allocated.
 */

/** More rows than any single step can have: 5 levels x 5 nested levels, write-backs, checks and an outcome. */
const CAPACITY = 512;

export class RowLog {
  count = 0;
  readonly op = new Uint32Array(CAPACITY);
  /** Two elements per row, low half first. */
  readonly address = new Uint32Array(2 * CAPACITY);
  readonly value = new Uint32Array(2 * CAPACITY);

  push(op: number, addressLo: number, addressHi: number, valueLo: number, valueHi: number): void {
    const n = this.count;
    if (n === CAPACITY) throw new Error('one step produced more observations than any walk can');
    this.op[n] = op;
    const at = n << 1;
    this.address[at] = addressLo;
    this.address[at + 1] = addressHi;
    this.value[at] = valueLo;
    this.value[at + 1] = valueHi;
    this.count = n + 1;
  }

  /** A row about byte `offset` of physical frame `frame`. */
  pushAt(op: number, frame: number, offset: number, valueLo: number, valueHi: number): void {
    this.push(op, (frame << 12) | offset, frame / 0x10_0000, valueLo, valueHi);
  }
}
