/** The host's memory management takes pages away: of its own accord, or because a fault or walk under way writes. */

import { fromBigInt } from '../../bits/word64.ts';
import { Provenance, StepKind } from '../../formats/step.ts';
import type { TraceEvent } from '../ftrace/event.ts';
import { rowsOf } from './event-rows.ts';
import { setsBitsLater } from './neighbours.ts';
import type { Parts } from './parts.ts';

const NAMES = {
  kvm_unmap_hva_range: 'unmap',
  kvm_set_spte_hva: 'set-pte',
  kvm_age_hva: 'age',
  kvm_test_age_hva: 'test-age',
} as const;

export type NotifierEvent = Extract<TraceEvent, { name: keyof typeof NAMES }>;

/** A step of its own, or a row of the step under way. */
export function notifier({ now, receipt, residency, steps }: Parts, event: NotifierEvent): void {
  receipt.count(event.name, 'host input');
  const start = 'start' in event ? event.start : event.hva;
  const end = 'end' in event ? event.end : event.hva + 0x1000n;
  const inFault = steps.kind === StepKind.FAULT_EXIT && !now.emulating;
  const inWalk = steps.kind === StepKind.SOFTWARE_WALK && setsBitsLater(now.following(), steps.walk?.shape);
  if (inFault || inWalk) {
    if (event.name === 'kvm_unmap_hva_range') steps.showing()?.copied.push({ start, end });
    steps.current!.rows.push(...rowsOf(event)!);
    return;
  }
  const what = NAMES[event.name];
  const stimulus = { kind: 'notifier', what, start: fromBigInt(start), end: fromBigInt(end) } as const;
  steps.stimulus(stimulus, Provenance.RECORDED, event.position).rows.push(...rowsOf(event)!);
  if (what === 'unmap' || what === 'set-pte') {
    steps.add(residency.notified(start, end, what === 'set-pte', event.position));
  }
}
