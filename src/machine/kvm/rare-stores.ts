/** Pages and runs of entries that travel as messages, put into guest memory. */

import { Problem } from '../../bits/problem.ts';
import type { EntryFill, PageImage } from '../../trace/stimulus.ts';
import type { HostMemory } from './host-memory.ts';

/** Entries that all fills of a trace may write together: small stimuli must not cost hours. */
const MAXIMUM_FILLED = 1 << 26;

export class RareStores {
  private readonly host: HostMemory;
  private filled = 0;

  constructor(host: HostMemory) {
    this.host = host;
  }

  /** `before` is called for each page before it changes. Throws E_LIMIT. */
  apply(stimulus: PageImage | EntryFill, before: (lo: number, hi: number) => void): void {
    if (stimulus.kind === 'entry-fill') {
      this.fill(stimulus, before);
      return;
    }
    const { lo, hi } = stimulus.address;
    before(lo, hi & 0xf_ffff);
    this.host.setPage(lo, hi & 0xf_ffff, stimulus.words);
  }

  private fill(fill: EntryFill, before: (lo: number, hi: number) => void): void {
    this.filled += fill.count;
    if (this.filled > MAXIMUM_FILLED) {
      throw new Problem('E_LIMIT', `the trace fills more than ${MAXIMUM_FILLED} entries`, {}, 'check how it was made');
    }
    let { lo, hi } = fill.first;
    let address = fill.address.hi * 0x1_0000_0000 + fill.address.lo;
    let page = -1;
    for (let i = 0; i < fill.count; i++) {
      const addressHi = Math.floor(address / 0x1_0000_0000) & 0xf_ffff;
      const now = Math.floor(address / 0x1000);
      if (now !== page) before(address | 0, addressHi);
      page = now;
      this.host.store(address | 0, addressHi, lo, hi, fill.size);
      address += fill.size;
      const sum = lo + fill.increment.lo;
      lo = sum >>> 0;
      hi = (hi + fill.increment.hi + (sum > 0xffff_ffff ? 1 : 0)) >>> 0;
    }
  }
}
