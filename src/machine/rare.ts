/** The rare stimuli, which travel as messages: what they do to memory. */

import { Problem } from '../bits/problem.ts';
import { assertUnreachable } from '../bits/unreachable.ts';
import type { EntryFill, PageImage, Stimulus } from '../trace/stimulus.ts';

/** The memory that stimuli change. Throws E_LIMIT. */
export interface StimulusTarget {
  store(addressLo: number, addressHi: number, valueLo: number, valueHi: number, size: number): void;
  setPage(lo: number, hi: number, contents: Uint32Array | null): void;
}

/** Entries that all fills of a trace may write together: small stimuli must not cost hours. */
const MAXIMUM_FILLED = 1 << 26;

export class RareStimuli {
  private readonly memory: StimulusTarget;
  private readonly beforePage: (lo: number, hi: number) => void;
  private filled = 0;

  /** `beforePage` is called for each page before it changes. */
  constructor(memory: StimulusTarget, beforePage: (lo: number, hi: number) => void = () => {}) {
    this.memory = memory;
    this.beforePage = beforePage;
  }

  /** Throws E_LIMIT. */
  apply(stimulus: Stimulus): void {
    switch (stimulus.kind) {
      case 'page-image':
        this.setPage(stimulus);
        break;
      case 'entry-fill':
        this.fill(stimulus);
        break;
      case 'note':
      // What a hypervisor or its host does: a processor without one has nothing to do with it.
      case 'memslot':
      case 'dirty-log':
      case 'notifier':
      case 'hypervisor':
        break;
      default:
        assertUnreachable(stimulus);
    }
  }

  private setPage({ address, words }: PageImage): void {
    const hi = address.hi & 0xf_ffff;
    this.beforePage(address.lo, hi);
    this.memory.setPage(address.lo, hi, words);
  }

  private fill(fill: EntryFill): void {
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
      if (now !== page) this.beforePage(address | 0, addressHi);
      page = now;
      this.memory.store(address | 0, addressHi, lo, hi, fill.size);
      address += fill.size;
      const sum = lo + fill.increment.lo;
      lo = sum >>> 0;
      hi = (hi + fill.increment.hi + (sum > 0xffff_ffff ? 1 : 0)) >>> 0;
    }
  }
}
