/** Error codes that KVM makes of exit qualifications, by kernel (facts/kvm-mmu.md §6.1). */

import { describe, expect, test } from 'vitest';
import { defaultKvmConfig } from '../../../src/formats/kvm-config.ts';
import { ErrorCode } from '../../../src/machine/kvm/exit-code.ts';

const P = 1;
const W = 2;
const U = 4;
const RSVD = 8;
const F = 0x10;
const FINAL = 1;
const PAGE = 2;

interface Rules {
  readonly advancedInfo?: boolean;
  readonly mbec?: boolean;
}

function errorOf(profile: '6.1' | '7.3', qualification: number, rules: Rules = {}): readonly [number, number] {
  const config = defaultKvmConfig({ vendor: 'intel', profile });
  const code = new ErrorCode({ config, advancedInfo: rules.advancedInfo === true });
  code.take(qualification, 0, false, rules.mbec === true);
  return [code.lo, code.hi];
}

describe('6.1', () => {
  test.each([
    ['a read counts as one by the user', 0x181, [U, FINAL]],
    ['a write', 0x182, [W, FINAL]],
    ['a fetch', 0x184, [F, FINAL]],
    ['what is present', 0x1aa, [P | W, FINAL]],
    ['a table, read and written', 0x83, [U | W, PAGE]],
    ['without a linear address bit 8 counts all the same', 0x001, [U, PAGE]],
    ['user execute is no right', 0x1c4, [F, FINAL]],
  ] as const)('%s', (_, qualification, expected) => {
    expect(errorOf('6.1', qualification)).toEqual(expected);
  });
});

describe('7.3', () => {
  test.each([
    ['a read', 0x181, {}, [0, FINAL]],
    ['a write to what is present', 0x1aa, {}, [P | W, FINAL]],
    ['a table', 0x82, {}, [W, PAGE]],
    ['without a linear address neither', 0x001, {}, [0, 0]],
    ['a user page, where the processor tells', 0x384, { advancedInfo: true }, [U | F, FINAL]],
    ['a user page, where it does not', 0x384, {}, [F, FINAL]],
    ['a table has no user', 0x284, { advancedInfo: true }, [F, PAGE]],
    ['user execute with MBEC', 0x1c4, { mbec: true }, [P | F, FINAL]],
    ['user execute without', 0x1c4, {}, [F, FINAL]],
  ] as const)('%s', (_, qualification, rules, expected) => {
    expect(errorOf('7.3', qualification, rules)).toEqual(expected);
  });
});

test('a misconfiguration is a reserved bit; error codes of #PF and NPF are taken as they are', () => {
  const ept = new ErrorCode({ config: defaultKvmConfig({ vendor: 'intel' }), advancedInfo: false });
  ept.take(0x181, 0, true, false);
  expect([ept.lo, ept.hi]).toEqual([RSVD, 0]);
  const npt = new ErrorCode({ config: defaultKvmConfig({ vendor: 'amd' }), advancedInfo: false });
  npt.take(P | W | U, PAGE, false, false);
  expect([npt.lo, npt.hi]).toEqual([P | W | U, PAGE]);
});
