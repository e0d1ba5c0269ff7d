/** Columns with changes made to copies of them: rows of observations replaced, left out, added; a trace cut short. */

import { keptColumns, type StepColumns } from '../../src/trace/columns.ts';

/** The first steps only. */
export function firstSteps(columns: StepColumns, count: number): StepColumns {
  const rows = count === 0 ? 0 : columns.observationEnd[count - 1]!;
  return {
    ...columns,
    stepCount: count,
    observationCount: rows,
    op: columns.op.subarray(0, count),
    address: columns.address.subarray(0, 2 * count),
    operand: columns.operand.subarray(0, 2 * count),
    observationEnd: columns.observationEnd.subarray(0, count),
    observationOp: columns.observationOp.subarray(0, rows),
    observationAddress: columns.observationAddress.subarray(0, 2 * rows),
    observationValue: columns.observationValue.subarray(0, 2 * rows),
  };
}

/** A copy with each row of `rows` replaced by the rows that `edits` gives for it. */
export function withRows(columns: StepColumns, edits: ReadonlyMap<number, readonly number[]>): StepColumns {
  const order: number[] = [];
  const observationEnd = columns.observationEnd.slice();
  let row = 0;
  columns.observationEnd.forEach((end, step) => {
    for (; row < end; row++) order.push(...(edits.get(row) ?? [row]));
    observationEnd[step] = order.length;
  });
  const pairs = (column: Uint32Array): Uint32Array => {
    const out = new Uint32Array(2 * order.length);
    for (let to = 0; to < order.length; to++) {
      const from = order[to]!;
      out[2 * to] = column[2 * from]!;
      out[2 * to + 1] = column[2 * from + 1]!;
    }
    return out;
  };
  return {
    ...keptColumns(columns),
    observationCount: order.length,
    observationEnd,
    observationOp: Uint32Array.from(order, (from) => columns.observationOp[from]!),
    observationAddress: pairs(columns.observationAddress),
    observationValue: pairs(columns.observationValue),
  };
}

/** A copy, changed by `change`. */
export function changedColumns(columns: StepColumns, change: (copy: StepColumns) => void): StepColumns {
  const copy = keptColumns(columns);
  change(copy);
  return copy;
}
