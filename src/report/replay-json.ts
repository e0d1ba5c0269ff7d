/** A replay's result for machines. Addresses and values are hexadecimal strings with 0x. */

import { hex64 } from '../bits/word64.ts';
import { OBS_KIND_MASK, OBS_NAMES } from '../formats/observation.ts';
import type { Divergence, ReplayResult, Row } from '../replay/result.ts';
import { CHUNK_STATE } from '../replay/result.ts';
import type { TraceHeader } from '../trace/header.ts';
import { ContextTracker } from './row-context.ts';
import { rowText } from './rows.ts';
import { stepText } from './steps.ts';

function rowObject(row: Row, header: TraceHeader, registers: Uint32Array): object {
  const { context } = new ContextTracker(header, registers);
  return {
    kind: OBS_NAMES[row.op & OBS_KIND_MASK],
    address: `0x${hex64(row.addressLo, row.addressHi)}`,
    value: `0x${hex64(row.valueLo, row.valueHi)}`,
    text: rowText(row.op, row.addressLo, row.addressHi, row.valueLo, row.valueHi, context),
  };
}

function divergenceObject(d: Divergence, header: TraceHeader): object {
  const rows = (list: readonly Row[]): object[] => list.map((row) => rowObject(row, header, d.registers));
  return {
    step: d.step,
    ...(d.line === undefined ? {} : { line: d.line }),
    ...(d.source === undefined ? {} : { source: d.source }),
    stimulus: d.group === CHUNK_STATE ? null : stepText(d.op, d.addressLo, d.addressHi, d.operandLo, d.operandHi),
    judgement: d.judgement,
    cause: d.cause,
    group: d.group,
    firstDifference: d.firstDifference,
    recorded: rows(d.recorded),
    replayed: rows(d.replayed),
  };
}

/** One object per replayed segment. */
export function replayObject(result: ReplayResult, header: TraceHeader): object {
  return {
    verdict: result.verdict,
    receipt: result.receipt,
    divergences: result.divergences.map((divergence) => divergenceObject(divergence, header)),
  };
}
