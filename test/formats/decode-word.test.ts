import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { fromBigInt } from '../../src/bits/word64.ts';
import { DECODE_FORMATS, decodeFormat } from '../../src/formats/decode/catalog.ts';
import {
  CR0_FIELDS,
  CR4_FIELDS,
  cr3Fields,
  EFER_FIELDS,
  PKRU_FIELDS,
} from '../../src/formats/decode/control-register.ts';
import { eptEntryFields, eptpFields } from '../../src/formats/decode/ept.ts';
import { NPF_FIELDS, pfecFields, qualificationFields } from '../../src/formats/decode/fault.ts';
import { extendedRoleFields, KVM_PROFILES, roleFields } from '../../src/formats/decode/kvm-role.ts';
import { spteFields } from '../../src/formats/decode/kvm-spte.ts';
import { PAGING_MODES, pageTableEntryFields, TOP_LEVEL } from '../../src/formats/decode/page-table-entry.ts';
import {
  bitsOf,
  decodeWord,
  type FieldSpec,
  flag,
  jsonForm,
  longForm,
  reserved,
} from '../../src/formats/decode/word.ts';

/** The bits of 63:0 that the fields do not cover exactly once. */
function uncovered(specs: readonly FieldSpec[]): number[] {
  const seen = new Array<number>(64).fill(0);
  for (const spec of specs) for (let bit = spec.low; bit <= spec.high; bit++) seen[bit] = (seen[bit] ?? 0) + 1;
  return seen.flatMap((n, bit) => (n === 1 ? [] : [bit]));
}

const anyWord = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

describe('every format covers each bit of the word exactly once', () => {
  test('registers, error codes and roles', () => {
    for (const specs of [
      CR0_FIELDS,
      CR4_FIELDS,
      EFER_FIELDS,
      PKRU_FIELDS,
      cr3Fields(),
      cr3Fields({ pcide: true }),
      cr3Fields({ pae: true }),
      eptpFields(),
      eptpFields({ maxphyaddr: 40 }),
      pfecFields('intel'),
      pfecFields('amd'),
      NPF_FIELDS,
      ...KVM_PROFILES.flatMap((profile) => [roleFields(profile), extendedRoleFields(profile)]),
    ]) {
      expect(uncovered(specs)).toEqual([]);
    }
  });

  test('page-table entries of every mode, level, vendor and width', () => {
    fc.assert(
      fc.property(
        anyWord,
        fc.constantFrom(...PAGING_MODES),
        fc.nat(4),
        fc.constantFrom('intel' as const, 'amd' as const),
        fc.integer({ min: 32, max: 52 }),
        fc.boolean(),
        (word, paging, n, vendor, maxphyaddr, pse) => {
          const level = 1 + (n % TOP_LEVEL[paging]);
          const context = { paging, vendor, maxphyaddr, pse };
          expect(uncovered(pageTableEntryFields(fromBigInt(word | 1n), level, context))).toEqual([]);
          expect(uncovered(pageTableEntryFields(fromBigInt(word & ~1n), level, context))).toEqual([]);
        },
      ),
    );
  });

  test('EPT entries, qualifications and SPTEs', () => {
    const flagOrUnknown = fc.constantFrom(undefined, true, false);
    fc.assert(
      fc.property(
        anyWord,
        fc.integer({ min: 1, max: 5 }),
        flagOrUnknown,
        flagOrUnknown,
        fc.constantFrom(...KVM_PROFILES),
        fc.integer({ min: 32, max: 52 }),
        (bits, level, mbec, other, profile, maxphyaddr) => {
          const word = fromBigInt(bits);
          expect(uncovered(eptEntryFields(word, level, { mbec, accessedDirty: other, maxphyaddr }))).toEqual([]);
          expect(uncovered(qualificationFields(word, { mbec, advanced: other }))).toEqual([]);
          expect(uncovered(spteFields(word, { profile, ept: other === true, level }))).toEqual([]);
        },
      ),
    );
  });
});

test('bitsOf takes the same bits as shifting a BigInt does', () => {
  fc.assert(
    fc.property(anyWord, fc.nat(63), fc.nat(52), (word, low, width) => {
      const high = Math.min(63, low + width);
      const expected = (word >> BigInt(low)) & ((1n << BigInt(high - low + 1)) - 1n);
      expect(BigInt(bitsOf(fromBigInt(word), high, low))).toBe(expected);
    }),
  );
});

describe('the forms', () => {
  const specs = [flag('p', 0, 'P', 'present', 'not present'), ...reserved(31, 1), ...reserved(63, 32)];

  test('reserved bits are shown only when they are set', () => {
    expect(longForm(decodeWord('X', fromBigInt(1n), specs))).toEqual(['X 0x1: P', '  0  p  0x1  present']);
    expect(longForm(decodeWord('X', fromBigInt(5n), specs))).toEqual([
      'X 0x5: P RSVD(31:1)',
      '     0  p         0x1  present',
      '  31:1  reserved  0x2  reserved, must be 0',
    ]);
  });

  test('a word with no bit set is a dash', () => {
    expect(decodeWord('X', fromBigInt(0n), specs).short).toBe('-');
  });

  test('JSON has numbers as hexadecimal strings', () => {
    expect(jsonForm(decodeWord('X', fromBigInt(1n), specs))).toEqual({
      title: 'X',
      word: '0x1',
      short: 'P',
      fields: [{ bits: '0', name: 'p', value: '0x1', words: 'present' }],
    });
  });
});

describe('the catalog', () => {
  test('names and aliases are unique', () => {
    const names = DECODE_FORMATS.flatMap((format) => [format.name, ...format.aliases]);
    expect(new Set(names).size).toBe(names.length);
  });

  test('every format decodes every word without throwing', () => {
    fc.assert(
      fc.property(fc.constantFrom(...DECODE_FORMATS), anyWord, (format, word) => {
        expect(format.decode(fromBigInt(word), {}).short).not.toBe('');
      }),
    );
  });

  test('an alias finds its format, anything else none', () => {
    expect(decodeFormat('npf')?.name).toBe('exitinfo1');
    expect(decodeFormat('pfe')).toBeUndefined();
  });
});
