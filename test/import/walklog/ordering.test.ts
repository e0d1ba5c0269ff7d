/** State is printed around the records that change it, before some and after others: what belongs to what. */

import { describe, expect, test } from 'vitest';
import { type Step, stepsOf } from './logs.ts';

const ACCESS = 'A r 0- 1000 1 =1000';

/** Each step as a word or two: what it is, and the registers that it is expected to leave. */
async function told(...records: string[]): Promise<string[]> {
  return (await stepsOf(...records)).map((step) => {
    const [kind] = Object.keys(step) as [string];
    const what = kind === 'register-set' || kind === 'register-write' ? `${kind} ${String(step[kind])}` : kind;
    const rows = ((step['expect'] ?? []) as Step[]).filter((row) => 'register' in row);
    return [what, ...rows.map((row) => `${String(row['register'])}=${String(row['value'] ?? '0x0')}`)].join(' ');
  });
}

describe('a register write', () => {
  test('explains the state before it: an outcome, not a stimulus', async () => {
    expect(await told('S cr3=1000', 'I cr3 8000000000001000', ACCESS)).toEqual([
      'register-write cr3 cr3=0x1000',
      'access',
    ]);
    expect(await told('S cr0=80010011', 'I cr0 80010001')).toEqual(['register-write cr0 cr0=0x80010011']);
    expect(await told('S cr3=1000', 'I task 1000')).toEqual(['register-write cr3 cr3=0x1000']);
  });

  test('with the PDPTE registers that it loads', async () => {
    expect(await told('S cr0=80010011 pdp0=2001 pdp3=5001', 'I cr0 80010011')).toEqual([
      'register-write cr0 cr0=0x80010011 pdpte0=0x2001 pdpte3=0x5001',
    ]);
  });

  test('does not explain another register: that is stated before it', async () => {
    expect(await told('S cr3=1000 efer=d00', 'I cr3 1000')).toEqual([
      'register-set efer',
      'register-write cr3 cr3=0x1000',
    ]);
    expect(await told('S cr4=20', 'I cr3 1000')).toEqual(['register-set cr4', 'register-write cr3']);
    expect(await told('S efer=d01 cr0=80000011', 'I cr0 80000011')).toEqual([
      'register-set efer',
      'register-write cr0 cr0=0x80000011',
    ]);
  });

  test('without state before it promises nothing', async () => {
    expect(await told('I cr4 2020', ACCESS)).toEqual(['register-write cr4', 'access']);
  });

  test('between it and its state there may be what is left out', async () => {
    expect(await told('S cr3=1000', 'F n', 'E 6 0 @0', 'I cr3 1000')).toEqual(['register-write cr3 cr3=0x1000']);
  });

  test('a walk in between takes the state for granted', async () => {
    const walk = 'W rS 0- 1000 0 !PF 0 1000 @0';
    expect(await told('S cr3=1000', walk, 'I cr3 1000')).toEqual(['register-set cr3', 'access', 'register-write cr3']);
  });

  test('state after it is nobody’s outcome', async () => {
    expect(await told('I cr3 1000', 'S cr3=1000', ACCESS)).toEqual([
      'register-write cr3',
      'register-set cr3',
      'access',
    ]);
  });
});

describe('loading PDPTE registers', () => {
  const LOAD = 'P 1000 p0:1000:2001 p1:1008:0 p2:1010:0 p3:1018:0 =ok';
  const isStore = (step: string): boolean => step === 'store';

  test('the state right after it is what it loaded', async () => {
    const steps = await told(LOAD, 'S pdp0=2001 pdp1=0', ACCESS);
    expect(steps.filter((step) => !isStore(step))).toEqual(['pdpte-load pdpte0=0x2001 pdpte1=0x0', 'access']);
  });

  test('of other registers it is state', async () => {
    const steps = await told(LOAD, 'S pdp0=2001 cr4=20', ACCESS);
    expect(steps.filter((step) => !isStore(step))).toEqual(['pdpte-load pdpte0=0x2001', 'register-set cr4', 'access']);
  });

  test('not after another record, and not where the load was refused', async () => {
    const later = await told(LOAD, ACCESS, 'S pdp0=2001', ACCESS);
    expect(later.filter((step) => !isStore(step))).toEqual(['pdpte-load', 'access', 'register-set pdpte0', 'access']);
    const refused = await told(LOAD.replace('=ok', '=bad'), 'S pdp0=2001', ACCESS);
    expect(refused.filter((step) => !isStore(step))).toEqual(['pdpte-load', 'register-set pdpte0', 'access']);
  });

  test('the register write under way when it happens keeps its outcome', async () => {
    const steps = await told('S cr3=1000 efer=0', LOAD, 'S pdp0=2001', 'I cr3 1000');
    expect(steps.filter((step) => !isStore(step))).toEqual([
      'register-set efer',
      'pdpte-load pdpte0=0x2001',
      'register-write cr3 cr3=0x1000',
    ]);
  });

  test('registers printed before it belong to the write that follows', async () => {
    const steps = await told('S cr3=1000 pdp0=2001', LOAD, 'I cr3 1000');
    expect(steps.filter((step) => !isStore(step))).toEqual([
      'pdpte-load',
      'register-write cr3 cr3=0x1000 pdpte0=0x2001',
    ]);
  });
});

describe('VM entry', () => {
  test('comes after the state that it loads, which is printed behind it', async () => {
    expect(await told('V entry', 'S mode=1 eptp=109301e c2=400002', ACCESS)).toEqual([
      'register-set guest_mode',
      'register-set eptp',
      'register-set secondary_controls',
      'nested-entry',
      'access',
    ]);
    expect(await told('V vmrun 1 0', 'S mode=2 ncr3=1000', ACCESS)).toEqual([
      'register-set guest_mode',
      'register-set ncr3',
      'nested-entry',
      'access',
    ]);
  });

  test('comes by itself where no state is behind it', async () => {
    expect(await told('V entry', ACCESS, 'S cr3=1000', ACCESS)).toEqual([
      'nested-entry',
      'access',
      'register-set cr3',
      'access',
    ]);
    expect(await told('V entry')).toEqual(['nested-entry']);
  });

  test('only the first state behind it belongs to it', async () => {
    expect(await told('V entry', 'S mode=1', 'S cr3=1000', 'I cr3 1000')).toEqual([
      'register-set guest_mode',
      'nested-entry',
      'register-write cr3 cr3=0x1000',
    ]);
  });

  test('state before it is stated before it', async () => {
    expect(await told('S cr3=1000', 'V entry', 'S mode=1')).toEqual([
      'register-set cr3',
      'register-set guest_mode',
      'nested-entry',
    ]);
  });

  test('two at once are two', async () => {
    expect(await told('V entry', 'V exit 30 0 @0', 'V entry', 'V entry')).toEqual([
      'nested-entry',
      'nested-exit',
      'nested-entry',
      'nested-entry',
    ]);
  });
});

describe('VM exit', () => {
  test('comes before the state of the host, which is printed behind it', async () => {
    expect(await told('V exit 30 782 @40b6f0', 'S mode=0 eptp=0', ACCESS)).toEqual([
      'nested-exit',
      'register-set guest_mode',
      'register-set eptp',
      'access',
    ]);
  });
});

describe('an EPTP that VMFUNC switches to', () => {
  test('is the state that the next chunk begins with', async () => {
    expect(await told('I vmfunc_eptp 109401e', ACCESS)).toEqual(['eptp-switch', 'access']);
  });
});
