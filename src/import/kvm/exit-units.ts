/**
 * The stream of one vCPU's events cut into units: what happens between a VM exit and the entry that follows it. Looking
 * ahead by whole units is how the importer finds out what the guest did, since a guest's own doing leaves no event.
 */

import type { TraceEvent } from '../ftrace/event.ts';
import type { EventReceipt } from './event-receipt.ts';

export type ExitEvent = Extract<TraceEvent, { name: 'kvm_exit' }>;
export type EntryEvent = Extract<TraceEvent, { name: 'kvm_entry' }>;
export type PageFaultEvent = Extract<TraceEvent, { name: 'kvm_page_fault' }>;

export interface Unit {
  /** `undefined` for the first unit: what comes before the first entry. */
  readonly exit: ExitEvent | undefined;
  /** Between exit and entry, without both. */
  readonly events: readonly TraceEvent[];
  /** `undefined` for the last unit. */
  readonly entry: EntryEvent | undefined;
  /** Where the guest was entered before this unit's exit. */
  readonly resumedAt: bigint | undefined;
}

/** Events of one unit kept at a time; a slot's deletion makes some ten thousand. */
const MAXIMUM_EVENTS = 1 << 22;

/**
 * Units of one task, by default of the first that enters a guest. What other tasks do is another vCPU's or another VM's
 * business, and is counted as such: MMU events carry neither (recordings/README.md, "Whose event").
 */
export async function* exitUnits(
  events: AsyncIterable<TraceEvent> | Iterable<TraceEvent>,
  receipt: EventReceipt,
  ofTask?: number,
): AsyncGenerator<Unit> {
  let task = ofTask;
  let exit: ExitEvent | undefined;
  let collected: TraceEvent[] = [];
  let resumedAt: bigint | undefined;
  for await (const event of events) {
    if (task === undefined) {
      if (event.name === 'kvm_entry') {
        task = event.pid;
        collected = collected.filter((each) => each.pid === task || other(each, receipt));
      }
    } else if (event.pid !== task) {
      other(event, receipt);
      continue;
    }
    if (event.name === 'kvm_entry') {
      receipt.count(event.name, 'stimulus');
      yield { exit, events: collected, entry: event, resumedAt };
      exit = undefined;
      collected = [];
      resumedAt = event.rip;
    } else if (event.name === 'kvm_exit' && exit === undefined) {
      receipt.count(event.name, 'stimulus');
      exit = event;
    } else if (collected.length < MAXIMUM_EVENTS) {
      collected.push(event);
    } else {
      receipt.omit(event.name, 'too many events between exit and entry');
    }
  }
  if (exit !== undefined || collected.length > 0) yield { exit, events: collected, entry: undefined, resumedAt };
}

function other(event: TraceEvent, receipt: EventReceipt): false {
  receipt.omit(event.name === 'other' ? event.event : event.name, 'by another task');
  return false;
}

/** The fault that the exit brought to the hypervisor, if it was one. */
export function pageFaultOf(unit: Unit): PageFaultEvent | undefined {
  return unit.events.find((event) => event.name === 'kvm_page_fault');
}

/** Host interrupts and the like: nothing that the guest did. */
export function isInterrupt(exit: ExitEvent | undefined): boolean {
  switch (exit?.reason) {
    case 'interrupt':
    case 'nmi':
    case 'vintr':
    case 'EXTERNAL_INTERRUPT':
    case 'PREEMPTION_TIMER':
    case 'INTERRUPT_WINDOW':
    case 'NMI_WINDOW':
      return true;
    default:
      return false;
  }
}

/** The hypervisor's emulator ran, and the instruction is over or has moved on. */
export function emulated(unit: Unit): boolean {
  return unit.events.some((event) => event.name === 'kvm_emulate_insn') && unit.entry?.rip !== unit.exit?.rip;
}

/** The exit is the guest's guest's. */
export function isOfL2(unit: Unit): boolean {
  return unit.events.some((event) => event.name === 'kvm_nested_vmexit');
}

/** The processor raised an exception, which the hypervisor intercepts. */
export function isException(exit: ExitEvent | undefined): boolean {
  return exit?.reason === 'EXCEPTION_NMI' || exit?.reason.endsWith(' excp') === true;
}
