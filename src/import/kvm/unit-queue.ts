/** Units with a view ahead: what the guest did may show only at a later exit. */

import type { Unit } from './exit-units.ts';

/** Units looked at ahead, at most. */
const MAXIMUM_AHEAD = 256;

export class UnitQueue {
  private readonly source: AsyncIterator<Unit>;
  private readonly ahead: Unit[] = [];

  constructor(source: AsyncIterable<Unit>) {
    this.source = source[Symbol.asyncIterator]();
  }

  async take(): Promise<Unit | undefined> {
    const kept = this.ahead.shift();
    if (kept !== undefined) return kept;
    const { done, value } = await this.source.next();
    return done === true ? undefined : value;
  }

  /** The units to come, which stay in the queue; reading stops where the view ends. */
  async *following(): AsyncGenerator<Unit> {
    for (let i = 0; i < MAXIMUM_AHEAD; i++) {
      if (i === this.ahead.length) {
        const { done, value } = await this.source.next();
        if (done === true) return;
        this.ahead.push(value);
      }
      yield this.ahead[i]!;
    }
  }
}
