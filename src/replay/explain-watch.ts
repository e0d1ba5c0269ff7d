/**
 * Watches a machine with an emulated KVM from outside while it applies a step: what KVM tells the processor, asks of itself,
 * does to its roots and tables, remembers and injects, in order. No tracepoint shows most of it. The machine is as it ever
 * is; its methods are covered (`cover.ts`), part by part (`explain-watch-*.ts`), by ones that note the call.
 */

import type { KvmMachine } from '../machine/kvm/machine.ts';
import type { Vcpu } from '../mmu/vcpu.ts';
import { Notes, type Seen, type WalkRow } from './explain-seen.ts';
import { watchMmu, watchWalk } from './explain-watch-mmu.ts';
import { type ProcessorListener, watchProcessor } from './explain-watch-processor.ts';
import { watchMemory, watchPages } from './explain-watch-tables.ts';
import { watchHandler, watchMmioCache, watchVcpu } from './explain-watch-vcpu.ts';

export class Watch {
  readonly machine: KvmMachine;
  /** What was done in the step so far. */
  readonly seen: readonly Seen[];
  readonly walkRows: readonly WalkRow[];
  readonly addresses: Readonly<Notes['addresses']>;
  readonly before: ReadonlyMap<number, readonly [lo: number, hi: number]>;
  private readonly notes: Notes;
  private listener: ProcessorListener | null = null;
  private readonly known = new WeakSet<object>();

  constructor(machine: KvmMachine) {
    this.machine = machine;
    const notes = new Notes(machine);
    this.notes = notes;
    this.seen = notes.seen;
    this.walkRows = notes.walkRows;
    this.addresses = notes.addresses;
    this.before = notes.before;
    watchPages(notes);
    this.attach();
  }

  /** Notes what happens from here on, a new step. `listener`: of a step that is looked at closely, not only compared. */
  begin(listener: ProcessorListener | null): void {
    this.attach();
    this.listener = listener;
    this.notes.isDetailed = listener !== null;
    this.notes.begin();
  }

  end(): void {
    this.notes.isOn = false;
    this.attach();
  }

  /** Watches the vCPU whose steps come, if it is new. */
  private attach(): void {
    const { vcpu } = this.machine;
    if (this.isNew(vcpu)) this.watch(vcpu);
  }

  private isNew(part: object): boolean {
    if (this.known.has(part)) return false;
    this.known.add(part);
    return true;
  }

  private watch(vcpu: Vcpu): void {
    const { notes } = this;
    const { processor, handler } = this.machine;
    watchProcessor(notes, processor, vcpu, () => this.listener);
    watchVcpu(notes, vcpu);
    watchMmu(notes, vcpu, vcpu.rootMmu);
    watchMmu(notes, vcpu, vcpu.guestMmu);
    for (const walk of new Set([...vcpu.wiring.cpuWalks, vcpu.cpuWalk, vcpu.tdpWalk])) watchWalk(notes, vcpu, walk);
    watchMmioCache(notes, vcpu.mmioCache);
    watchHandler(notes, handler, vcpu);
    if (this.isNew(vcpu.memory)) watchMemory(notes, vcpu.memory);
  }
}
