/** A guest that is a hypervisor: what its guest sees is compared alike. KVM's place is taken by processors of our own. */

import { describe, expect, test } from 'vitest';
import { Dim, OBS_DIM_MASK, OBS_DIM_SHIFT, OBS_KIND_MASK, Obs } from '../../src/formats/observation.ts';
import { NESTED_GMET, Reg, SECONDARY_MBEC } from '../../src/formats/registers.ts';
import { ACCESS_SOFTWARE, ACCESS_TYPE_MASK, ACCESS_TYPE_SHIFT, AccessType, StepKind } from '../../src/formats/step.ts';
import { BareMachine } from '../../src/machine/bare.ts';
import { ROW, ROW_ADDRESS_LO, ROW_VALUE_HI, ROW_VALUE_LO } from '../../src/paging/row-log.ts';
import type { KvmMachineMaker, MachineChoice } from '../../src/replay/machines.ts';
import type { GuestComparison, ReplayResult } from '../../src/replay/result.ts';
import type { Stimulus } from '../../src/trace/stimulus.ts';
import { access, header, type Line, lands, replay, state, store } from './small-traces.ts';

const OLD: MachineChoice = { machine: 'kvm', tdp: true, profile: '6.1' };
const NEW: MachineChoice = { machine: 'kvm', tdp: true, profile: '7.3' };
const SHADOW: MachineChoice = { machine: 'kvm', tdp: false };

type Stand = { readonly op: number; readonly apply: (op?: number) => void; readonly machine: BareMachine };

interface StandIn {
  /** Called for every step in place of applying it. */
  readonly step?: (stand: Stand) => void;
  /** Bits that the machine does not let into a register. */
  readonly hides?: readonly [register: number, bits: number];
}

/** A processor in KVM's place, which differs from the recorded one in one way. */
function standIn({ step, hides }: StandIn = {}): { readonly makeKvm: KvmMachineMaker } {
  class StandInMachine extends BareMachine {
    override setRegister(register: number, lo: number, hi: number): void {
      super.setRegister(register, hides?.[0] === register ? lo & ~hides[1] : lo, hi);
    }

    override apply(
      ordinal: number,
      op: number,
      addressLo: number,
      addressHi: number,
      operandLo: number,
      operandHi: number,
      stimuli: readonly Stimulus[],
    ): void {
      const apply = (word = op): void =>
        super.apply(ordinal, word, addressLo, addressHi, operandLo, operandHi, stimuli);
      if (step === undefined) apply();
      else step({ op, apply, machine: this });
    }
  }
  return { makeKvm: (given) => new StandInMachine(given) };
}

/** Changes a number of the first row of that kind in the log. */
function changes(kind: number, at: number, change: (value: number) => number): StandIn {
  return {
    step: ({ apply, machine: { log } }) => {
      apply();
      for (let i = 0; i < log.count; i++) {
        if ((log.op(i) & OBS_KIND_MASK) === kind) log.rows[i * ROW + at] = change(log.rows[i * ROW + at]!);
      }
    },
  };
}

const inMemory = (...entries: readonly (readonly [string, string])[]): Line[] =>
  entries.map(([at, to]) => store(at, to));

/** L2's tables at nGPA 0x1000 to 0x4000, page 5; all of it behind a second stage whose tables are at 0x10000. */
const L2_TABLES = inMemory(
  ['0x101000', '0x2067'],
  ['0x102000', '0x3067'],
  ['0x103000', '0x4067'],
  ['0x104028', '0x5067'],
);

/** EPT that maps nGPA page n to frame 0x100 + n, 0 to 5; `leaf`: low bits by page. */
function ept(leaf: Readonly<Record<number, string>> = {}, table = '007'): Line[] {
  const pages = [1, 2, 3, 4, 5].map((page): [string, string] => [
    `0x130${(8 * page).toString(16).padStart(2, '0')}`,
    `0x10${page}${leaf[page] ?? '037'}`,
  ]);
  return inMemory(['0x10000', `0x11${table}`], ['0x11000', `0x12${table}`], ['0x12000', `0x13${table}`], ...pages);
}

const VMX = { guest_mode: '0x1', secondary_controls: '0x2', eptp: '0x1001e' };
const SVM = {
  ...{ guest_mode: '0x2', nested_control: '0x1', ncr3: '0x10000', asid: '0x1' },
  ...{ host_cr0: '0x80010011', host_cr4: '0x20', host_efer: '0x1d00' },
};
const AMD = { processor: { vendor: 'amd', maxphyaddr: 40, features: ['pse', 'pae', 'nx', 'pdpe1gb', 'smep'] } };
const READ = lands('read', '0x5008', '0x105008');
const WRITE = lands('write', '0x5008', '0x105008');

function violates(type: string, address: string, gpa: string, qualification: string, fields: Line = {}): Line {
  const rows = [{ 'ept-violation': gpa, qualification }, { 'exit-linear': address }];
  return access(type, address, { ...fields, expect: rows });
}

function guestOf(lines: readonly Line[], machine: MachineChoice, by: StandIn = {}): [ReplayResult, GuestComparison] {
  const result = replay(lines, { machine, ...standIn(by) });
  return [result, result.receipt.sameGuest!];
}

/** `[accesses, equal, unexplained]` and the legal differences as `6: 1`. */
function figures(lines: readonly Line[], machine: MachineChoice, by: StandIn = {}): unknown[] {
  const [, { accesses, equal, unexplained, legal }] = guestOf(lines, machine, by);
  return [accesses, equal, unexplained, ...legal.map(({ number, count }) => `${number}: ${count}`)];
}

const UNDER_EPT = [header(), state(VMX), ...L2_TABLES];
const READ_ONLY = violates('write', '0x5008', '0x5008', '0x1aa');

describe("a guest's guest", () => {
  const lines = [...UNDER_EPT, ...ept({ 5: '035' }), READ, READ_ONLY];

  test('sees the same translations and exits', () => {
    const [result, guest] = guestOf(lines, OLD);
    expect([result.verdict, guest.accesses, guest.equal, guest.unexplained]).toEqual(['match', 2, 2, 0]);
  });

  test.each([
    ['qualification', Obs.EPT_VIOLATION, ROW_VALUE_LO],
    ['guest-physical address', Obs.EPT_VIOLATION, ROW_ADDRESS_LO],
    ['linear address', Obs.EXIT_LINEAR, ROW_ADDRESS_LO],
  ])('is found to see another %s', (_, kind, at) => {
    for (const machine of [OLD, NEW]) {
      expect(
        figures(
          lines,
          machine,
          changes(kind, at, (value) => value ^ 0x8),
        ),
      ).toEqual([2, 1, 1]);
    }
  });

  test('is found to see no linear address, unless the recorder sees none either', () => {
    const without: StandIn = {
      step: ({ apply, machine: { log } }) => {
        apply();
        if (log.count > 0 && (log.op(log.count - 1) & OBS_KIND_MASK) === Obs.EXIT_LINEAR) log.count--;
      },
    };
    expect(figures(lines, NEW, without)).toEqual([2, 1, 1]);
    const unseen = [header({ observable: ['translated', 'ept-violation'] }), ...lines.slice(1, -1)];
    const row = { 'ept-violation': '0x5008', qualification: '0x1aa' };
    expect(figures([...unseen, access('write', '0x5008', { expect: [row] })], NEW, without)).toEqual([2, 2, 0]);
  });

  test("has its hypervisor's entries marked: accessed and dirty", () => {
    const marked = [...UNDER_EPT.slice(0, 1), state({ ...VMX, eptp: '0x1005e' }), ...L2_TABLES, ...ept(), WRITE];
    const [result, guest] = guestOf(marked, NEW);
    expect([result.verdict, guest.entries]).toEqual(['match', 8]);
    const forgets: StandIn = {
      step: ({ op, apply, machine }) => {
        apply();
        if ((op & 0x1f) === StepKind.ACCESS) machine.adoptEntry(Obs.ENTRY_AFTER, 0x13028, 0, 0x105137, 0);
      },
    };
    const [wrong, wrongGuest] = guestOf(marked, NEW, forgets);
    expect([wrong.verdict, wrongGuest.unexplained, wrongGuest.groups[0]!.group]).toEqual([
      'diverged',
      1,
      'supervisor write: guest EPT entry differs',
    ]);
    expect(wrong.guestDifferences![0]!.cause).toBe(
      "the guest's EPT entry at 0x13028 is 0x105137 on KVM, 0x105337 on the bare machine",
    );
  });

  test('whose access went elsewhere may have other entries marked', () => {
    const user = { ...VMX, eptp: '0x1005e', secondary_controls: '0x400002' };
    const tables = inMemory(
      ['0x101000', '0x2007'],
      ['0x102000', '0x3007'],
      ['0x103000', '0x4007'],
      ['0x104028', '0x5007'],
    );
    const fetch = violates('fetch', '0x5008', '0x5008', '0x1bc', { user: true, cpl: 3 });
    const lines14 = [header(), state(user), ...tables, ...ept({}, '407'), fetch];
    const mbec: StandIn = { hides: [Reg.SECONDARY_CONTROLS, SECONDARY_MBEC] };
    const [result, guest] = guestOf(lines14, OLD, mbec);
    expect([result.verdict, guest.unexplained, guest.wordsInAd > 0]).toEqual(['match', 0, true]);
  });
});

describe('legal differences of nested paging', () => {
  test('2: tables are read for writing by what is emulated', () => {
    const emulates: StandIn = {
      step: ({ op, apply }) => {
        const write = ((op >>> ACCESS_TYPE_SHIFT) & ACCESS_TYPE_MASK) === AccessType.WRITE;
        apply((op & 0x1f) === StepKind.ACCESS && write ? op | ACCESS_SOFTWARE : op);
      },
    };
    const lines = [...UNDER_EPT, ...ept({ 4: '035' }), READ, WRITE];
    expect(figures(lines, OLD, emulates)).toEqual([2, 1, 0, '2: 1']);
    const reads: StandIn = {
      step: ({ op, apply }) => apply((op & 0x1f) === StepKind.ACCESS ? op | ACCESS_SOFTWARE : op),
    };
    expect(figures([...UNDER_EPT, ...ept({ 4: '035' }), READ], OLD, reads)).toEqual([1, 0, 1]);
  });

  test("6: exits are told as KVM's walks find them", () => {
    const advanced = { processor: { vendor: 'intel', maxphyaddr: 40, features: ['nx'], eptVpidCap: '0x6514141' } };
    const lines = [header(advanced), state(VMX), ...L2_TABLES, ...ept({ 5: '035' })];
    const write = violates('write', '0x5008', '0x5008', '0x7aa');
    const forgets = changes(Obs.EPT_VIOLATION, ROW_VALUE_LO, (value) => value & 0x1bf);
    expect(figures([...lines, write], OLD, forgets)).toEqual([1, 0, 0, '6: 1']);
    expect(figures([...lines, write], NEW, forgets)).toEqual([1, 0, 1]);
    const more = changes(Obs.EPT_VIOLATION, ROW_VALUE_LO, (value) => value & 0x1b7);
    expect(figures([...lines, write], OLD, more)).toEqual([1, 0, 1]);
  });

  test('6: 7.3 knows a table from a final page, where 6.1 does not', () => {
    const npt = inMemory(
      ['0x10000', '0x11067'],
      ['0x11000', '0x12067'],
      ['0x12000', '0x13067'],
      ['0x13008', '0x101067'],
    );
    const row = { npf: '0x2000', exitInfo1: '0x100000006' };
    const software = access('write', '0x5008', { software: true, user: true, cpl: 3, expect: [row] });
    const lines = [header(AMD), state(SVM), ...L2_TABLES, ...npt, software];
    const table = changes(Obs.NPF, ROW_VALUE_HI, () => 2);
    expect(figures(lines, NEW)).toEqual([1, 1, 0]);
    expect(figures(lines, NEW, table)).toEqual([1, 0, 0, '6: 1']);
    expect(figures(lines, OLD, table)).toEqual([1, 0, 1]);
  });

  test('14, 15: 6.1 offers neither MBEC nor GMET', () => {
    const fetch = violates('fetch', '0x5008', '0x5008', '0x1bc', { user: true, cpl: 3 });
    const eptLines = [
      header(),
      state({ ...VMX, secondary_controls: '0x400002' }),
      ...L2_TABLES,
      ...ept({}, '407'),
      fetch,
    ];
    const mbec: StandIn = { hides: [Reg.SECONDARY_CONTROLS, SECONDARY_MBEC] };
    expect(figures(eptLines, OLD, mbec)).toEqual([1, 0, 0, '14: 1']);
    expect(figures(eptLines, NEW, mbec)).toEqual([1, 0, 1]);
    const npt = [1, 2, 3, 4, 5].map((n): [string, string] => [
      `0x130${(8 * n).toString(16).padStart(2, '0')}`,
      `0x10${n}067`,
    ]);
    const tables = inMemory(['0x10000', '0x11067'], ['0x11000', '0x12067'], ['0x12000', '0x13067'], ...npt);
    const trapped = access('fetch', '0x5008', { expect: [{ npf: '0x5008', exitInfo1: '0x100000011' }] });
    const lines = [header(AMD), state({ ...SVM, nested_control: '0x9' }), ...L2_TABLES, ...tables, trapped];
    const gmet: StandIn = { hides: [Reg.NESTED_CONTROL, NESTED_GMET] };
    expect(figures(lines, OLD, gmet)).toEqual([1, 0, 0, '15: 1']);
    expect(figures(lines, NEW, gmet)).toEqual([1, 0, 1]);
  });
});

test('16: the emulator of 7.3 fetches from execute-only pages, not through tables that it may not write', () => {
  const asProcessor: StandIn = {
    step: ({ op, apply }) => apply((op & 0x1f) === StepKind.ACCESS ? op & ~ACCESS_SOFTWARE : op),
  };
  const fetch = access('fetch', '0x5008', { software: true, expect: [{ exception: '#UD' }] });
  const lines = [...UNDER_EPT, ...ept({ 5: '034' }), fetch];
  const caps = { processor: { vendor: 'intel', maxphyaddr: 40, features: ['nx'], eptVpidCap: '0x6114141' } };
  const executeOnly = [header(caps), ...lines.slice(1)];
  expect(figures(executeOnly, NEW, asProcessor)).toEqual([1, 0, 0, '16: 1']);
  expect(figures(executeOnly, OLD, asProcessor)).toEqual([1, 0, 1]);
  const tables = [header(caps), ...UNDER_EPT.slice(1), ...ept({ 4: '035', 5: '034' }), fetch];
  expect(figures(tables, NEW, asProcessor)).toEqual([1, 0, 1]);
});

describe('a KVM with shadow paging', () => {
  const begin = [header(), state(), ...inMemory(['0x1000', '0x2067'], ['0x2000', '0x3067'], ['0x3000', '0x4067'])];
  const own = [store('0x4028', '0x5067'), lands('read', '0x5008', '0x5008')];
  const enter = [
    ...Object.entries(VMX).map(([register, value]) => ({ 'register-set': register, value })),
    { 'nested-entry': 'vmx' },
  ];
  const leave = [
    { 'nested-exit': 'vmx', reason: '0x30' },
    { 'register-set': 'guest_mode', value: '0x0' },
    { 'register-set': 'secondary_controls', value: '0x0' },
  ];

  test('offers no nested paging: what needs it is named and counted, the hypervisor goes on', () => {
    const lines = [
      ...begin,
      ...L2_TABLES,
      ...ept(),
      ...own,
      ...enter,
      READ,
      WRITE,
      store('0x4030', '0x6067'),
      ...leave,
    ];
    const back = [{ invlpg: '0x6000' }, lands('read', '0x6008', '0x6008')];
    const result = replay([...lines, ...back], { machine: SHADOW });
    expect(result.receipt.notModelled).toEqual({ 'nested-tdp-without-tdp': 2 });
    expect(result.receipt.sameGuest).toMatchObject({ accesses: 2, equal: 2, unexplained: 0 });
    expect(result.verdict).toBe('not-modelled');
    const allowed = replay([...lines, ...back], { machine: SHADOW, allowUnmodelled: ['nested-tdp-without-tdp'] });
    expect(allowed.verdict).toBe('match');
  });

  test('is told nothing of it but what reaches memory', () => {
    const told: number[] = [];
    const listens: StandIn = {
      step: ({ op, apply, machine }) => {
        told.push(op & 0x1f);
        expect(machine.registers[2 * Reg.GUEST_MODE]).toBe(0);
        apply();
      },
    };
    guestOf(
      [...begin, ...ept(), ...own, ...enter, READ, { invlpg: '0x0' }, store('0x4030', '0x6067'), ...leave, READ],
      SHADOW,
      listens,
    );
    const kinds = [StepKind.NESTED_ENTRY, StepKind.NESTED_EXIT, StepKind.INVALIDATE] as readonly number[];
    expect(told.filter((kind) => kinds.includes(kind))).toEqual([]);
    expect(told.filter((kind) => kind === StepKind.ACCESS)).toHaveLength(2);
  });
});

test('entries of the second stage are told apart', () => {
  const [{ guestDifferences }] = guestOf(
    [...UNDER_EPT, ...ept({ 5: '035' }), READ_ONLY],
    NEW,
    changes(Obs.EPT_VIOLATION, ROW_VALUE_LO, (v) => v + 1),
  );
  const dims = guestDifferences![0]!.bare.filter(({ op }) => (op & OBS_KIND_MASK) === Obs.ELEMENT);
  expect(dims.some(({ op }) => ((op >>> OBS_DIM_SHIFT) & OBS_DIM_MASK) === Dim.EPT)).toBe(true);
});
