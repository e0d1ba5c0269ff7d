/** What the plain walker did, in the form of the machine's log. */

import {
  Dim,
  elementRow,
  entryWriteRow,
  OBS_DIM_SHIFT,
  OBS_LEVEL_SHIFT,
  OBS_NESTED_NX,
  OBS_NESTED_OF_TABLE,
  OBS_NESTED_USER,
  OBS_NESTED_WRITABLE,
  OBS_PAGE_SHIFT_SHIFT,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../../src/formats/observation.ts';
import { AccessType } from '../../src/formats/step.ts';
import { TYPE_SHIFT } from '../../src/paging/access.ts';
import { RowLog } from '../../src/paging/row-log.ts';
import type { AccessKind, Dimension, PlainEvent, PlainOutcome, PlainWalk } from '../reference/plain-walker.ts';

export const TYPE_OF: Readonly<Record<AccessKind, number>> = {
  read: AccessType.READ,
  write: AccessType.WRITE,
  fetch: AccessType.FETCH,
  rmw: AccessType.RMW,
};
const DIM_OF: Readonly<Record<Dimension, number>> = { guest: Dim.GUEST, ept: Dim.EPT, npt: Dim.NPT };

const word = new BigUint64Array(1);
const halves = new Int32Array(word.buffer);

function push(log: RowLog, op: number, address: bigint, value: bigint): void {
  word[0] = address;
  const addressLo = halves[0]!;
  const addressHi = halves[1]!;
  word[0] = value;
  log.push(op, addressLo, addressHi, halves[0]!, halves[1]!);
}

function pushEvent(log: RowLog, event: PlainEvent): void {
  switch (event.type) {
    case 'pdpte-register':
      push(log, Obs.PDPTE | (event.index << OBS_LEVEL_SHIFT), 0n, event.value);
      return;
    case 'element':
      push(log, elementRow(DIM_OF[event.dimension], event.level, event.bytes === 4), event.address, event.value);
      return;
    case 'entry-write':
      push(log, entryWriteRow(DIM_OF[event.dimension], event.level, event.bytes === 4), event.address, event.value);
      return;
    case 'nested-walk-start': {
      const { dimension, purpose, access, linear } = event;
      const ofTable = purpose === 'table';
      let op = Obs.NESTED_WALK | (DIM_OF[dimension] << OBS_DIM_SHIFT) | (TYPE_OF[access] << TYPE_SHIFT);
      if (ofTable) op |= OBS_NESTED_OF_TABLE;
      if (dimension === 'ept') {
        if (linear.user) op |= OBS_NESTED_USER;
        if (linear.writable) op |= OBS_NESTED_WRITABLE;
        // The walk logs that the row is modelled on have the no-execute of a page only once it is known to the end:
        // for the final address, and for writing A/D back. For tables being read it is clear.
        if (linear.executeDisable && !(ofTable && access === 'read')) op |= OBS_NESTED_NX;
      }
      push(log, op, event.gpa, 0n);
    }
  }
}

function pushOutcome(log: RowLog, outcome: PlainOutcome): void {
  switch (outcome.kind) {
    case 'translated': {
      const shift = 31 - Math.clz32(Number(outcome.pageSize));
      push(log, Obs.TRANSLATED | (shift << OBS_PAGE_SHIFT_SHIFT), outcome.address, outcome.gpa);
      return;
    }
    case 'exception':
      push(log, Obs.EXCEPTION | (outcome.vector << OBS_VECTOR_SHIFT), outcome.cr2 ?? 0n, outcome.errorCode);
      return;
    case 'ept-violation':
      push(log, Obs.EPT_VIOLATION, outcome.gpa, outcome.qualification);
      push(log, Obs.EXIT_LINEAR, outcome.linear, 0n);
      return;
    case 'ept-misconfig':
      push(log, Obs.EPT_MISCONFIG, outcome.gpa, 0n);
      push(log, Obs.EXIT_LINEAR, outcome.linear, 0n);
      return;
    case 'npf':
      push(log, Obs.NPF, outcome.exitInfo2, outcome.exitInfo1);
  }
}

const expected = new RowLog();

/** All rows of a walk; the log is reused by the next call. `events`: false for the outcome alone. */
export function expectedRows(walk: PlainWalk, events = true): RowLog {
  expected.count = 0;
  if (events) for (const event of walk.events) pushEvent(expected, event);
  pushOutcome(expected, walk.outcome);
  return expected;
}
