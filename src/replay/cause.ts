/** The cause of a divergence in one sentence, and the key under which divergences of the like are grouped. */

import { hexText } from '../bits/word64.ts';
import {
  OBS_KIND_MASK,
  OBS_NAMES,
  OBS_NESTED_ACCESS_MASK,
  OBS_NESTED_ACCESS_SHIFT,
  OBS_NESTED_OF_TABLE,
  OBS_REGISTER_MASK,
  OBS_REGISTER_SHIFT,
  OBS_VECTOR_MASK,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../formats/observation.ts';
import { REGISTER_NAMES } from '../formats/registers.ts';
import {
  ACCESS_SOFTWARE,
  ACCESS_TYPE_MASK,
  ACCESS_TYPE_NAMES,
  ACCESS_TYPE_SHIFT,
  ACCESS_USER,
  STEP_KIND_MASK,
  STEP_KIND_NAMES,
  StepKind,
} from '../formats/step.ts';
import type { Row } from './result.ts';
import { entryPlace, outcomeReason, rowKind } from './walk-fault.ts';

/** `bit 5 differs`, `bits 5, 12 differ`. */
function bitsDiffer(a: Row, b: Row): string {
  const bits = differingBits(a, b);
  return `${bits} ${bits.startsWith('bits') ? 'differ' : 'differs'}`;
}

/** Bits in which two words differ, as `bit 5` or `bits 5, 12`. */
function differingBits(a: Row, b: Row): string {
  const bits: number[] = [];
  for (let bit = 0; bit < 64; bit++) {
    const x = bit < 32 ? a.valueLo >>> bit : a.valueHi >>> (bit - 32);
    const y = bit < 32 ? b.valueLo >>> bit : b.valueHi >>> (bit - 32);
    if (((x ^ y) & 1) !== 0) bits.push(bit);
  }
  const shown = bits.length > 8 ? `${bits.slice(0, 8).join(', ')} …` : bits.join(', ');
  return bits.length === 1 ? `bit ${shown}` : `bits ${shown}`;
}

/** What a row is, with its error code: the same for rows that differ in addresses only. */
export function rowName(row: Row | undefined): string {
  if (row === undefined) return 'nothing';
  switch (rowKind(row)) {
    case Obs.EXCEPTION: {
      const vector = (row.op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK;
      return vector === 14 ? `#PF ${hexText(row.valueLo, row.valueHi)}` : `exception ${vector}`;
    }
    case Obs.EPT_VIOLATION:
      return `EPT violation ${hexText(row.valueLo, row.valueHi)}`;
    case Obs.NPF:
      return `NPF ${hexText(row.valueLo, row.valueHi)}`;
    case Obs.REGISTER:
      return `register ${REGISTER_NAMES[(row.op >>> OBS_REGISTER_SHIFT) & OBS_REGISTER_MASK] ?? '?'}`;
    default:
      return OBS_NAMES[row.op & OBS_KIND_MASK]!;
  }
}

/** What kind of step it is, of an access also by whom and what for: `user read`. */
export function stepName(stepOp: number): string {
  const kind = stepOp & STEP_KIND_MASK;
  if (kind !== StepKind.ACCESS) return STEP_KIND_NAMES[kind] ?? '';
  const software = (stepOp & ACCESS_SOFTWARE) !== 0 ? 'software ' : '';
  const type = ACCESS_TYPE_NAMES[(stepOp >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK];
  return `${software}${(stepOp & ACCESS_USER) !== 0 ? 'user' : 'supervisor'} ${type}`;
}

/** Stable text that is equal for divergences of the same shape: no addresses, no ordinals. */
export function groupOf(stepOp: number, recorded: Row | undefined, replayed: Row | undefined): string {
  const detail =
    recorded !== undefined && replayed !== undefined && rowName(recorded) === rowName(replayed)
      ? ` (${!sameAddress(recorded, replayed) ? 'address' : recorded.op !== replayed.op ? 'attributes' : differingBits(recorded, replayed)})`
      : '';
  return `${stepName(stepOp)}: recorded ${rowName(recorded)}, replayed ${rowName(replayed)}${detail}`;
}

function sameAddress(a: Row, b: Row): boolean {
  return a.addressLo === b.addressLo && a.addressHi === b.addressHi;
}

function isOutcome(row: Row): boolean {
  const kind = rowKind(row);
  return kind >= Obs.TRANSLATED && kind <= Obs.NPF;
}

/** Which check, which level, which bit. `at`: index of the first differing row. */
export function causeOf(
  stepOp: number,
  recorded: readonly Row[],
  replayed: readonly Row[],
  at: number,
  registers: Uint32Array,
  walk: readonly Row[] = replayed,
): string {
  const r = recorded[at];
  const m = replayed[at];
  if (r === undefined) {
    return m === undefined ? 'nothing differs' : `the replay goes on with ${describe(m)} where the recording ends`;
  }
  if (rowKind(r) === Obs.REGISTER) {
    const register = REGISTER_NAMES[(r.op >>> OBS_REGISTER_SHIFT) & OBS_REGISTER_MASK] ?? '?';
    const held = m === undefined ? 'something else' : hexText(m.valueLo, m.valueHi);
    return `after the step ${register} holds ${held}, recorded was ${hexText(r.valueLo, r.valueHi)}`;
  }
  if (m === undefined) return `the recording goes on with ${describe(r)} where the replay ends`;
  if (rowKind(r) === rowKind(m)) return sameKind(stepOp, r, m, replayed, at, registers, walk);
  if (isOutcome(m)) {
    return `the replay ends here (${outcomeReason(walk, stepOp, registers)}), the recording has ${describe(r)}`;
  }
  if (isOutcome(r)) {
    return `the recording ends here (${outcomeReason(recorded, stepOp, registers)}), the replay goes on with ${describe(m)}`;
  }
  return `the recording has ${describe(r)}, the replay ${describe(m)}`;
}

function sameKind(
  stepOp: number,
  r: Row,
  m: Row,
  replayed: readonly Row[],
  at: number,
  registers: Uint32Array,
  walk: readonly Row[],
): string {
  switch (rowKind(r)) {
    case Obs.ELEMENT:
    case Obs.PDPTE:
      if (!sameAddress(r, m) || entryPlace(r) !== entryPlace(m)) {
        const above = replayed[at - 1];
        const from = above === undefined ? 'the root' : describe(above);
        return `the walks part below ${from}: the recording reads the ${entryPlace(r)}, the replay the ${entryPlace(m)}`;
      }
      return `the ${entryPlace(r)} was read as ${hexText(r.valueLo, r.valueHi)}, memory holds ${hexText(m.valueLo, m.valueHi)}: ${bitsDiffer(r, m)}`;
    case Obs.ENTRY_WRITE:
    case Obs.ENTRY_AFTER:
      if (!sameAddress(r, m)) return `the recording writes the ${entryPlace(r)}, the replay the ${entryPlace(m)}`;
      return `the ${entryPlace(r)} ends as ${hexText(r.valueLo, r.valueHi)} in the recording, as ${hexText(m.valueLo, m.valueHi)} in the replay: ${bitsDiffer(r, m)}`;
    case Obs.EXCEPTION:
    case Obs.EPT_VIOLATION:
    case Obs.NPF:
    case Obs.EPT_MISCONFIG:
    case Obs.EXIT_LINEAR:
      if (rowName(r) === rowName(m) && !sameAddress(r, m)) {
        return `${rowName(r)} names address ${hexText(r.addressLo, r.addressHi)} in the recording, ${hexText(m.addressLo, m.addressHi)} in the replay`;
      }
      return `${rowName(r)} was recorded, ${rowName(m)} replayed${r.op === m.op ? `, ${bitsDiffer(r, m)}` : ''}; the replay says: ${outcomeReason(walk, stepOp, registers)}`;
    case Obs.TRANSLATED:
      return `the recording translates to ${hexText(r.addressLo, r.addressHi)}, the replay to ${hexText(m.addressLo, m.addressHi)}${
        sameAddress(r, m) ? ' with another page size or guest-physical address' : ''
      }`;
    default:
      return `${describe(r)} was recorded, ${describe(m)} replayed (${outcomeReason(walk, stepOp, registers)})`;
  }
}

export function describe(row: Row): string {
  const kind = rowKind(row);
  if (kind === Obs.PDPTE_LOADED) return row.valueLo === 0 ? 'PDPTEs refused' : 'PDPTEs loaded';
  if (kind === Obs.PDPTE) return `a use of the ${entryPlace(row)}`;
  if (kind === Obs.ELEMENT) return `a read of the ${entryPlace(row)}`;
  if (kind === Obs.ENTRY_WRITE) return `a write of ${hexText(row.valueLo, row.valueHi)} to the ${entryPlace(row)}`;
  if (kind === Obs.ENTRY_AFTER) return `${hexText(row.valueLo, row.valueHi)} left in the ${entryPlace(row)}`;
  if (kind === Obs.TRANSLATED) return `a translation to ${hexText(row.addressLo, row.addressHi)}`;
  if (kind === Obs.NESTED_WALK) {
    const what = (row.op & OBS_NESTED_OF_TABLE) !== 0 ? 'a page-table page' : 'the final address';
    const type = ACCESS_TYPE_NAMES[(row.op >>> OBS_NESTED_ACCESS_SHIFT) & OBS_NESTED_ACCESS_MASK];
    return `the second-stage translation of guest-physical ${hexText(row.addressLo, row.addressHi)} (${what}) for ${type}`;
  }
  return rowName(row);
}
