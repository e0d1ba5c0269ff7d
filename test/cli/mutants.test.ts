import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { MUTANTS, Mutant, Mutants } from '../../src/mmu/mutants.ts';
import { WalkBug } from '../../src/paging/walk-bugs.ts';
import { rewalk } from './cli.ts';

const TRACE = fileURLToPath(new URL('../../traces/mutants/m58-fetch-always.rwt', import.meta.url));
const KVM = ['--machine', 'kvm', '--tdp', 'off'];

describe('the table', () => {
  test('has a text for every bug that there is a switch for, ascending', () => {
    expect(MUTANTS.map(({ number }) => number)).toEqual(Object.values(Mutant));
    expect(MUTANTS.filter(({ name }) => !/^m\d\d[a-z]?-[a-z0-9]+(-[a-z0-9]+)+$/.test(name))).toEqual([]);
  });

  test('no name is the beginning of another one', () => {
    const names = MUTANTS.map(({ name }) => name.slice(4));
    expect(names.filter((name) => names.some((other) => other !== name && other.startsWith(name)))).toEqual([]);
  });

  test('bugs of the software walk are given to the walk, others are not', () => {
    expect(new Mutants([Mutant.FETCH_ALWAYS, Mutant.OLD_WP]).walkBugs).toBe(WalkBug.FETCH_ALWAYS | WalkBug.OLD_WP);
    expect(new Mutants([Mutant.NX_SHARED]).walkBugs).toBe(0);
    expect(new Mutants().walkBugs).toBe(0);
  });
});

describe('rewalk mutants', () => {
  test('lists names and sentences', async () => {
    const { status, stdout } = await rewalk('mutants');
    expect(status).toBe(0);
    expect(stdout.trimEnd().split('\n')).toEqual(
      MUTANTS.map(({ name, sentence }) => expect.stringMatching(new RegExp(`^${name} +${sentence.slice(0, 20)}`))),
    );
  });

  test('as JSON', async () => {
    const { stdout } = await rewalk('mutants', '--json');
    expect(JSON.parse(stdout)).toEqual({ mutants: MUTANTS });
  });
});

describe('rewalk replay --mutant', () => {
  test.each(['m58-fetch-always', 'fetch-always', 'm58', '58'])('%s is told in the receipt, and found', async (name) => {
    const { status, stdout } = await rewalk('replay', TRACE, ...KVM, '--mutant', name);
    expect(status).toBe(1);
    expect(stdout).toContain('machine   kvm 6.1, shadow paging, with m58-fetch-always; ');
    expect(stdout).toMatch(/^step 2: /m);
  });

  test('one option with commas, or several', async () => {
    for (const given of [['m58,m2'], ['m58', '--mutant', 'm02', '--mutant', '2']]) {
      const { stdout } = await rewalk('replay', TRACE, ...KVM, '--mutant', ...given);
      expect(stdout).toContain('with m02-ad-elsewhere and m58-fetch-always; ');
    }
  });

  test.each([
    ['fetch-allways', 'did you mean m58-fetch-always?'],
    ['m58-fetch', 'did you mean m58-fetch-always?'],
    ['m01-inherited', 'did you mean m01-inherited-permissions?'],
    ['99999', 'rewalk mutants says what each of them is'],
  ])('%s is none: %s', async (name, hint) => {
    const { status, stderr } = await rewalk('replay', TRACE, ...KVM, '--mutant', name);
    expect(status).toBe(2);
    expect(stderr).toContain(`E_USAGE: --mutant "${name}": expected one of m01-inherited-permissions, m02-`);
    expect(stderr).toContain(hint);
  });

  test('a bare processor has no KVM to put one into', async () => {
    const explicit = await rewalk('replay', TRACE, '--machine', 'bare', '--mutant', 'm58');
    expect([explicit.status, explicit.stderr]).toEqual([
      2,
      expect.stringContaining('--machine bare has no KVM below it: --mutant cannot apply'),
    ]);
    const implied = await rewalk('replay', TRACE, '--mutant', 'm58');
    expect([implied.status, implied.stderr]).toEqual([2, expect.stringContaining('add --machine kvm')]);
  });
});
