/** What became of every event of a trace: no event is passed over without being counted under one of these. */

export type EventUse =
  /** A row that a replay has to predict. */
  | 'observation'
  /** It made a step. */
  | 'stimulus'
  /** The host's memory management decided it. */
  | 'host input'
  /** It tells how to read its neighbours: a mark, the emulator's beginning, the end of a KVM_RUN. */
  | 'context'
  /** Of no concern to memory virtualization (recordings/README.md, "not ours"). */
  | 'not ours'
  /** Left out; the reason is in `omissions`. */
  | 'omitted';

/** Events that say nothing of paging, by the kernel's name. */
const NOT_OURS: ReadonlySet<string> = new Set([
  'kvm_apicv_inhibit_changed',
  'kvm_cpuid',
  'kvm_inj_virq',
  'kvm_nested_intr_vmexit',
  'kvm_skinit',
  'kvm_msr',
  'kvm_pio',
  'kvm_track_tsc',
  'kvm_update_master_clock',
  'kvm_write_tsc_offset',
  'kvm_halt_poll_ns',
  'kvm_vcpu_wakeup',
  'kvm_ple_window_update',
  'kvm_pvclock_update',
  'kvm_apic',
  'kvm_apic_accept_irq',
  'kvm_apic_ipi',
  'kvm_eoi',
  'kvm_pv_eoi',
  'kvm_msi_set_irq',
  'kvm_set_irq',
  'kvm_ack_irq',
  'kvm_ioapic_set_irq',
  'kvm_pic_set_irq',
  'kvm_hv_hypercall',
  'kvm_hypercall',
  'kvm_wait_lapic_expire',
  'kvm_dirty_ring_push',
  'kvm_dirty_ring_reset',
  'kvm_dirty_ring_exit',
]);

export class EventReceipt {
  /** Counts by event name and use. */
  readonly uses = new Map<string, Map<EventUse, number>>();
  /** What was left out or had to be concluded, with counts. */
  readonly omissions = new Map<string, number>();

  count(event: string, use: EventUse): void {
    const uses = this.uses.get(event) ?? new Map<EventUse, number>();
    this.uses.set(event, uses.set(use, (uses.get(use) ?? 0) + 1));
  }

  /** An event left out, for a reason. */
  omit(event: string, reason: string): void {
    this.count(event, 'omitted');
    this.note(`${event}: ${reason}`);
  }

  /** An event that no rule of the importer knows. */
  other(event: string): void {
    if (NOT_OURS.has(event)) this.count(event, 'not ours');
    else if (event.startsWith('kvm_nested_')) this.omit(event, 'nested event');
    else this.omit(event, 'unknown event');
  }

  /** Takes out what was put in: exits and entries that the trace does not have; they are notes. */
  dropPutIn(names: ReadonlySet<string>): void {
    for (const name of ['kvm_entry', 'kvm_exit']) {
      const uses = this.uses.get(name);
      if (uses === undefined || names.has(name)) continue;
      this.uses.delete(name);
      this.note(
        `${name} concluded`,
        [...uses.values()].reduce((sum, count) => sum + count, 0),
      );
    }
  }

  /** Something left out or concluded that is no event. */
  note(what: string, count = 1): void {
    this.omissions.set(what, (this.omissions.get(what) ?? 0) + count);
  }

  /** Events counted. */
  get total(): number {
    let sum = 0;
    for (const uses of this.uses.values()) for (const count of uses.values()) sum += count;
    return sum;
  }
}
