/**
 * The first difference between what two machines did in a step, in one sentence that names the mechanism: a flush that is
 * missing, a child table that is reused, another role. Nobody here knows which bug one of them has.
 */

import { hexText } from '../bits/word64.ts';
import { decodeNpfExitInfo1, decodeQualification } from '../formats/decode/fault.ts';
import { roleFields } from '../formats/decode/kvm-role.ts';
import { spteFields, spteKind } from '../formats/decode/kvm-spte.ts';
import { bitRange, bitsOf } from '../formats/decode/word.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';
import { KvmEvent } from '../formats/kvm-event.ts';
import { gfnText } from '../replay/explain-names.ts';
import { type SeenWord, seenWordText } from '../replay/explain-seen.ts';
import type { Row } from '../replay/result.ts';
import { rowsEvent } from '../replay/units.ts';
import { fieldsThatDiffer } from './align.ts';
import { explainPlaces } from './cause.ts';
import type { Item, Pairing } from './parting-items.ts';

export type Labels = readonly [a: string, b: string];

/** What an event is about, where its name does not say. */
const EVENT_MECHANISM: Readonly<Record<string, string>> = {
  'get-page': 'look-up of a shadow page',
  'set-spte': 'SPTE',
  'tdp-spte-changed': 'SPTE',
  'sync-page': 'synchronisation of a shadow page',
  'unsync-page': 'shadow page that becomes unsync',
  'prepare-zap-page': 'zap of a shadow page',
  'walker-error': 'verdict of a walk',
  'pagetable-walk': 'walk of guest tables',
  'paging-element': 'guest entry read',
  'set-accessed-bit': 'accessed bit',
  'set-dirty-bit': 'dirty bit',
  'inj-exception': 'exception injected',
  'nested-vmexit-inject': 'exit given to L1',
  'check-mmio-spte': 'MMIO SPTE',
  'handle-mmio-page-fault': 'MMIO fault',
};

const MECHANISM: Readonly<Record<string, string>> = {
  flush: 'TLB flush',
  request: 'request',
  root: 'change of roots',
  setup: 'set-up of the MMU',
  table: 'change of tables',
  cache: 'entry of the MMIO cache',
  injection: 'fault that is injected',
  fault: 'fault handling',
  event: 'event',
};

/** Fields of two words that differ: `access: rights inherited from the levels above: -ux on clean, wux on m01`. */
function wordDifferences(a: SeenWord, b: SeenWord, [labelA, labelB]: Labels, config: KvmConfig): string {
  if (a.format === 'plain' || b.format === 'plain' || a.format !== b.format) {
    return `${seenWordText(a, config)} on ${labelA}, ${seenWordText(b, config)} on ${labelB}`;
  }
  const [x, y] = [
    { lo: a.lo, hi: a.hi },
    { lo: b.lo, hi: b.hi },
  ];
  const context = { profile: config.profile, ept: config.vendor === 'intel' && config.tdp, level: a.level };
  if (a.format === 'spte' && spteKind(x, context) !== spteKind(y, context)) {
    return `${spteKind(x, context)} (${seenWordText(a, config)}) on ${labelA}, ${spteKind(y, context)} (${seenWordText(b, config)}) on ${labelB}`;
  }
  const specs = a.format === 'role' ? roleFields(config.profile) : spteFields(x, context);
  const parts = specs
    .filter(({ high }) => high < 32 || a.format === 'spte')
    .filter(({ high, low }) => bitsOf(x, high, low) !== bitsOf(y, high, low))
    .map(({ name, high, low, words }) => {
      const bits = high === low ? `bit ${high}` : `bits ${bitRange(high, low)}`;
      return `${name} (${bits}): ${words(bitsOf(x, high, low))} on ${labelA}, ${words(bitsOf(y, high, low))} on ${labelB}`;
    });
  return parts.length === 0
    ? `${seenWordText(a, config)} on ${labelA}, ${seenWordText(b, config)} on ${labelB}`
    : parts.join('; ');
}

/** The first difference in one sentence. */
export function sentenceOf(
  pairs: readonly Pairing[],
  at: number,
  labels: Labels,
  config: KvmConfig | undefined,
  stepOp: number,
): string {
  const [labelA, labelB] = labels;
  const { a, b, state } = pairs[at]!;
  const before = pairs.slice(0, at).findLast(({ a: item }) => item !== undefined && item.kind !== 'event')?.a;
  const after = before === undefined ? '' : ` (after ${before.context} ${before.text})`;
  if (state === 'differs' && a !== undefined && b !== undefined) {
    if (a.rows.length > 0 && b.rows.length > 0) {
      const special = sameEventText(a, b, labels, config);
      if (special !== undefined) return `${special}${after}`;
      const fields = eventFields(a.rows, b.rows);
      const place = { state: 'differs' as const, a: a.rows, b: b.rows, fields };
      const { cause } = explainPlaces(stepOp, [place], 0, labels, config);
      return `${cause}: ${a.text} on ${labelA}, ${b.text} on ${labelB}${after}`;
    }
    if (a.word !== undefined && b.word !== undefined && config !== undefined) {
      return `${headline(a, 'other')}: ${a.context} ${a.does}, with another word: ${wordDifferences(a.word, b.word, labels, config)}${after}`;
    }
    return `${headline(a, 'other')}: ${labelA}: ${a.context} ${a.text}; ${labelB}: ${b.context} ${b.text}${after}`;
  }
  const beside = besideOf(pairs, at);
  if (state === 'only-a' && a !== undefined) {
    if (beside !== undefined && beside.kind === a.kind && beside.context === a.context) {
      return `${headline(a, 'other')}: on ${labelA} ${a.context} ${a.text}; on ${labelB} ${beside.context} ${beside.text} instead${after}`;
    }
    const reused = reuseText(a, beside, pairs.slice(at), labels, config);
    if (reused !== undefined) return `${reused}${after}`;
    const later = pairs.slice(at).some(({ b: item }) => item?.key === a.key);
    const missing = later ? `${labelB} does so only later, after something else` : `${labelB} does not`;
    const instead = beside === undefined ? '' : `, it goes on with: ${beside.context} ${beside.text}`;
    return `${headline(a, later ? 'late' : 'missing')}: on ${labelA} ${a.context} ${a.text}; ${missing}${later ? '' : instead}${after}`;
  }
  if (b === undefined) return 'the two differ';
  return `${headline(b, 'extra')}: on ${labelB} ${b.context} ${b.text}, which ${labelA} does not do${after}`;
}

/** Two events of a kind that say most when their words are taken apart: the role of a shadow page, what L1 is told. */
function sameEventText(a: Item, b: Item, labels: Labels, config: KvmConfig | undefined): string | undefined {
  const [x, y] = [a.rows[0]!, b.rows[0]!];
  const event = rowsEvent(a.rows);
  if (config === undefined || event !== rowsEvent(b.rows)) return undefined;
  if (
    event === KvmEvent.GET_PAGE &&
    x.addressLo === y.addressLo &&
    x.addressHi === y.addressHi &&
    x.valueLo !== y.valueLo
  ) {
    const word = (row: Row): SeenWord => ({ format: 'role', lo: row.valueLo >>> 0, hi: 0, level: 0 });
    const gfn = gfnText(x.addressHi * 0x1_0000_0000 + x.addressLo);
    return `another role of a shadow page: the table of ${gfn} is got with ${wordDifferences(word(x), word(y), labels, config)}`;
  }
  if (event === KvmEvent.NESTED_VMEXIT_INJECT && eventFields(a.rows, b.rows).join() === 'exit_info1') {
    const text = ({ valueLo: lo, valueHi: hi }: Row): string => {
      const word = { lo: lo >>> 0, hi: hi >>> 0 };
      const decoded = config.vendor === 'amd' ? decodeNpfExitInfo1(word) : decodeQualification(word);
      return `${hexText(word.lo, word.hi)} (${decoded.short})`;
    };
    const bits: number[] = [];
    for (let bit = 63; bit >= 0; bit--) {
      const half = bit < 32 ? x.valueLo ^ y.valueLo : x.valueHi ^ y.valueHi;
      if (((half >>> (bit & 31)) & 1) !== 0) bits.push(bit);
    }
    const name = config.vendor === 'amd' ? 'EXITINFO1' : 'the exit qualification';
    const what = `${name} differs in ${bits.length === 1 ? 'bit' : 'bits'} ${bits.join(', ')}`;
    return `other information in an exit given to L1: ${what}: ${text(x)} on ${labels[0]}, ${text(y)} on ${labels[1]}`;
  }
  return undefined;
}

/**
 * One side gets a table by frame and role, the other goes on without: with the table that is linked, whatever it is. What
 * it then writes to says which.
 */
function reuseText(
  a: Item,
  beside: Item | undefined,
  rest: readonly Pairing[],
  [labelA, labelB]: Labels,
  config: KvmConfig | undefined,
): string | undefined {
  if (config === undefined || rowsEvent(a.rows) !== KvmEvent.GET_PAGE) return undefined;
  const used = beside?.table ?? rest.find(({ b }) => b?.table !== undefined)?.b?.table;
  const row = a.rows[0]!;
  const gfn = row.addressHi * 0x1_0000_0000 + row.addressLo;
  const wanted = { format: 'role' as const, lo: row.valueLo >>> 0, hi: 0, level: 0 };
  const got = `on ${labelA} a table is got for ${gfnText(gfn)}, role ${seenWordText(wanted, config)}`;
  if (used === undefined) return `a look-up of a shadow page is missing: ${got}; ${labelB} gets none`;
  const held = { format: 'role' as const, lo: used.role >>> 0, hi: 0, level: 0 };
  const differs = [
    used.gfn === gfn ? '' : `it is of another guest frame (${gfnText(used.gfn)})`,
    held.lo === wanted.lo ? '' : `its role differs: ${wordDifferences(wanted, held, [labelA, labelB], config)}`,
  ].filter((text) => text !== '');
  const although = differs.length === 0 ? '' : ` although ${differs.join(' and ')}`;
  return `a child table is reused: ${got}; ${labelB} goes on with the linked table of ${gfnText(used.gfn)}, role ${seenWordText(held, config)},${although}`;
}

/** What the other side has in the place of something that only one has. */
function besideOf(pairs: readonly Pairing[], at: number): Item | undefined {
  const { state } = pairs[at]!;
  const next = pairs.slice(at).find((pair) => pair.state !== state);
  if (next === undefined) return undefined;
  return state === 'only-a' ? next.b : next.a;
}

function headline({ kind, does, rows }: Item, what: 'missing' | 'late' | 'extra' | 'other'): string {
  const isOutcome = rows.length > 0 && rowsEvent(rows) < 0;
  const name =
    (kind === 'event' ? EVENT_MECHANISM[does] : undefined) ?? (isOutcome ? 'outcome' : MECHANISM[kind]) ?? kind;
  switch (what) {
    case 'missing':
      return `${article(name)} ${name} is missing`;
    case 'late':
      return `${article(name)} ${name} comes too late`;
    case 'extra':
      return `one ${name} too many`;
    default:
      return `another ${name}`;
  }
}

function article(name: string): string {
  return /^([aeiou]|MMU|MMIO|SPTE)/.test(name) ? 'an' : 'a';
}

function eventFields(a: readonly Row[], b: readonly Row[]): string[] {
  const event = rowsEvent(a);
  return event < 0 || event !== rowsEvent(b) || a.length !== b.length ? [] : fieldsThatDiffer(event, a, b);
}
