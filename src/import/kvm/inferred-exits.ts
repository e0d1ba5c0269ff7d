/**
 * A trace without exits and entries gets some, so that it can be read like others: where the MMU's events show that a
 * fault was handled, an exit and the fault come before them, and an entry before the exit. What is put in is marked, is
 * no observation, and has no more bits than what follows tells (facts/kvm-6.1.md §4).
 */

import type { TraceEvent } from '../ftrace/event.ts';
import { Role } from './role-bits.ts';
import type { Survey } from './survey.ts';

const PFEC_P = 1n;
const PFEC_W = 2n;
const PFEC_RSVD = 8n;
const PFEC_ACCESS = 0x16n;
/** Rights of a leaf SPTE: bit 1 is W in both formats. */
const SPTE_W = 2n;
/** Events looked ahead at for what a fault came to. */
const MAXIMUM_AHEAD = 64;

/** Events that were put in: they are no part of the recording. */
export type PutIn = WeakSet<TraceEvent>;

export async function* withExits(
  events: AsyncIterable<TraceEvent> | Iterable<TraceEvent>,
  survey: Survey,
  putIn: PutIn,
): AsyncGenerator<TraceEvent> {
  const inferrer = new ExitInferrer(survey, putIn);
  let ahead: TraceEvent[] = [];
  for await (const event of events) {
    if (survey.task !== undefined && event.pid !== survey.task) {
      // Put in first, an entry decides whose events are looked at.
      yield event;
      continue;
    }
    ahead.push(event);
    if (ahead.length < 2 * MAXIMUM_AHEAD) continue;
    for (let i = 0; i < MAXIMUM_AHEAD; i++) yield* inferrer.event(ahead, i);
    ahead = ahead.slice(MAXIMUM_AHEAD);
  }
  for (let i = 0; i < ahead.length; i++) yield* inferrer.event(ahead, i);
}

class ExitInferrer {
  private readonly survey: Survey;
  private readonly putIn: PutIn;
  private entered = false;
  /** The fault under way, by guest frame or walk, has not yet come to its mapping. */
  private pending: 'walk' | 'fast' | undefined;
  private pendingFrame = -1n;

  constructor(survey: Survey, putIn: PutIn) {
    this.survey = survey;
    this.putIn = putIn;
  }

  *event(events: readonly TraceEvent[], at: number): Generator<TraceEvent> {
    const event = events[at]!;
    // Roots are obtained by the first entry; they stand ahead of it.
    if (!this.entered && event.name !== 'kvm_mmu_get_page') yield this.entry(event);
    switch (event.name) {
      case 'kvm_mmu_pagetable_walk': {
        this.pending = undefined;
        const own = isFaultsOwn(events, at);
        if (!this.survey.tdp && own) {
          yield* this.fault(event, event.addr, BigInt(event.pferr));
          this.pending = 'walk';
        }
        break;
      }
      case 'fast_page_fault':
        if (this.pending !== 'walk') yield* this.fault(event, event.gva, event.errorCode);
        this.pending = 'fast';
        this.pendingFrame = event.gva >> 12n;
        break;
      case 'check_mmio_spte':
      case 'handle_mmio_page_fault': {
        if (this.pending === 'walk' && this.pendingFrame === -2n) break;
        const told = events.slice(at, at + 3).find((each) => each.name === 'handle_mmio_page_fault');
        if (told?.name === 'handle_mmio_page_fault') {
          const address = this.survey.tdp ? told.gfn << 12n : told.addr;
          yield* this.fault(event, address, PFEC_RSVD | PFEC_P, true);
          this.pending = 'walk';
          this.pendingFrame = -2n;
        }
        break;
      }
      case 'kvm_mmu_spte_requested': {
        const goesOn = this.pending === 'walk' || (this.pending === 'fast' && this.pendingFrame === event.gfn);
        this.pending = undefined;
        if (!goesOn) yield* this.fault(event, event.gfn << 12n, this.errorOf(events, at, event.gfn));
        break;
      }
      case 'kvm_mmu_get_page':
        if (this.entered && this.pending === undefined && this.isRoot(event.role)) {
          // The next entry obtains it.
          yield this.entry(event);
          yield this.exit(event, 'interrupt');
        }
        break;
    }
    if (event.name !== 'handle_mmio_page_fault' && event.name !== 'check_mmio_spte' && this.pendingFrame === -2n) {
      this.pending = undefined;
      this.pendingFrame = -1n;
    }
    yield event;
  }

  private isRoot(role: number): boolean {
    const level = role & Role.LEVEL;
    return this.survey.tdp ? level === (this.survey.directRootLevel ?? 4) : level >= 4;
  }

  /** A direct fault's error code: a write if a writable SPTE came of it. */
  private errorOf(events: readonly TraceEvent[], at: number, gfn: bigint): bigint {
    for (const each of events.slice(at + 1, at + MAXIMUM_AHEAD)) {
      if (each.name === 'kvm_mmu_spte_requested') break;
      if (each.name !== 'kvm_mmu_set_spte') continue;
      const shift = BigInt(9 * (each.level - 1));
      if (each.gfn >> shift !== gfn >> shift) continue;
      return (each.spte & SPTE_W) !== 0n ? PFEC_W : this.read;
    }
    return this.read;
  }

  /** How a read is told: EPT's qualification has a bit for it. */
  private get read(): bigint {
    return this.survey.tdp && this.survey.ept ? 1n : 0n;
  }

  private *fault(like: TraceEvent, address: bigint, error: bigint, mmio = false): Generator<TraceEvent> {
    const { tdp, ept } = this.survey;
    yield this.entry(like);
    if (mmio && tdp && ept) {
      yield this.exit(like, 'EPT_MISCONFIG');
      return;
    }
    yield this.exit(like, !tdp ? 'PF excp' : ept ? 'EPT_VIOLATION' : 'npf');
    const code = tdp && ept ? qualification(error) : error;
    const { position, time, task, pid, cpu } = like;
    const fault: TraceEvent = {
      ...{ position, time, task, pid, cpu },
      ...{ name: 'kvm_page_fault', vcpu: 0, rip: 0n, address, errorCode: code },
    };
    this.putIn.add(fault);
    yield fault;
  }

  private entry({ position, time, task, pid, cpu }: TraceEvent): TraceEvent {
    const entry: TraceEvent = { position, time, task, pid, cpu, name: 'kvm_entry', vcpu: 0, rip: 0n };
    this.putIn.add(entry);
    this.entered = true;
    return entry;
  }

  private exit({ position, time, task, pid, cpu }: TraceEvent, reason: string): TraceEvent {
    const registers = { rip: 0n, info1: 0n, info2: 0n, intrInfo: 0, errorCode: 0 };
    const exit: TraceEvent = {
      ...{ position, time, task, pid, cpu },
      ...{ name: 'kvm_exit', vcpu: 0, reason, ...registers },
    };
    this.putIn.add(exit);
    return exit;
  }
}

/** An error code of page faults as an EPT qualification: P stands for rights that the entries give. */
function qualification(error: bigint): bigint {
  const access = error & PFEC_ACCESS;
  const kind = (access & PFEC_W) !== 0n ? 2n : (access & 0x10n) !== 0n ? 4n : 1n;
  return kind | ((error & PFEC_P) !== 0n ? 0x28n : 0n);
}

/** Whether the walk at `at` is the fault handler's: its error code has P, which no software access has, or a mapping follows. */
function isFaultsOwn(events: readonly TraceEvent[], at: number): boolean {
  const walk = events[at]!;
  if (walk.name !== 'kvm_mmu_pagetable_walk') return false;
  if ((walk.pferr & 1) !== 0) return true;
  for (const each of events.slice(at + 1, at + MAXIMUM_AHEAD)) {
    switch (each.name) {
      case 'kvm_mmu_paging_element':
      case 'kvm_mmu_set_accessed_bit':
      case 'kvm_mmu_set_dirty_bit':
      case 'kvm_unmap_hva_range':
      case 'kvm_set_spte_hva':
        break;
      case 'kvm_mmu_get_page':
      case 'kvm_mmu_spte_requested':
        return true;
      case 'mark':
      case 'other':
        break;
      default:
        return false;
    }
  }
  return false;
}
