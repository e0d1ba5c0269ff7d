/** A replay's result for machines. Addresses and values are hexadecimal strings with 0x. */

import { hexText } from '../bits/word64.ts';
import { KVM_EVENT_NAMES, kvmEventOf } from '../formats/kvm-event.ts';
import { OBS_KIND_MASK, OBS_NAMES, Obs } from '../formats/observation.ts';
import type { Divergence, ReplayResult, Row, SidePair } from '../replay/result.ts';
import { CHUNK_STATE } from '../replay/result.ts';
import type { TraceHeader } from '../trace/header.ts';
import { kvmEventText } from './kvm-events.ts';
import { ContextTracker } from './row-context.ts';
import { rowText } from './rows.ts';
import { guestDifferenceObject } from './same-guest.ts';
import { stepText } from './steps.ts';

function rowObject(row: Row, header: TraceHeader, registers: Uint32Array): object {
  const { context } = new ContextTracker(header, registers);
  return {
    kind: OBS_NAMES[row.op & OBS_KIND_MASK],
    address: hexText(row.addressLo, row.addressHi),
    value: hexText(row.valueLo, row.valueHi),
    text: rowText(row.op, row.addressLo, row.addressHi, row.valueLo, row.valueHi, context),
  };
}

/** One place of a step with events of KVM: each side as one line of text, `null` for nothing. */
function pairObject(pair: SidePair, header: TraceHeader, registers: Uint32Array): object {
  const side = (rows: readonly Row[]): object | null => {
    const first = rows[0];
    if (first === undefined) return null;
    if ((first.op & OBS_KIND_MASK) !== Obs.KVM_EVENT) return rowObject(first, header, registers);
    return { kind: KVM_EVENT_NAMES[kvmEventOf(first.op)], text: kvmEventText(rows, header.hypervisor?.mmu) };
  };
  const fields = pair.fields.length === 0 ? {} : { fields: pair.fields };
  return { state: pair.state, recorded: side(pair.recorded), replayed: side(pair.replayed), ...fields };
}

function divergenceObject(d: Divergence, header: TraceHeader): object {
  const rows = (list: readonly Row[]): object[] => list.map((row) => rowObject(row, header, d.registers));
  const pairs = d.pairs?.map((pair) => pairObject(pair, header, d.registers));
  return {
    step: d.step,
    ...(d.line === undefined ? {} : { line: d.line }),
    ...(d.source === undefined ? {} : { source: d.source }),
    stimulus: d.group === CHUNK_STATE ? null : stepText(d.op, d.addressLo, d.addressHi, d.operandLo, d.operandHi),
    judgement: d.judgement,
    cause: d.cause,
    group: d.group,
    firstDifference: d.firstDifference,
    ...(pairs === undefined ? { recorded: rows(d.recorded), replayed: rows(d.replayed) } : { pairs }),
  };
}

/** One object per replayed segment. */
export function replayObject(result: ReplayResult, header: TraceHeader): object {
  return {
    verdict: result.verdict,
    receipt: result.receipt,
    divergences: result.divergences.map((divergence) => divergenceObject(divergence, header)),
    ...(result.guestDifferences === undefined
      ? {}
      : { guestDifferences: result.guestDifferences.map((each) => guestDifferenceObject(each, header)) }),
  };
}
