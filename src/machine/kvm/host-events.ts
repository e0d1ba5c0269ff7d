/** What the host does to a VM: memslots, dirty logs, the MMU notifier, ioctls (facts/kvm-mmu.md §8.7, facts/kvm-6.1.md §9). */

import { KvmEvent } from '../../formats/kvm-event.ts';
import type { ShadowPages } from '../../mmu/pages.ts';
import { Request, type Vcpu } from '../../mmu/vcpu.ts';
import type { VmMmu } from '../../mmu/vm.ts';
import type { HypervisorCall, Memslot, Notifier } from '../../trace/stimulus.ts';
import type { HostMemory } from './host-memory.ts';

/** The VM's vCPUs: the one whose steps come, and all of them. */
export interface VmVcpus {
  current(): Vcpu;
  all(): readonly Vcpu[];
}

export class HostEvents {
  private readonly host: HostMemory;
  private readonly pages: ShadowPages;
  private readonly vm: VmMmu;
  private readonly vcpus: VmVcpus;

  /** Makes itself the listener of the host's notifier. */
  constructor(host: HostMemory, pages: ShadowPages, vm: VmMmu, vcpus: VmVcpus) {
    this.host = host;
    this.pages = pages;
    this.vm = vm;
    this.vcpus = vcpus;
    host.onNotifier = (what, start, end) => this.notified(what, start, end);
  }

  memslot(change: Memslot): void {
    const { slotTable } = this.host;
    const wasLogged = slotTable.byId(change.slot, change.addressSpace)?.dirtyLog === true;
    const slot = slotTable.update(change, {
      invalidated: () => this.vm.zapAllFast(),
      swapped: () => {
        if (this.host.generation === 0) this.vm.zapAllFast();
      },
    });
    if (change.what === 'delete') this.pages.slotState.forget(slot);
    if (change.what === 'create' || change.what === 'delete') this.vm.slotsChanged(slotTable.totalPages);
    if (change.what !== 'flags' || slot.dirtyLog === wasLogged) return;
    if (slot.dirtyLog) this.vm.startDirtyLog(slot);
    else this.vm.stopDirtyLog(slot);
  }

  dirtyLog(id: number): void {
    const slot = this.host.slotTable.byId(id, 0);
    if (slot === undefined) return;
    this.vm.collectHardwareDirty(slot);
    for (const { base, lo, hi } of slot.takeDirty()) this.vm.protectReported(slot, base, lo, hi);
    this.pages.flushRemoteTlbs();
  }

  notifier({ what, start, end }: Notifier): void {
    const from = start.hi * 0x1_0000_0000 + start.lo;
    const to = end.hi * 0x1_0000_0000 + end.lo;
    this.host.notify(what, from, to);
    if (what !== 'age') {
      if (what === 'test-age') this.pages.trace.notifier(KvmEvent.TEST_AGE_HVA, from, to);
      return;
    }
    this.pages.trace.notifier(KvmEvent.AGE_HVA, from, to);
    for (const { slot, first, end: last } of this.host.slotTable.overlaps(from, to)) {
      this.vm.age(slot.addressSpace, first, last);
    }
  }

  /**
   * The host's memory management takes away, or replaces, what is under guest frames. 7.3 is told of the first only,
   * which a host does before the second (facts/kvm-mmu.md §8.7, §9.2).
   */
  private notified(what: 'unmap' | 'set-pte', start: number, end: number): void {
    const unmap = what === 'unmap';
    if (!unmap && this.pages.config.profile !== '6.1') return;
    if (unmap) this.pages.trace.notifier(KvmEvent.UNMAP_HVA_RANGE, start, end);
    else this.pages.trace.notifier(KvmEvent.SET_SPTE_HVA, start, end);
    for (const { slot, first, end: last } of this.host.slotTable.overlaps(start, end)) {
      if (unmap) this.vm.unmap(slot.addressSpace, first, last);
      else if (this.host.lookUp(slot, first) === 0) this.vm.setPte(slot.addressSpace, first, this.host.pfn, true);
    }
  }

  hypervisorCall(what: HypervisorCall['what']): void {
    const vcpu = this.vcpus.current();
    switch (what) {
      case 'zap-all':
        this.vm.zapAllFast();
        break;
      case 'destroy':
        this.vm.zapAll();
        for (const each of this.vcpus.all()) each.unload();
        break;
      case 'set-cpuid':
        vcpu.afterSetCpuid(vcpu.features);
        break;
      case 'set-sregs':
        vcpu.resetContext();
        vcpu.request(Request.TLB_FLUSH_GUEST);
    }
  }
}
