import { describe, expect, test } from 'vitest';
import { OBS_KIND_MASK, Obs } from '../../src/formats/observation.ts';
import { STEP_KIND_MASK, StepKind } from '../../src/formats/step.ts';
import { KvmMachine } from '../../src/machine/kvm/machine.ts';
import { Mutant } from '../../src/mmu/mutants.ts';
import { ROW, ROW_ADDRESS_LO, ROW_VALUE_LO } from '../../src/paging/row-log.ts';
import type { KvmMachineMaker, MachineChoice } from '../../src/replay/machines.ts';
import type { GuestComparison, ReplayResult } from '../../src/replay/result.ts';
import type { ReplayOptions } from '../../src/replay/session.ts';
import type { Stimulus } from '../../src/trace/stimulus.ts';
import { access, header, type Line, lands, replay, state, store, TABLES } from './small-traces.ts';

const AMD = { processor: { vendor: 'amd', maxphyaddr: 40, features: ['pse', 'pae', 'pge', 'nx', 'pdpe1gb', 'pku'] } };
const MACHINES: readonly MachineChoice[] = [
  { tdp: true, tdpMmu: true },
  { tdp: true, tdpMmu: false },
  { tdp: false },
].flatMap((choice) => (['6.1', '7.3'] as const).map((profile) => ({ machine: 'kvm' as const, profile, ...choice })));
const SHADOW: MachineChoice = { machine: 'kvm', tdp: false };
const TDP: MachineChoice = { machine: 'kvm', tdp: true };

function onKvm(lines: readonly Line[], machine: MachineChoice, options: ReplayOptions = {}): ReplayResult {
  return replay(lines, { machine, ...options });
}

function guestOf({ receipt }: ReplayResult): GuestComparison {
  return receipt.sameGuest!;
}

/** `[accesses, equal, stale, unexplained]` and the legal differences as `3: 1`. */
function figures(result: ReplayResult): unknown[] {
  const { accesses, equal, stale, unexplained, legal } = guestOf(result);
  return [accesses, equal, stale, unexplained, ...legal.map(({ number, count }) => `${number}: ${count}`)];
}

function faults(type: string, address: string, error: string, fields: Line = {}): Line {
  return access(type, address, { ...fields, expect: [{ exception: '#PF', error, cr2: address }] });
}

const BEGIN = [header(), state(), ...TABLES];
const READ = lands('read', '0x5008', '0x5008');
const WRITE = lands('write', '0x5008', '0x5008');
const READ_ONLY = store('0x4028', '0x5065');
const INVLPG: Line = { invlpg: '0x5000' };

/** A KVM that is wrong in one way. */
function wrong(change: (machine: KvmMachine, kind: number, apply: () => void) => void): {
  readonly makeKvm: KvmMachineMaker;
} {
  class Wrong extends KvmMachine {
    override apply(
      ordinal: number,
      op: number,
      addressLo: number,
      addressHi: number,
      operandLo: number,
      operandHi: number,
      stimuli: readonly Stimulus[],
    ): void {
      change(this, op & STEP_KIND_MASK, () =>
        super.apply(ordinal, op, addressLo, addressHi, operandLo, operandHi, stimuli),
      );
    }
  }
  return { makeKvm: (given, config, options) => new Wrong(given, config, options) };
}

/** Adds to a number of the row that says how the last access ended. */
function addToOutcome(kind: number, at: number, amount: number): { readonly makeKvm: KvmMachineMaker } {
  return wrong(({ log }, _kind, apply) => {
    apply();
    const last = log.count - 1;
    if (last >= 0 && (log.op(last) & OBS_KIND_MASK) === kind) log.rows[last * ROW + at]! += amount;
  });
}

function deafTo(what: number): { readonly makeKvm: KvmMachineMaker } {
  return wrong(({ log }, kind, apply) => {
    if (kind === what) log.count = 0;
    else apply();
  });
}

describe('a guest that sees the same', () => {
  test.each(MACHINES)('whatever KVM is below it: %j', (machine) => {
    for (const fields of [{}, AMD]) {
      const absent = faults('write', '0x7000', '0x2');
      const lines = [header(fields), state(), ...TABLES, READ, WRITE, absent, READ_ONLY, INVLPG, READ];
      const denied = faults('write', '0x5008', '0x3');
      const result = onKvm([...lines, denied, { 'register-write': 'cr3', value: '0x1000' }, READ], machine);
      expect(result.verdict).toBe('match');
      expect(figures(result)).toEqual([6, 6, 0, 0]);
      expect(guestOf(result)).toMatchObject({ registerWrites: 1, words: 2048, wordsInAd: 0, undetermined: 0 });
      expect(result.guestDifferences).toEqual([]);
    }
  });

  test('has accessed and dirty bits set alike, and answers the recording’s questions', () => {
    const bare = [store('0x1000', '0x2007'), store('0x2000', '0x3007'), store('0x3000', '0x4007')];
    const after = { 'entry-after': '0x4028', level: 1, value: '0x5067' };
    const write = access('write', '0x5008', {
      expect: [{ translated: '0x5008', page: '4k', guestPhysical: '0x5008' }, after],
    });
    for (const machine of MACHINES) {
      const result = onKvm([header(), state(), ...bare, store('0x4028', '0x5007'), write], machine);
      expect(result.verdict).toBe('match');
      expect(guestOf(result)).toMatchObject({ entries: 4, questions: 1, wordsInAd: 0 });
    }
  });

  test('may not be as recorded: the recording is then the one that differs', () => {
    const result = onKvm([...BEGIN, lands('read', '0x5008', '0x9008')], SHADOW);
    expect([result.verdict, result.receipt.diverged, guestOf(result).asBare]).toEqual(['diverged', 1, 1]);
    expect(guestOf(result).unexplained).toBe(0);
  });

  test('makes independent accesses each from a state of its own', () => {
    const lines = [
      header({ independent: true }),
      state(),
      ...TABLES,
      WRITE,
      READ_ONLY,
      faults('write', '0x5008', '0x3'),
    ];
    for (const machine of MACHINES) expect(figures(onKvm(lines, machine))).toEqual([2, 2, 0, 0]);
  });

  test('is compared also where it is a hypervisor itself, and its guest runs', () => {
    const nested = { 'register-set': 'guest_mode', value: '0x1' };
    expect(figures(onKvm([...BEGIN, READ, nested, READ], TDP))).toEqual([2, 2, 0, 0]);
    expect(onKvm(BEGIN, TDP).verdict).toBe('nothing-compared');
  });
});

describe('a translation that is out of date', () => {
  test('is lawful while nothing has invalidated it', () => {
    const walked = faults('write', '0x5008', '0x3', { walked: true });
    const result = onKvm([...BEGIN, WRITE, READ_ONLY, walked], SHADOW);
    expect([result.verdict, ...figures(result)]).toEqual(['match', 2, 1, 1, 0]);
  });

  test('stays lawful for the guest on KVM when another processor has noticed', () => {
    const walked = faults('write', '0x5008', '0x3', { walked: true });
    expect(figures(onKvm([...BEGIN, WRITE, READ_ONLY, walked, walked], SHADOW))).toEqual([3, 1, 2, 0]);
  });

  test('is a difference once it has been invalidated', () => {
    const deaf = deafTo(StepKind.INVALIDATE);
    const lines = [...BEGIN, WRITE, READ_ONLY, INVLPG, faults('write', '0x5008', '0x3')];
    for (const machine of MACHINES) {
      const result = onKvm(lines, machine, deaf);
      expect([result.verdict, ...figures(result)]).toEqual(['diverged', 2, 1, 0, 1]);
      expect(result.guestDifferences![0]).toMatchObject({
        step: 7,
        group: 'supervisor write: expected #PF 0x3, on KVM translated',
        cause:
          'the guest on KVM: translated to 0x5008; the recording: #PF error 0x3 cr2 0x5008; an earlier value of an entry would explain that, but it was invalidated at step 6',
      });
    }
  });

  test('may be one that only the bare machine has', () => {
    const result = onKvm([...BEGIN, READ, store('0x4028', '0x6067'), lands('read', '0x5008', '0x5008')], SHADOW);
    expect(figures(result).slice(2)).toEqual([expect.any(Number), 0]);
  });
});

describe('legal differences', () => {
  /** Page 5 has key 1; it is read while that is allowed, then the key denies reading, or writing. */
  const denied = (type: string, pkru: string, error: string): Line[] => [
    header(),
    state({ cr4: '0x400020' }),
    ...TABLES.slice(0, 3),
    store('0x4028', '0x0800000000005067'),
    lands(type, '0x5008', '0x5008', { user: true }),
    { 'register-write': 'pkru', value: pkru },
    faults(type, '0x5008', error, { user: true }),
  ];
  const NO_EXECUTE = store('0x4028', '0x8000000000005067');

  test('3: NX stays on in shadow roots', () => {
    const off: Line = { 'register-write': 'efer', value: '0x500' };
    const lines = [header(), state(), ...TABLES.slice(0, 3), NO_EXECUTE, READ, off, faults('read', '0x5008', '0x9')];
    expect(figures(onKvm(lines, SHADOW))).toEqual([2, 1, 0, 0, '3: 1']);
    expect(figures(onKvm(lines, TDP))).toEqual([2, 2, 0, 0]);
  });

  test('7: protection keys are not there under shadow paging', () => {
    for (const lines of [denied('read', '0x4', '0x25'), denied('write', '0x8', '0x27')]) {
      expect(figures(onKvm(lines, SHADOW))).toEqual([2, 1, 0, 0, '7: 1']);
      expect(figures(onKvm(lines, TDP))).toEqual([2, 2, 0, 0]);
    }
  });

  test('9: shadow stacks are not there under shadow paging', () => {
    const stack = [store('0x4028', '0x5065'), lands('write', '0x5008', '0x5008', { user: true, shadowStack: true })];
    const lines = [header(), state({ cr4: '0x800020' }), ...TABLES.slice(0, 3), ...stack];
    expect(figures(onKvm(lines, SHADOW))).toEqual([1, 0, 0, 0, '9: 1']);
    expect(figures(onKvm(lines, TDP))).toEqual([1, 1, 0, 0]);
  });

  test('10: PDPTEs are read from memory under NPT', () => {
    const pae = state({ cr0: '0x80010011', cr3: '0x1000', cr4: '0x20', efer: '0x800', pdpte0: '0x3001' });
    const tables = [store('0x1000', '0x3001'), store('0x3000', '0x4067'), store('0x4028', '0x5067')];
    const late = [store('0x1008', '0x3001'), faults('read', '0x40005008', '0x0')];
    const lines = (fields: Line): Line[] => [header(fields), pae, ...tables, READ, ...late];
    expect(figures(onKvm(lines(AMD), TDP))).toEqual([2, 1, 0, 0, '10: 1']);
    expect(figures(onKvm(lines(AMD), SHADOW))).toEqual([2, 2, 0, 0]);
    expect(figures(onKvm(lines({}), TDP))).toEqual([2, 2, 0, 0]);
  });

  test('11: CR4.PSE is in no role of a shadow page', () => {
    const legacy = state({ cr0: '0x80010011', cr3: '0x1000', cr4: '0x10', efer: '0x0' });
    const large = [store('0x1004', '0x4000e7', { size: 4 }), lands('read', '0x401040', '0x401040')];
    const off = [{ 'register-write': 'cr4', value: '0x0' }, faults('read', '0x401040', '0x0')];
    const lines = [header(), legacy, ...large, ...off];
    expect(figures(onKvm(lines, SHADOW))).toEqual([2, 1, 0, 0, '11: 1']);
    expect(figures(onKvm(lines, TDP))).toEqual([2, 2, 0, 0]);
  });

  test('take with them the accessed and dirty bits of their walks, and no others', () => {
    const clean = denied('write', '0x8', '0x27').map((line) =>
      line['store'] === '0x4028' ? store('0x4028', '0x0800000000005007') : line,
    );
    const first = lands('read', '0x5008', '0x5008', { user: true });
    const lines = clean.map((line) => (line['access'] === 'write' && line['physical'] !== undefined ? first : line));
    expect(guestOf(onKvm(lines, SHADOW)).unexplained).toBe(0);
  });

  test('excuse nothing but their own outcome', () => {
    const elsewhere = addToOutcome(Obs.TRANSLATED, ROW_ADDRESS_LO, 0x1000);
    const result = onKvm(denied('read', '0x4', '0x25'), SHADOW, elsewhere);
    expect([result.verdict, ...figures(result)]).toEqual(['diverged', 2, 0, 0, 2]);
    const under = onKvm(denied('read', '0x4', '0x25'), TDP, addToOutcome(Obs.EXCEPTION, ROW_VALUE_LO, -0x20));
    expect([under.verdict, ...figures(under)]).toEqual(['diverged', 2, 1, 0, 1]);
  });
});

describe('a wrong KVM is found', () => {
  test.each(MACHINES)('by another address: %j', (machine) => {
    const result = onKvm([...BEGIN, READ, READ], machine, addToOutcome(Obs.TRANSLATED, ROW_ADDRESS_LO, 0x1000));
    expect([result.verdict, ...figures(result)]).toEqual(['diverged', 2, 0, 0, 2]);
    expect(guestOf(result).groups).toEqual([
      { group: 'supervisor read: expected translated, on KVM translated', count: 2, first: 4 },
    ]);
    const [first] = result.guestDifferences!;
    expect(first!.cause).toBe('the guest on KVM: translated to 0x6008; the recording: translated to 0x5008');
    expect(first!.kvm.some(({ op }) => (op & OBS_KIND_MASK) === Obs.KVM_EVENT)).toBe(true);
    expect(first!.bare.length).toBeGreaterThan(0);
  });

  test('and where the past is too long to judge by it there is no match', () => {
    const values = Array.from({ length: 70 }, (_, i) => store('0x4028', `0x${(0x100 + i).toString(16)}067`));
    const lines = [...BEGIN, ...values, INVLPG, store('0x4028', '0x5067'), READ];
    expect(onKvm(lines, TDP).verdict).toBe('match');
    const wild = addToOutcome(Obs.TRANSLATED, ROW_ADDRESS_LO, 0x1000);
    const result = onKvm(lines, TDP, wild);
    expect([result.verdict, guestOf(result).undetermined, guestOf(result).unexplained]).toEqual(['undetermined', 1, 0]);
    expect(onKvm(lines, TDP, { ...wild, allowUnmodelled: ['undetermined'] }).verdict).toBe('match');
  });

  test('by an error code, and by CR2', () => {
    const lines = [...BEGIN, faults('write', '0x7000', '0x2')];
    for (const at of [ROW_VALUE_LO, ROW_ADDRESS_LO]) {
      expect(figures(onKvm(lines, TDP, addToOutcome(Obs.EXCEPTION, at, 4)))).toEqual([1, 0, 0, 1]);
    }
  });

  test('where the recording says only that, and the bare machine how, an access ended', () => {
    const completed = access('read', '0x5008', { expect: [{ completed: true }] });
    const wild = addToOutcome(Obs.TRANSLATED, ROW_ADDRESS_LO, 0x1000);
    expect(figures(onKvm([...BEGIN, completed], TDP, wild))).toEqual([1, 0, 0, 1]);
    expect(figures(onKvm([...BEGIN, access('read', '0x5008')], TDP, wild))).toEqual([1, 0, 0, 1]);
  });

  test('by dirty bits that it forgets', () => {
    const forgets = wrong((machine, kind, apply) => {
      apply();
      if (kind === StepKind.ACCESS) machine.adoptEntry(Obs.ENTRY_AFTER, 0x4028, 0, 0x5027, 0);
    });
    const lines = [header(), state(), ...TABLES.slice(0, 3), store('0x4028', '0x5007'), WRITE];
    const result = onKvm(lines, SHADOW, forgets);
    expect(figures(result)).toEqual([1, 1, 0, 1]);
    expect(result.guestDifferences![0]!.cause).toBe(
      "the guest's entry at 0x4028 is 0x5027 on KVM, 0x5067 on the bare machine",
    );
  });

  test('by what it leaves in memory that nobody looks at again', () => {
    const scribbles = wrong((machine, kind, apply) => {
      apply();
      if (kind === StepKind.ACCESS) machine.adoptEntry(Obs.ENTRY_AFTER, 0x4800, 0, 0x40, 0);
    });
    const result = onKvm([...BEGIN, READ], TDP, scribbles);
    expect([result.verdict, ...figures(result)]).toEqual(['diverged', 1, 1, 0, 1]);
    expect(guestOf(result).groups[0]!.group).toBe('guest memory differs at the end');
  });

  test('by a register', () => {
    const deaf = deafTo(StepKind.REGISTER_WRITE);
    const result = onKvm([...BEGIN, READ, { 'register-write': 'cr0', value: '0x80000011' }], SHADOW, deaf);
    expect(result.guestDifferences!.map(({ cause }) => cause)).toEqual([
      'after the step cr0 holds 0x80010011 on KVM, expected 0x80000011',
    ]);
  });

  test('by its coming to an end', () => {
    const breaks = wrong((_machine, kind, apply) => {
      if (kind === StepKind.ACCESS) throw new Error('out of ideas');
      apply();
    });
    const result = onKvm([...BEGIN, READ, READ], TDP, breaks);
    expect([result.verdict, result.receipt.diverged, guestOf(result).unexplained]).toEqual(['diverged', 0, 1]);
    expect(result.guestDifferences![0]!.cause).toBe('the emulated KVM cannot go on: out of ideas');
  });

  test('by a historical bug', () => {
    const bug = (lines: Line[], mutant: number): string[] => {
      for (const machine of MACHINES) expect(guestOf(onKvm(lines, machine)).unexplained).toBe(0);
      const result = onKvm(lines, { ...SHADOW, mutants: [mutant] });
      expect(result.verdict).toBe('diverged');
      return guestOf(result).groups.map(({ group }) => group);
    };
    const denied = [...TABLES.slice(0, 3), store('0x4028', '0x5005'), faults('write', '0x5008', '0x3')];
    expect(bug([header(), state(), ...denied], Mutant.ACCESSED_BEFORE_RIGHTS)).toEqual([
      'guest memory differs at the end',
    ]);
    const noNx = state({ efer: '0x500' });
    expect(bug([header(), noNx, ...TABLES, faults('fetch', '0x7000', '0x0')], Mutant.FETCH_ALWAYS)).toEqual([
      'supervisor fetch: expected #PF 0x0, on KVM #PF 0x10',
    ]);
  });
});

describe('what is compared', () => {
  const wild = addToOutcome(Obs.TRANSLATED, ROW_ADDRESS_LO, 0x1000);
  const lines = [...BEGIN, READ, READ, WRITE];

  test('can be a range, or filtered', () => {
    expect(figures(onKvm(lines, TDP, { ...wild, from: 5, to: 6 }))).toEqual([1, 0, 0, 1]);
    expect(figures(onKvm(lines, TDP, { ...wild, filter: (_columns, index) => index === 6 }))).toEqual([1, 0, 0, 1]);
    expect(guestOf(onKvm(lines, TDP, { from: 5 })).words).toBe(0);
  });

  test('ends with --bail', () => {
    expect(figures(onKvm(lines, TDP, { ...wild, bail: true }))).toEqual([1, 0, 0, 1]);
  });

  test('is kept up to a number', () => {
    const { guestDifferences, receipt } = onKvm(lines, TDP, { ...wild, maxDiffs: 2 });
    expect([guestDifferences!.length, receipt.sameGuest!.unexplained]).toEqual([2, 3]);
  });
});
