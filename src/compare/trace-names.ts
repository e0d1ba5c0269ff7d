/**
 * Host frames of two recordings: arbitrary on either side, so only what they stand for is compared.
 *
 * A page's frame is said by relation within its own side: whether it is the one that was requested for the guest frame,
 * the one that the guest frame had before. A table's frame has a name on the other side, bound at first sight. Nobody tells
 * when KVM gives a table back, so a name holds as long as neither side has zapped anything since it was last used.
 */

import type { TraceSide } from './trace-lanes.ts';

interface Bound {
  frame: number;
  /** Of either side, when the name was last used. */
  zapsA: number;
  zapsB: number;
}

/** Guest frames whose last host frame is remembered; then forgotten all together. */
const MAXIMUM_PAGES = 1 << 20;
const MAXIMUM_TABLES = 1 << 20;

export class TraceNames {
  private readonly bByA = new Map<number, Bound>();
  private readonly aByB = new Map<number, number>();
  private readonly zaps = { a: 0, b: 0 };
  private readonly pages = { a: new Map<number, number>(), b: new Map<number, number>() };

  /** A table went, or may have gone: names of tables may mean others from here on. */
  zapped(side: TraceSide): void {
    this.zaps[side]++;
  }

  /** Uses a name. Returns whether it is the one that both had; binds it in any case. */
  sameTable(a: number, b: number): boolean {
    const bound = this.bByA.get(a);
    const holder = this.aByB.get(b);
    const { a: zapsA, b: zapsB } = this.zaps;
    const same = bound?.frame === b || (bound === undefined && holder === undefined);
    const other = holder === undefined || holder === a ? undefined : this.bByA.get(holder);
    const lasting = (name: Bound | undefined): boolean =>
      name !== undefined && name.zapsA === zapsA && name.zapsB === zapsB;
    const wrong = !same && (lasting(bound) || lasting(other));
    if (bound?.frame === b) {
      bound.zapsA = zapsA;
      bound.zapsB = zapsB;
      return true;
    }
    if (bound !== undefined) this.aByB.delete(bound.frame);
    if (holder !== undefined) this.bByA.delete(holder);
    if (this.bByA.size >= MAXIMUM_TABLES) {
      this.bByA.clear();
      this.aByB.clear();
    }
    this.bByA.set(a, { frame: b, zapsA, zapsB });
    this.aByB.set(b, a);
    return !wrong;
  }

  /**
   * Takes note of the host frame that a page of the guest has now (`page`: its guest frame and size, as one number).
   * Returns whether it is the one that it had before, `undefined` if none is known.
   */
  samePage(side: TraceSide, page: number, frame: number): boolean | undefined {
    const pages = this.pages[side];
    const before = pages.get(page);
    if (pages.size >= MAXIMUM_PAGES) pages.clear();
    pages.set(page, frame);
    return before === undefined ? undefined : before === frame;
  }
}
