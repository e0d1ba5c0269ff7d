/** A guest on an emulated KVM against the same guest on a bare processor, as text and for machines. */

import { KVM_MORE_ROWS, kvmEventOf } from '../formats/kvm-event.ts';
import { OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import { STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import type { GuestComparison, GuestDifference, Row } from '../replay/result.ts';
import type { TraceHeader } from '../trace/header.ts';
import { escapeControls } from './escape.ts';
import { kvmEventText } from './kvm-events.ts';
import type { PaintText } from './replay-text.ts';
import { ContextTracker, translationName } from './row-context.ts';
import { type RowContext, rowText } from './rows.ts';
import { stepText } from './steps.ts';
import { counted, countText, tableLines } from './table.ts';

/** Rows of one machine shown at most. */
const MAXIMUM_ROWS = 40;
const MAXIMUM_GROUPS = 20;

/** What a machine did in a step, a line each; an event of KVM with its further rows is one. */
function machineLines(rows: readonly Row[], context: RowContext): string[] {
  const lines: string[] = [];
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i]!;
    const kind = row.op & OBS_KIND_MASK;
    if (kind === Obs.KVM_EVENT) {
      const more = KVM_MORE_ROWS[kvmEventOf(row.op)] ?? 0;
      lines.push(kvmEventText(rows.slice(i, i + 1 + more), context.mmu));
      i += more;
    } else {
      lines.push(rowText(row.op, row.addressLo, row.addressHi, row.valueLo, row.valueHi, context));
    }
  }
  if (lines.length <= MAXIMUM_ROWS) return lines.length === 0 ? ['(nothing)'] : lines;
  return [...lines.slice(0, MAXIMUM_ROWS), `and ${lines.length - MAXIMUM_ROWS} more`];
}

function contextOf(difference: GuestDifference, header: TraceHeader): RowContext {
  const { context } = new ContextTracker(header, difference.registers);
  return { ...context, mmu: difference.config };
}

function stimulusOf(difference: GuestDifference, context: RowContext): string | undefined {
  const { op, addressLo, addressHi, operandLo, operandHi } = difference;
  if ((op & STEP_KIND_MASK) === StepKind.RARE) return undefined;
  return stepText(op, addressLo, addressHi, operandLo, operandHi, [], context);
}

/** The counts of a receipt, or of the totals of many. */
export function guestCountLines(guest: GuestComparison): string[] {
  const { accesses, equal, asBare, stale, undetermined, entries, questions, registerWrites, words } = guest;
  const parts = [
    `${countText(equal)} equal`,
    asBare > 0 ? `${countText(asBare)} as the bare machine, not as recorded` : '',
    stale > 0 ? `${countText(stale)} stale, allowed` : '',
    undetermined > 0 ? `${countText(undetermined)} undetermined` : '',
  ].filter((part) => part !== '');
  const lines = [
    'the guest on the emulated KVM against the guest on the bare machine:',
    `  accesses compared: ${countText(accesses)}; ${parts.join(', ')}`,
    `  also ${counted(registerWrites, 'register write')}, ${counted(questions, 'answer')}, A and D set ${counted(entries, 'time')}, ${counted(words, 'word')} of memory at the end`,
  ];
  if (guest.staleEntries > 0) {
    lines.push(`  A or D left alone, a translation with them could be cached: ${countText(guest.staleEntries)}`);
  }
  if (guest.wordsInAd > 0)
    lines.push(`  words that differ in A or D at the end, for reasons above: ${countText(guest.wordsInAd)}`);
  for (const { number, name, citation, count } of guest.legal) {
    lines.push(`  legal difference ${number}, ${name}: ${countText(count)} (${citation})`);
  }
  lines.push(`  unexplained: ${countText(guest.unexplained)}`);
  return lines;
}

/** One unexplained difference: the step, what each machine did, the cause. */
export function guestDifferenceLines(difference: GuestDifference, header: TraceHeader, paint: PaintText): string[] {
  const context = contextOf(difference, header);
  const line = difference.line === undefined ? '' : ` (line ${difference.line})`;
  const stimulus = stimulusOf(difference, context);
  const lines = [
    paint('bold', `step ${difference.step}${line}: the guest on KVM sees something else`),
    ...(stimulus === undefined ? [] : [`  stimulus: ${stimulus}  in ${translationName(difference.registers)}`]),
    `  cause: ${paint('red', escapeControls(difference.cause))}`,
  ];
  if (stimulus === undefined) return lines;
  lines.push(
    '  the bare machine:',
    ...machineLines(difference.bare, context).map((text) => paint('dim', `    ${text}`)),
  );
  lines.push(
    '  the emulated KVM:',
    ...machineLines(difference.kvm, context).map((text) => paint('dim', `    ${text}`)),
  );
  return lines;
}

/** The unexplained differences by group, most frequent first. */
export function guestGroupLines({ groups }: GuestComparison): string[] {
  if (groups.length === 0) return [];
  const rows = groups
    .slice(0, MAXIMUM_GROUPS)
    .map(({ group, count, first }) => [countText(count), group, `first at step ${first}`]);
  const lines = ['unexplained differences of the like:', ...tableLines(rows, ['right'], 2)];
  if (groups.length > MAXIMUM_GROUPS) lines.push(`  and ${groups.length - MAXIMUM_GROUPS} groups more`);
  return lines;
}

/** A difference for machines. */
export function guestDifferenceObject(difference: GuestDifference, header: TraceHeader): object {
  const context = contextOf(difference, header);
  const { step, line, cause, group } = difference;
  return {
    step,
    ...(line === undefined ? {} : { line }),
    stimulus: stimulusOf(difference, context) ?? null,
    cause,
    group,
    bare: machineLines(difference.bare, context),
    kvm: machineLines(difference.kvm, context),
  };
}
