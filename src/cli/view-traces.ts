/** The work of `rewalk view`. */

import { hexText } from '../bits/word64.ts';
import { isFault, OBS_KIND_MASK, Obs } from '../formats/observation.ts';
import { expectsAddress } from '../formats/step.ts';
import { escapeControls } from '../report/escape.ts';
import { type EventRow, kvmEventText, moreRowsAt } from '../report/kvm-events.ts';
import { ContextTracker } from '../report/row-context.ts';
import { rowText } from '../report/rows.ts';
import { stepText } from '../report/steps.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { headerObject, stateObject } from '../trace/text/header.ts';
import { stepObject } from '../trace/text/writing.ts';
import type { Context } from './command.ts';
import { headerLines } from './header-text.ts';
import { firstRow, type Selected, type StepFilter, selectStep } from './step-filter.ts';
import type { StepRange } from './step-range.ts';
import { eachTrace } from './trace-input.ts';

export interface ViewOptions {
  readonly filter: StepFilter;
  readonly range: StepRange;
  /** Steps to print, over all traces. */
  readonly limit: number;
  /** With the source's line and the timestamp of each step. */
  readonly source: boolean;
}

/** Prints; returns the exit status. */
export async function viewTraces(files: readonly string[], options: ViewOptions, context: Context): Promise<number> {
  let left = options.limit;
  return eachTrace(files, context, async (path, items) => {
    let view: SegmentView | undefined;
    for await (const item of items) {
      if (item.kind === 'header') {
        view = new SegmentView(item.header, options, context);
        if (context.json) context.out.json(headerObject(item.header));
        else {
          const [heading = '', ...more] = headerLines(path, item.segment, item.header);
          context.out.line(context.paint('bold', heading));
          context.out.lines(more);
        }
      } else if (item.kind === 'steps' && view !== undefined) {
        left = await view.print(item.columns, left);
        if (left === 0) return 'stop';
      }
    }
    return 'go on';
  });
}

const ORDINAL_COLUMNS = 8;
const INDENT = ' '.repeat(ORDINAL_COLUMNS + 6);

function rowAt(columns: StepColumns, row: number): EventRow {
  const { observationOp, observationAddress, observationValue } = columns;
  return {
    op: observationOp[row]!,
    addressLo: observationAddress[2 * row]!,
    addressHi: observationAddress[2 * row + 1]!,
    valueLo: observationValue[2 * row]!,
    valueHi: observationValue[2 * row + 1]!,
  };
}

/** Prints the steps of one segment. */
class SegmentView {
  private readonly header: TraceHeader;
  private readonly options: ViewOptions;
  private readonly context: Context;
  private tracker: ContextTracker | undefined;

  constructor(header: TraceHeader, options: ViewOptions, context: Context) {
    this.header = header;
    this.options = options;
    this.context = context;
  }

  /** Prints what is selected of a chunk, at most `limit` steps. Returns how many of these are left. */
  async print(columns: StepColumns, limit: number): Promise<number> {
    const { range, filter } = this.options;
    const { out, json } = this.context;
    const first = Math.max(0, range.from - columns.firstOrdinal);
    const end = Math.min(columns.stepCount, range.to - columns.firstOrdinal + 1);
    let left = limit;
    if (first >= end) return left;
    let stated = false;
    const tracker = this.trackerFor(columns);
    const tdp = this.header.hypervisor?.tdp ?? false;
    for (let step = 0; step < end && left > 0; step++) {
      const selected = step < first ? 'none' : selectStep(columns, step, filter, tdp);
      if (selected !== 'none') {
        left--;
        // Filtered or not, steps follow their chunk's state line, so that what is printed can be read back.
        if (json && !stated) out.json(stateObject(columns));
        stated = true;
        if (json) out.json(stepObject(columns, step));
        else this.text(columns, step, selected, tracker);
        if (out.full) await this.context.breathe();
      }
      tracker.step(columns.op[step]!, columns.operand[2 * step]!, columns.operand[2 * step + 1]!);
    }
    return left;
  }

  private trackerFor(columns: StepColumns): ContextTracker {
    this.tracker ??= new ContextTracker(this.header, columns.registers);
    this.tracker.restart(columns);
    return this.tracker;
  }

  private text(columns: StepColumns, step: number, selected: Selected, tracker: ContextTracker): void {
    const { out, paint } = this.context;
    const { op, address, operand, stimuli } = columns;
    const at = 2 * step;
    const rows = tracker.context;
    const line = stepText(op[step]!, address[at]!, address[at + 1]!, operand[at]!, operand[at + 1]!, stimuli, rows);
    const ordinal = String(columns.firstOrdinal + step).padStart(ORDINAL_COLUMNS);
    out.line(`${paint('dim', ordinal)}  ${line}${this.origin(columns, step)}`);
    if (selected === 'all') {
      const end = columns.observationEnd[step]!;
      for (let row = firstRow(columns, step); row < end; ) row += this.row(columns, row, end, tracker);
      if (expectsAddress(op[step]!)) out.line(`${INDENT}translated to ${hexText(operand[at]!, operand[at + 1]!)}`);
    } else if (selected !== 'none') {
      for (const row of selected) this.row(columns, row, columns.observationEnd[step]!, tracker);
    }
  }

  /** Prints the observation at `row` of a step whose observations end at `end`. Returns of how many rows it is made. */
  private row(columns: StepColumns, row: number, end: number, tracker: ContextTracker): number {
    const { observationOp, observationAddress, observationValue } = columns;
    if ((observationOp[row]! & OBS_KIND_MASK) === Obs.KVM_EVENT) {
      const rows = Array.from({ length: 1 + moreRowsAt(observationOp, row, end) }, (_, i) => rowAt(columns, row + i));
      this.context.out.line(INDENT + kvmEventText(rows, this.header.hypervisor?.mmu));
      return rows.length;
    }
    const at = 2 * row;
    const text = rowText(
      observationOp[row]!,
      observationAddress[at]!,
      observationAddress[at + 1]!,
      observationValue[at]!,
      observationValue[at + 1]!,
      tracker.context,
    );
    const op = observationOp[row]!;
    const fault = isFault(op) || (op & OBS_KIND_MASK) === Obs.FAULTED;
    this.context.out.line(INDENT + (fault ? this.context.paint('yellow', text) : text));
    return 1;
  }

  private origin(columns: StepColumns, step: number): string {
    if (!this.options.source) return '';
    const line = columns.lineOf(step);
    const time = columns.timeOf(step);
    const name = escapeControls(this.header.sources[columns.source]?.name ?? '');
    const parts = [line === undefined ? name : `${name}:${line}`, time === undefined ? '' : `${time} ns`];
    return `  (${parts.filter((part) => part !== '').join(', ') || 'no source'})`;
  }
}
