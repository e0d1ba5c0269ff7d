import { describe, expect, test } from 'vitest';
import { type GivenMachines, sidesOf, usualScope } from '../../src/compare/sides.ts';

function given(options: Partial<GivenMachines>): GivenMachines {
  return { machine: [], profile: [], wiring: [], tdp: [], tdpMmu: [], mutant: [], ...options };
}

function labels(options: Partial<GivenMachines>): string[] {
  return sidesOf(given(options)).map(({ label }) => label);
}

describe('the two machines', () => {
  test('differ in what is given twice; what is given once is common to both', () => {
    const [a, b] = sidesOf(given({ wiring: ['walk-mmu', 'gva-walk'], profile: ['7.3'] }));
    expect([a.label, b.label]).toEqual(['walk-mmu', 'gva-walk']);
    expect([a.choice.wiring, b.choice.wiring]).toEqual(['walk-mmu', 'gva-walk']);
    for (const { choice } of [a, b]) expect(choice).toMatchObject({ machine: 'kvm', profile: '7.3' });
  });

  test('have labels with all that tells them apart', () => {
    expect(labels({ tdp: [true, false], profile: ['6.1', '7.3'] })).toEqual(['6.1, TDP on', '7.3, TDP off']);
    expect(labels({ tdpMmu: [true, false] })).toEqual(['TDP MMU on', 'TDP MMU off']);
    expect(labels({ mutant: [[1], [5, 6]] })).toEqual([
      'm01-inherited-permissions',
      'm05-child-of-other-gfn and m06-child-of-other-role',
    ]);
  });

  test('are a clean one and one with the mutant, if that is all that is given', () => {
    const [a, b] = sidesOf(given({ mutant: [[1]], profile: ['7.3'] }));
    expect([a.label, b.label]).toEqual(['clean', 'm01-inherited-permissions']);
    expect([a.choice.mutants, b.choice.mutants]).toEqual([[], [1]]);
  });

  test('have a mutant in common that is given once beside something given twice', () => {
    const sides = sidesOf(given({ mutant: [[1]], wiring: ['walk-mmu', 'gva-walk'] }));
    expect(sides.map(({ choice }) => choice.mutants)).toEqual([[1], [1]]);
  });

  test('may be a bare one and one with KVM: what is given once applies to that', () => {
    const sides = sidesOf(given({ machine: ['bare', 'kvm'], tdp: [false] }));
    expect(sides.map(({ choice }) => [choice.machine, choice.tdp])).toEqual([
      ['bare', undefined],
      ['kvm', false],
    ]);
  });

  test.each([
    [{}, 'both machines are the same'],
    [{ wiring: ['gva-walk'] }, 'both machines are the same'],
    [{ wiring: ['gva-walk', 'gva-walk'] }, 'both machines are the same: gva-walk'],
    [{ mutant: [[1], [1]] }, 'both machines are the same: m01-inherited-permissions'],
    [{ profile: ['6.1', '7.3', '6.1'] }, '--profile is given more than twice'],
    [{ machine: ['bare', 'kvm'], tdp: [true, false] }, '--machine bare has no KVM below it'],
    [{ tdp: [false], tdpMmu: [true, false] }, '--tdp off and --tdp-mmu on exclude each other'],
  ] as [Partial<GivenMachines>, string][])('are refused: %j', (options, sentence) => {
    expect(() => sidesOf(given(options))).toThrow(sentence);
  });
});

test('everything is compared of machines that should build the same tables, of others what the guest sees', () => {
  expect(usualScope(given({ wiring: ['walk-mmu', 'gva-walk'], tdp: [true] }))).toBe('all');
  expect(usualScope(given({ mutant: [[1]] }))).toBe('all');
  expect(usualScope(given({ tdp: [true, false] }))).toBe('guest');
  expect(usualScope(given({ profile: ['6.1', '7.3'] }))).toBe('guest');
});
