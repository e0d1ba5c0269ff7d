/**
 * Two traces side by side, vCPU by vCPU, in bounded memory: steps wait in a window on either side; what is certain of
 * its place beside the other side leaves it.
 */

import type { Pair } from '../replay/sequence.ts';
import { alignSteps } from './trace-align.ts';
import type { TraceStep } from './trace-steps.ts';

export type TraceSide = 'a' | 'b';

/** Steps of one vCPU that are looked at together. Insertions of up to half of it are resynchronised for certain. */
const WINDOW = 0x4000;
/** Steps of a side that wait, of all vCPUs, before those of a vCPU are taken whose other side does not come. */
const MAXIMUM_WAITING = 4 * WINDOW;

/** What leaves the window: steps side by side, or one alone. `lane`: the vCPU. */
export type Paired = (a: TraceStep | undefined, b: TraceStep | undefined, lane: number) => void;

interface Lane {
  readonly a: TraceStep[];
  readonly b: TraceStep[];
}

export class Lanes {
  private readonly lanes = new Map<number, Lane>();
  private readonly waiting = { a: 0, b: 0 };
  private readonly window: number;
  private readonly paired: Paired;

  constructor(paired: Paired, window = WINDOW) {
    this.paired = paired;
    this.window = window;
  }

  add(side: TraceSide, step: TraceStep): void {
    let lane = this.lanes.get(step.vcpu);
    if (lane === undefined) {
      lane = { a: [], b: [] };
      this.lanes.set(step.vcpu, lane);
    }
    lane[side].push(step);
    this.waiting[side]++;
  }

  /** Whether a side should be read on before `advance`. */
  wants(side: TraceSide): boolean {
    if (this.waiting[side] >= Math.min(MAXIMUM_WAITING, 4 * this.window)) return false;
    const lanes = [...this.lanes.values()];
    // No vCPU has a window full of this side, or one has it on the other side only.
    return (
      lanes.every((lane) => lane[side].length < this.window) ||
      lanes.some((lane) => lane[side].length < this.window && lane[side === 'a' ? 'b' : 'a'].length >= this.window)
    );
  }

  /** Lets go what is certain. `ended`: sides of which nothing more comes; with both, everything goes. */
  advance(ended: Readonly<Record<TraceSide, boolean>>): void {
    const length = ({ a, b }: Lane): number => Math.max(a.length, b.length);
    const longest = Math.max(0, ...[...this.lanes.values()].map(length));
    for (const [number, lane] of this.lanes) {
      if (ended.a && ended.b) this.leave(number, lane, alignSteps(lane.a, lane.b));
      // Many vCPUs may wait without a full window.
      else if (length(lane) >= Math.min(this.window, longest)) this.some(number, lane, ended);
    }
  }

  /** Lets go up to the last certain pair in the first half of either side; half of everything if there is none. */
  private some(number: number, lane: Lane, ended: Readonly<Record<TraceSide, boolean>>): void {
    const pairs = alignSteps(lane.a, lane.b);
    const halfA = ended.a ? lane.a.length : lane.a.length / 2;
    const halfB = ended.b ? lane.b.length : lane.b.length / 2;
    let [count, a, b] = [0, 0, 0];
    pairs.forEach(([x, y], i) => {
      if (x >= 0) a = x;
      if (y >= 0) b = y;
      if (x >= 0 && y >= 0 && a <= halfA && b <= halfB && lane.a[x]!.key === lane.b[y]!.key) count = i + 1;
    });
    if (count === 0) count = pairs.findIndex(([x, y]) => x >= this.window / 2 || y >= this.window / 2);
    this.leave(number, lane, count < 0 ? pairs : pairs.slice(0, count));
  }

  private leave(number: number, lane: Lane, pairs: readonly Pair[]): void {
    let [a, b] = [0, 0];
    for (const [x, y] of pairs) {
      if (x >= 0) a = x + 1;
      if (y >= 0) b = y + 1;
      this.paired(lane.a[x], lane.b[y], number);
    }
    lane.a.splice(0, a);
    lane.b.splice(0, b);
    this.waiting.a -= a;
    this.waiting.b -= b;
  }
}
