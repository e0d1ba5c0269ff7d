/**
 * In which way two words of one meaning differ, in a few words that are equal for equal changes: which named fields, or
 * which bits. Words of two kernels are compared by the names of their fields, whatever bits those have.
 */

import type { Word64 } from '../bits/word64.ts';
import { pfecFields, qualificationFields } from '../formats/decode/fault.ts';
import { roleFields } from '../formats/decode/kvm-role.ts';
import { spteFields, spteKind } from '../formats/decode/kvm-spte.ts';
import { bitRange, bitsOf, type FieldSpec } from '../formats/decode/word.ts';
import type { KvmConfig } from '../formats/kvm-config.ts';

interface NamedValue {
  readonly value: number;
  readonly bits: string;
}

/** Values by field name; fields without a meaning by their bits, where they are not 0. */
function valuesOf(word: Word64, fields: readonly FieldSpec[], without: ReadonlySet<string>): Map<string, NamedValue> {
  const values = new Map<string, NamedValue>();
  for (const { name, high, low, meaningless } of fields) {
    if (without.has(name)) continue;
    const value = bitsOf(word, high, low);
    if (!meaningless) values.set(name, { value, bits: bitRange(high, low) });
    else if (value !== 0) {
      for (let bit = low; bit <= high; bit++) {
        if (bitsOf(word, bit, bit) === 1) values.set(`bit ${bit}`, { value: 1, bits: '' });
      }
    }
  }
  return values;
}

function bitsText(a: NamedValue | undefined, b: NamedValue | undefined): string {
  if (a === undefined || b === undefined) return (a ?? b)!.bits === '' ? '' : ` (bit ${(a ?? b)!.bits})`;
  if (a.bits === '') return '';
  return ` (bit ${a.bits === b.bits ? a.bits : `${a.bits}, there ${b.bits}`})`;
}

/** `a 1 → 0 (bit 8), ad-type 0 → 1 (bit 53:52)`. */
function namedChanges(a: Map<string, NamedValue>, b: Map<string, NamedValue>): string {
  const names = new Set([...a.keys(), ...b.keys()]);
  const parts: string[] = [];
  for (const name of names) {
    const [x, y] = [a.get(name), b.get(name)];
    if ((x?.value ?? 0) === (y?.value ?? 0)) continue;
    parts.push(`${name} ${valueText(x)} → ${valueText(y)}${bitsText(x, y)}`);
  }
  return parts.join(', ');
}

function valueText(value: NamedValue | undefined): string {
  return value === undefined ? '0' : value.value > 0xffff ? 'other' : value.value.toString(16);
}

/** `bit 5 1 → 0, bits 12 and up differ`; single bits only where few of them differ. */
export function bitChanges(a: Word64, b: Word64): string {
  if (isSame(a, b)) return '';
  const changed: number[] = [];
  for (let bit = 0; bit < 64; bit++) if (bitsOf(a, bit, bit) !== bitsOf(b, bit, bit)) changed.push(bit);
  if (changed.length === 0) return '';
  const single = changed.filter((bit) => bit < 12 || bit > 51);
  const address = changed.length > single.length ? ['the address in it'] : [];
  if (single.length > 4) return 'other bits';
  return [...single.map((bit) => `bit ${bit} ${bitsOf(a, bit, bit)} → ${bitsOf(b, bit, bit)}`), ...address].join(', ');
}

function hasTables(mmu: KvmConfig): boolean {
  return mmu.vendor === 'intel' && mmu.tdp;
}

const FRAME: ReadonlySet<string> = new Set(['pfn']);
const NO_NAMES: ReadonlySet<string> = new Set();

/** Two SPTEs without their host frames. `level`: of the table that they stand in. */
export function spteChanges(
  a: Word64,
  b: Word64,
  level: number,
  mmus: readonly [a: KvmConfig | undefined, b: KvmConfig | undefined],
): string {
  const [mmuA, mmuB] = mmus;
  if (mmuA === undefined || mmuB === undefined || level < 1 || level > 5) return bitChanges(frameless(a), frameless(b));
  if (mmuA.profile === mmuB.profile && hasTables(mmuA) === hasTables(mmuB) && isSame(frameless(a), frameless(b)))
    return '';
  const contextA = { profile: mmuA.profile, ept: hasTables(mmuA), level };
  const contextB = { profile: mmuB.profile, ept: hasTables(mmuB), level };
  const [kindA, kindB] = [spteKind(a, contextA), spteKind(b, contextB)];
  if (kindA !== kindB) return `${kindA} → ${kindB}`;
  if (kindA === 'frozen' || kindA === 'empty') return '';
  return namedChanges(valuesOf(a, spteFields(a, contextA), FRAME), valuesOf(b, spteFields(b, contextB), FRAME));
}

function isSame(a: Word64, b: Word64): boolean {
  return a.lo === b.lo && a.hi === b.hi;
}

/** The word without bits 51:12 if KVM calls it present (bit 11). */
function frameless(word: Word64): Word64 {
  return (word.lo & (1 << 11)) === 0 ? word : { lo: word.lo & 0xfff, hi: (word.hi & 0xfff0_0000) >>> 0 };
}

/** Two base role words; `bits`: those that both recordings have. */
export function roleChanges(
  a: number,
  b: number,
  bits: number,
  [mmuA, mmuB]: readonly [a: KvmConfig | undefined, b: KvmConfig | undefined],
): string {
  const [x, y] = [
    { lo: (a & bits) >>> 0, hi: 0 },
    { lo: (b & bits) >>> 0, hi: 0 },
  ];
  if (mmuA === undefined || mmuB === undefined) return bitChanges(x, y);
  if (mmuA.profile === mmuB.profile && x.lo === y.lo) return '';
  return namedChanges(valuesOf(x, roleFields(mmuA.profile), NO_NAMES), valuesOf(y, roleFields(mmuB.profile), NO_NAMES));
}

/** The fields of what `kvm_page_fault` prints as error code on such a host. */
function exitFields(word: Word64, mmu: KvmConfig | undefined): readonly FieldSpec[] {
  return mmu !== undefined && hasTables(mmu) ? qualificationFields(word) : pfecFields(mmu?.vendor ?? 'intel');
}

/** Two page-fault error codes of KVM's software, which are x86's whatever the host. */
export function pfecChanges(a: Word64, b: Word64): string {
  return namedChanges(valuesOf(a, pfecFields('amd'), NO_NAMES), valuesOf(b, pfecFields('amd'), NO_NAMES));
}

/** Two error codes, or EPT qualifications, with which exits came. */
export function exitChanges(
  a: Word64,
  b: Word64,
  [mmuA, mmuB]: readonly [a: KvmConfig | undefined, b: KvmConfig | undefined],
): string {
  if (mmuA !== undefined && mmuB !== undefined && hasTables(mmuA) !== hasTables(mmuB)) return bitChanges(a, b);
  return namedChanges(valuesOf(a, exitFields(a, mmuA), NO_NAMES), valuesOf(b, exitFields(b, mmuB), NO_NAMES));
}
