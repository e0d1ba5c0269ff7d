/** What a machine does in each step as numbers, by which two runs are told apart without either being kept. */

import type { Machine } from '../machine/machine.ts';
import { ROW, type RowLog } from '../paging/row-log.ts';
import type { Watch } from '../replay/explain-watch.ts';

const FNV = 0x0100_0193;

function hashText(hash: number, text: string): number {
  let value = hash;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), FNV);
  return value;
}

function digestOfRows({ rows, count }: RowLog): number {
  let hash = 0x811c_9dc5 | 0;
  for (let at = 0; at < count * ROW; at++) hash = Math.imul(hash ^ rows[at]!, FNV);
  return hash;
}

/** The same whatever the order: what is only done sooner or later in a step parts nobody, if there is anything else. */
function digestOfSeen(watch: Watch | null): number {
  let sum = 0;
  if (watch === null) return sum;
  for (const { context, does, word } of watch.seen) {
    let hash = hashText(hashText(0x811c_9dc5 | 0, context), does);
    if (word !== undefined) hash = Math.imul(Math.imul(hash ^ word.lo, FNV) ^ word.hi, FNV);
    sum = (sum + hash) | 0;
  }
  return sum;
}

function digestOfOrder(watch: Watch | null): number {
  let hash = 0x811c_9dc5 | 0;
  if (watch === null) return hash;
  for (const { does } of watch.seen) hash = hashText(hash, does);
  return hash;
}

/** What two steps may differ in: rows; those and what is done; that and in which order. */
export type Depth = 'rows' | 'actions' | 'order';

/** Digests of the steps of one run: of rows and of all actions. */
export class Digests {
  private rows = new Int32Array(1024);
  private seen = new Int32Array(1024);
  private order = new Int32Array(1024);
  private first = 0;
  count = 0;

  begin(first: number): void {
    this.first = first;
    this.count = 0;
  }

  readonly take = (ordinal: number, watch: Watch | null, machine: Machine): void => {
    const at = ordinal - this.first;
    if (at !== this.count) return;
    if (at === this.rows.length) {
      this.rows = doubled(this.rows);
      this.seen = doubled(this.seen);
      this.order = doubled(this.order);
    }
    this.rows[at] = digestOfRows(machine.log);
    this.seen[at] = digestOfSeen(watch);
    this.order[at] = digestOfOrder(watch);
    this.count++;
  };

  /** Index of the first step that differs from the other's; -1. */
  firstDifference(other: Digests, depth: Depth): number {
    const both = Math.min(this.count, other.count);
    for (let at = 0; at < both; at++) {
      if (this.rows[at] !== other.rows[at]) return at;
      if (depth !== 'rows' && this.seen[at] !== other.seen[at]) return at;
      if (depth === 'order' && this.order[at] !== other.order[at]) return at;
    }
    return this.count === other.count ? -1 : both;
  }
}

function doubled(array: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(2 * array.length);
  larger.set(array);
  return larger;
}
