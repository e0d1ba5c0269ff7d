/** What the importer itself learns from events that are rows: of the guest's tables, of the host's pages, of KVM. */

import type { TraceEvent } from '../ftrace/event.ts';
import type { Conclusions } from './conclusions.ts';
import type { Seen } from './host-config.ts';
import { isEptMmio, mmioFrame } from './mmio-spte.ts';
import type { Parts } from './parts.ts';
import { Role } from './role-bits.ts';

/** An SPTE that the host lets KVM make writable: bit 57 of EPT entries, bit 9 of others (facts/kvm-6.1.md §0). */
const HOST_WRITABLE_EPT = 1n << 57n;
const HOST_WRITABLE = 1n << 9n;
const ALL_BITS = 0xffff_ffff;
/** Pfns with bit 63 set are errors: no slot, no page. */
const ERROR_PFN = 1n << 63n;

export class Watcher {
  private readonly parts: Parts;
  private readonly seen: Seen;
  private readonly concluded: Conclusions | undefined;
  private readonly hostWritable: bigint;

  /** `seen` is filled in; `concluded`: of a stranger's trace. */
  constructor(parts: Parts, seen: Seen, concluded: Conclusions | undefined) {
    this.parts = parts;
    this.seen = seen;
    this.concluded = concluded;
    this.hostWritable = parts.kvm.tdp && parts.kvm.intel ? HOST_WRITABLE_EPT : HOST_WRITABLE;
  }

  watch(event: TraceEvent): void {
    const { kvm, receipt, steps, tables } = this.parts;
    const { walk, current } = steps;
    switch (event.name) {
      case 'kvm_mmu_paging_element':
        if (walk === undefined || current === undefined) return;
        this.concluded?.mode(walk, event.level, current);
        tables.element(walk, event.level, event.pte, current);
        return;
      case 'kvm_mmu_set_accessed_bit':
        tables.bitsSet(walk, event.gpa, false);
        return;
      case 'kvm_mmu_set_dirty_bit':
        tables.bitsSet(walk, event.gpa, true);
        return;
      case 'kvm_mmu_walker_error':
        this.parts.now.failed = current;
        if (walk === undefined) return;
        walk.failed = true;
        walk.error = event.pferr;
        return;
      case 'kvm_mmu_spte_requested': {
        const shown = event.pfn < ERROR_PFN ? steps.showing() : undefined;
        if (shown !== undefined) shown.requested ??= { gfn: event.gfn, level: event.level };
        return;
      }
      case 'kvm_mmu_set_spte': {
        const hostWritable = (event.spte & this.hostWritable) !== 0n;
        steps.showing()?.sets.push({ gfn: event.gfn, level: event.level, hostWritable });
        return;
      }
      case 'kvm_mmu_get_page':
        if (kvm.tdp) this.seen.directRootLevel ??= event.role & Role.LEVEL;
        if (event.roleMask !== ALL_BITS) receipt.note('role word of which the text tells a part');
        this.concluded?.pageObtained(event);
        return;
      case 'mark_mmio_spte':
        this.concluded?.generation(event.gen, event.position);
        return;
      case 'check_mmio_spte':
        this.concluded?.generation(event.kvmGen, event.position);
        this.seen.mmio ??= { spte: event.spte, gfn: mmioFrame(event.spte) };
        return;
      case 'kvm_tdp_mmu_spte_changed':
        this.seen.tdpMmu = true;
        if (isEptMmio(event.newSpte)) this.seen.mmio ??= { spte: event.newSpte, gfn: event.gfn };
        return;
    }
  }
}
