/** Observation rows as lines of a report, each with the words in it that can be taken apart bit by bit. */

import { hex64, hexText, type Word64 } from '../bits/word64.ts';
import { decodeNpfExitInfo1, decodePfec, decodeQualification } from '../formats/decode/fault.ts';
import { decodeRole } from '../formats/decode/kvm-role.ts';
import { decodeSpte } from '../formats/decode/kvm-spte.ts';
import { decodePageTableEntry } from '../formats/decode/page-table-entry.ts';
import { type DecodedWord, longForm } from '../formats/decode/word.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import { KVM_EVENT_FIELDS, type KvmField } from '../formats/kvm-event-fields.ts';
import {
  OBS_KIND_MASK,
  OBS_REGISTER_MASK,
  OBS_REGISTER_SHIFT,
  OBS_VECTOR_MASK,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../formats/observation.ts';
import { REGISTER_COUNT, Reg } from '../formats/registers.ts';
import type { Row } from '../replay/result.ts';
import { eventOf, unitsOf } from '../replay/units.ts';
import { fieldWord, kvmEventText } from './kvm-events.ts';
import { decodeRegister, observationLevel, type RowContext, registerName, rowEntry, rowText } from './rows.ts';
import type { LineWord, ReportLine, ReportRegister } from './run.ts';

const PAGE_FAULT = 14;

/** What a row other than an event holds in its value, field by field. */
function rowWord({ op, valueLo, valueHi }: Row, context: RowContext): DecodedWord | undefined {
  const word: Word64 = { lo: valueLo, hi: valueHi };
  switch (op & OBS_KIND_MASK) {
    case Obs.ELEMENT:
    case Obs.ENTRY_WRITE:
    case Obs.ENTRY_AFTER:
      return rowEntry(op, valueLo, valueHi, context);
    case Obs.PDPTE:
      return decodePageTableEntry(word, 3, { ...context, paging: 'pae' });
    case Obs.REGISTER:
      return decodeRegister((op >>> OBS_REGISTER_SHIFT) & OBS_REGISTER_MASK, valueLo, valueHi, context);
    case Obs.EXCEPTION:
      return ((op >>> OBS_VECTOR_SHIFT) & OBS_VECTOR_MASK) === PAGE_FAULT
        ? decodePfec(word, context.vendor)
        : undefined;
    case Obs.EPT_VIOLATION:
      return decodeQualification(word, context);
    case Obs.NPF:
      return decodeNpfExitInfo1(word);
    default:
      return undefined;
  }
}

/** A field of KVM's event, field by field, where it is a word with meanings of its own. */
function fieldDecoded({ kind, name }: KvmField, word: Word64, level: number, mmu: KvmConfig): DecodedWord | undefined {
  if (kind === 'role') return decodeRole(word, mmu.profile);
  if (kind === 'spte') return decodeSpte(word, { profile: mmu.profile, ept: mmu.vendor === 'intel' && mmu.tdp, level });
  if (name === 'pferr' || name === 'error_code') return decodePfec(word, mmu.vendor);
  return undefined;
}

function eventWords(rows: readonly Row[], event: number, mmu: KvmConfig | undefined): LineWord[] {
  if (mmu === undefined) return [];
  const level = Math.max(1, Math.min(5, observationLevel(rows[0]!.op)));
  return (KVM_EVENT_FIELDS[event] ?? []).flatMap((field) => {
    const row = rows[field.row];
    const word = row === undefined ? undefined : fieldWord(field, row);
    const decoded = word === undefined ? undefined : fieldDecoded(field, word, level, mmu);
    return word === undefined || decoded === undefined
      ? []
      : [{ text: hex64(word.lo, word.hi), lines: longForm(decoded) }];
  });
}

/** An event of KVM with its further rows, or one row of another kind. */
export function reportLine(rows: readonly Row[], context: RowContext): ReportLine {
  const row = rows[0]!;
  const event = eventOf({ rows, at: 0 });
  if (event >= 0) return { text: kvmEventText(rows, context.mmu), words: eventWords(rows, event, context.mmu) };
  const decoded = rowWord(row, context);
  const text = rowText(row.op, row.addressLo, row.addressHi, row.valueLo, row.valueHi, context);
  const words = decoded === undefined ? [] : [{ text: hexText(row.valueLo, row.valueHi), lines: longForm(decoded) }];
  return { text, words };
}

/** Rows, a line for each event or row of another kind. `maximum`: so many at most, the last of which says how many more. */
export function reportLines(
  rows: readonly Row[],
  context: RowContext,
  maximum = Number.POSITIVE_INFINITY,
): ReportLine[] {
  const units = unitsOf(rows);
  const lines = units.slice(0, maximum).map((unit) => reportLine(unit.rows, context));
  return units.length > maximum ? [...lines, plainLine(`and ${units.length - maximum} more`)] : lines;
}

export function plainLine(text: string): ReportLine {
  return { text, words: [] };
}

/** Registers that are not 0. `registers`: 2 elements each. */
export function reportRegisters(registers: Uint32Array, context: RowContext): ReportRegister[] {
  const known = Math.min(REGISTER_COUNT, registers.length >>> 1);
  return Array.from({ length: known }, (_, register) => register)
    .filter((register) => registers[2 * register] !== 0 || registers[2 * register + 1] !== 0)
    .filter((register) => register !== Reg.GUEST_MODE)
    .map((register) => {
      const [lo, hi] = [registers[2 * register]!, registers[2 * register + 1]!];
      const decoded = decodeRegister(register, lo, hi, context);
      return {
        name: registerName(register),
        value: hexText(lo, hi),
        short: decoded?.short ?? '',
        lines: decoded === undefined ? [] : longForm(decoded),
      };
    });
}
