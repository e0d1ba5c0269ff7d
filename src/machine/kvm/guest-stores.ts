/** Stores into guest memory, whoever makes them, and what KVM's tables hear of them. */

import { CR4_PAE, Reg } from '../../formats/registers.ts';
import { STORE_EMULATED, STORE_SIZE_MASK, STORE_SIZE_SHIFT } from '../../formats/step.ts';
import { emulatedWrite } from '../../mmu/emulated-write.ts';
import type { ShadowPages } from '../../mmu/pages.ts';
import { frameOf } from '../../mmu/spte.ts';
import type { Vcpu } from '../../mmu/vcpu.ts';
import type { EntryFill, PageImage } from '../../trace/stimulus.ts';
import { RareStimuli } from '../rare.ts';
import type { HostMemory } from './host-memory.ts';

export class GuestStores {
  /** Guest frames that were written by others than guest and KVM: tables there may differ from their shadows. */
  readonly unnoticed = new Set<number>();
  private readonly host: HostMemory;
  /** Whose stores they are. */
  vcpu: Vcpu;
  private readonly pages: ShadowPages;
  private readonly rare: RareStimuli;
  /** The trace says itself what came to KVM because of a store. */
  private readonly recorded: boolean;
  /** Somebody wants to know `unnoticed`. */
  private readonly watched: boolean;

  /** `vcpu`: the first of the VM's. */
  constructor(host: HostMemory, vcpu: Vcpu, options: { readonly recorded: boolean; readonly watched: boolean }) {
    this.host = host;
    this.vcpu = vcpu;
    this.pages = vcpu.pages;
    this.rare = new RareStimuli(host, (lo, hi) => this.beforePage(lo, hi));
    this.recorded = options.recorded;
    this.watched = options.watched;
  }

  /** Where no table is shadowed, or it is unsync, KVM will read the table before it relies on it. */
  storedUnnoticed(gfn: number): void {
    if (this.watched && this.pages.shadowing(gfn).some((sp) => !sp.unsync)) this.unnoticed.add(gfn);
  }

  store(op: number, lo: number, hi: number, valueLo: number, valueHi: number): void {
    const size = (op >>> STORE_SIZE_SHIFT) & STORE_SIZE_MASK;
    if ((lo & 0xfff) + size > 0x1000) {
      this.storeAcrossPages(op, lo, hi, valueLo, valueHi);
      return;
    }
    const emulated = (op & STORE_EMULATED) !== 0;
    if (!this.recorded) this.guestStores(lo, hi, size, valueLo, valueHi);
    else {
      this.host.store(lo, hi, valueLo, valueHi, size);
      if (emulated) this.tellWrite(lo, hi, size);
      else this.storedUnnoticed(frameOf(lo, hi));
    }
  }

  /** Each page's tables hear of their own part. */
  private storeAcrossPages(op: number, lo: number, hi: number, valueLo: number, valueHi: number): void {
    const size = (op >>> STORE_SIZE_SHIFT) & STORE_SIZE_MASK;
    const byteStore = (op & ~(STORE_SIZE_MASK << STORE_SIZE_SHIFT)) | (1 << STORE_SIZE_SHIFT);
    for (let i = 0; i < size; i++) {
      const address = (lo >>> 0) + i;
      const byte = (i < 4 ? valueLo >>> (8 * i) : valueHi >>> (8 * (i - 4))) & 0xff;
      this.store(byteStore, address | 0, (address > 0xffff_ffff ? hi + 1 : hi) & 0xf_ffff, byte, 0);
    }
  }

  /** KVM's dirty log and its tables hear of a write that it made itself. */
  tellWrite(lo: number, hi: number, size: number): void {
    const pae = (this.vcpu.registers[2 * Reg.CR4]! & CR4_PAE) !== 0;
    const slot = this.host.slotOf(frameOf(lo, hi), this.vcpu.addressSpace);
    if (slot !== null && !slot.readOnly) this.host.markDirty(slot, frameOf(lo, hi));
    emulatedWrite(this.pages, frameOf(lo, hi), lo & 0xfff, size, pae);
  }

  /**
   * A store that the trace of a bare processor has: whoever made it, no table that shadows the place may go on as if
   * nothing had happened. Level-1 tables become unsync as by a guest's write, others hear of it as of an emulated one.
   */
  private guestStores(lo: number, hi: number, size: number, valueLo: number, valueHi: number): void {
    const gfn = frameOf(lo, hi);
    const free = this.pages.tryToUnsync(gfn, this.vcpu.addressSpace, true, false);
    this.host.store(lo, hi, valueLo, valueHi, size);
    if (!free) this.tellWrite(lo, hi, size);
  }

  private beforePage(lo: number, hi: number): void {
    const gfn = frameOf(lo, hi);
    if (this.recorded) {
      this.storedUnnoticed(gfn);
      return;
    }
    if (!this.pages.tryToUnsync(gfn, this.vcpu.addressSpace, true, false)) this.pages.unprotect(gfn);
  }

  clearPage(lo: number, hi: number): void {
    this.beforePage(lo, hi);
    this.host.setPage(lo, hi, null);
  }

  /** Pages and runs of entries that travel as messages. */
  apply(stimulus: PageImage | EntryFill): void {
    this.rare.apply(stimulus);
  }
}
