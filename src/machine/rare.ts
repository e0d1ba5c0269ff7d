/** The rare stimuli, which travel as messages: what they do to memory. */

import { Problem } from '../bits/problem.ts';
import { assertUnreachable } from '../bits/unreachable.ts';
import type { EntryFill, Stimulus } from '../trace/stimulus.ts';
import type { Memory } from './memory.ts';

/** Entries that all fills of a trace may write together: small stimuli must not cost hours. */
const MAXIMUM_FILLED = 1 << 26;

export class RareStimuli {
  private readonly memory: Memory;
  private filled = 0;

  constructor(memory: Memory) {
    this.memory = memory;
  }

  /** Throws E_LIMIT. */
  apply(stimulus: Stimulus): void {
    switch (stimulus.kind) {
      case 'page-image':
        this.memory.setPage(stimulus.address.lo, stimulus.address.hi & 0xf_ffff, stimulus.words);
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

  private fill(fill: EntryFill): void {
    this.filled += fill.count;
    if (this.filled > MAXIMUM_FILLED) {
      throw new Problem('E_LIMIT', `the trace fills more than ${MAXIMUM_FILLED} entries`, {}, 'check how it was made');
    }
    let { lo, hi } = fill.first;
    let address = fill.address.hi * 0x1_0000_0000 + fill.address.lo;
    for (let i = 0; i < fill.count; i++) {
      this.memory.store(address | 0, Math.floor(address / 0x1_0000_0000) & 0xf_ffff, lo, hi, fill.size);
      address += fill.size;
      const sum = lo + fill.increment.lo;
      lo = sum >>> 0;
      hi = (hi + fill.increment.hi + (sum > 0xffff_ffff ? 1 : 0)) >>> 0;
    }
  }
}
