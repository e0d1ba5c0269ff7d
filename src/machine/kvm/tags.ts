/**
 * Which of a processor's cached translations a flush means: the bare machine's TLB knows contexts by number, KVM flushes
 * by VPID, ASID or EP4TA. A flush that KVM forgets must show, so that none takes more than its own.
 */

import type { Contexts } from '../context.ts';
import type { Tlb } from '../tlb.ts';

interface Tag {
  readonly context: number;
  readonly space: number;
  readonly asid: number;
  readonly ep4ta: number;
}

/** Contexts remembered; with more of them everything cached goes. */
const MAXIMUM_TAGS = 256;

export class Tags {
  private readonly tlb: Tlb;
  private readonly byContext = new Map<number, Tag>();

  constructor(tlb: Tlb) {
    this.tlb = tlb;
  }

  /** The processor runs in this context from here on. */
  use({ context, space, asid, ep4ta }: Contexts): void {
    const known = this.byContext.get(context);
    if (known !== undefined && known.asid === asid && known.ep4ta === ep4ta) return;
    if (known === undefined && this.byContext.size === MAXIMUM_TAGS) {
      this.drop();
      this.byContext.clear();
    }
    this.byContext.set(context, { context, space, asid, ep4ta });
  }

  /** Everything. The contexts stay known: the processor goes on in the one that it is in. */
  drop(): void {
    this.tlb.clear();
  }

  /** Linear and combined translations of a VPID or ASID, whatever their PCID and EP4TA. */
  dropAsid(asid: number): void {
    this.dropWhere((tag) => tag.asid === asid);
  }

  /** Combined translations through one EPT root, whatever their VPID. */
  dropEp4ta(ep4ta: number): void {
    this.dropWhere((tag) => tag.ep4ta === ep4ta);
  }

  /** What a VPID or ASID has of one page, in any PCID. */
  dropPage(asid: number, lo: number, hi: number): void {
    const { tlb } = this;
    // Parts of a large page are not found by one address.
    if (tlb.fractured) {
      this.dropAsid(asid);
      return;
    }
    for (const tag of this.byContext.values()) {
      if (tag.asid === asid) tlb.dropPageOf(lo, hi, tag.context, tag.space);
    }
  }

  private dropWhere(which: (tag: Tag) => boolean): void {
    const tags = [...this.byContext.values()];
    const dropped = tags.filter(which);
    if (dropped.length === tags.length) {
      this.drop();
      return;
    }
    for (const { context, space } of dropped) {
      this.tlb.dropContext(context);
      // Global translations are the whole space's.
      this.tlb.dropContext(~space);
    }
  }
}
