import { describe, expect, test } from 'vitest';
import type { EventCount } from '../../src/replay/event-counters.ts';
import type { Divergence, ReplayResult } from '../../src/replay/result.ts';
import {
  changed,
  ENTRY,
  fault,
  getPage,
  pageFault,
  replayScript,
  type Scripted,
  type ScriptOptions,
  setSpte,
} from './scripted.ts';
import type { Line } from './small-traces.ts';

const FAULT = fault('0x100000');

function eventOf({ receipt }: ReplayResult, name: string): EventCount {
  const found = receipt.events.find(({ event }) => event === name);
  if (found === undefined) throw new Error(`no ${name} among ${receipt.events.map(({ event }) => event)}`);
  return found;
}

/** `[predicted, renamed, learned, input, diverged]` by field. */
function fieldsOf(result: ReplayResult, event: string): Record<string, number[]> {
  return Object.fromEntries(
    eventOf(result, event).fields.map((f) => [f.field, [f.predicted, f.renamed, f.learned, f.input, f.diverged]]),
  );
}

/** What of the events was not equal: `[diverged, missing, extra]`. */
function unequal(result: ReplayResult, event: string): number[] {
  const { diverged, missing, extra } = eventOf(result, event);
  return [diverged, missing, extra];
}

function only(result: ReplayResult): Divergence {
  if (result.receipt.diverged !== 1) throw new Error(`${result.receipt.diverged} divergences where one is due`);
  return result.divergences[0]!;
}

/** The divergence of one step of a fault with these events. */
function oneStep(recorded: readonly Line[], replayed: readonly Line[], options: ScriptOptions = {}): Divergence {
  return only(replayScript([{ step: FAULT, recorded, replayed }], options));
}

function states({ pairs }: Divergence): string[] {
  return pairs!.map(({ state }) => state);
}

describe('events that are the recorded ones', () => {
  const recorded = [
    pageFault('0x100000'),
    { kvm: 'spte-requested', gfn: '0x100', pfn: '0x29d3', level: 1 },
    getPage('0x0', '0x1784'),
    changed('0x0', 5, '0x0', '0xf3a7827'),
    setSpte('0x100', '0x29d3e67', '0xf3a4800'),
  ];
  const replayed = [
    pageFault('0x100000'),
    { kvm: 'spte-requested', gfn: '0x100', pfn: '0x1100', level: 1 },
    getPage('0x0', '0x1784'),
    changed('0x0', 5, '0x0', '0x300001827'),
    setSpte('0x100', '0x1100e67', '0x300004800'),
  ];
  const steps: Scripted[] = [{ step: FAULT, recorded, replayed }];

  test('match, host frames under their names', () => {
    const result = replayScript(steps);
    expect([result.verdict, result.receipt.diverged]).toEqual(['match', 0]);
    expect(result.receipt.machine).toBe('kvm 6.1, NPT, TDP MMU');
    expect(fieldsOf(result, 'set-spte')).toEqual({
      gfn: [1, 0, 0, 0, 0],
      spte: [1, 0, 0, 0, 0],
      'spte frame': [0, 1, 0, 0, 0],
      r: [1, 0, 0, 0, 0],
      x: [1, 0, 0, 0, 0],
      u: [1, 0, 0, 0, 0],
      no_u: [1, 0, 0, 0, 0],
      level: [1, 0, 0, 0, 0],
      sptep: [0, 0, 1, 0, 0],
    });
    expect(fieldsOf(result, 'spte-requested')).toEqual({
      gfn: [1, 0, 0, 0, 0],
      pfn: [0, 0, 1, 0, 0],
      level: [1, 0, 0, 0, 0],
    });
    expect(fieldsOf(result, 'tdp-spte-changed')).toMatchObject({
      old_spte: [1, 0, 0, 0, 0],
      'new_spte frame': [0, 0, 1, 0, 0],
    });
  });

  test('only those without a learned or input field are predicted as a whole', () => {
    const result = replayScript([...steps, { ...steps[0]! }]);
    expect(result.receipt.events.map(({ event, events, whollyPredicted }) => [event, events, whollyPredicted])).toEqual(
      [
        ['get-page', 2, 2],
        ['set-spte', 2, 1],
        ['spte-requested', 2, 1],
        ['tdp-spte-changed', 2, 1],
        ['page-fault', 2, 0],
      ],
    );
    expect(result.receipt.observationsPredicted).toBe(5);
  });

  test('the fault that the step tells is input; of its error code what the machine found in its tables is predicted', () => {
    expect(fieldsOf(replayScript(steps), 'page-fault')).toEqual({
      fault_address: [0, 0, 0, 1, 0],
      error_code: [0, 0, 0, 1, 0],
    });
    expect(fieldsOf(replayScript(steps, { predictsFaults: true }), 'page-fault')).toEqual({
      fault_address: [0, 0, 0, 1, 0],
      error_code: [0, 0, 0, 1, 0],
      'error_code of the tables': [1, 0, 0, 0, 0],
    });
  });

  test('a fault that the machine came to by itself is a prediction', () => {
    const access = { access: 'read', address: '0x100000' };
    const result = replayScript([{ step: access, recorded: [pageFault('0x100000'), { completed: true }] }]);
    expect(fieldsOf(result, 'page-fault')).toEqual({ fault_address: [1, 0, 0, 0, 0], error_code: [1, 0, 0, 0, 0] });
    expect(result.receipt.counts.map(({ kind, observations }) => [kind, observations])).toEqual([['completed', 1]]);
  });
});

describe('frames', () => {
  const step = (recorded: Line[], replayed: Line[], tables: Scripted['tables'] = []): Scripted => ({
    step: FAULT,
    recorded,
    replayed,
    tables,
  });

  test('a page that has another name is a wrong frame, said with both; the recorded name holds from there on', () => {
    const result = replayScript([
      step([setSpte('0x100', '0x29d3e67', '0xf3a4800')], [setSpte('0x100', '0x1100e67', '0x300004800')]),
      step([setSpte('0x101', '0x29d4e67', '0xf3a4808')], [setSpte('0x101', '0x1100e67', '0x300004808')]),
      step([setSpte('0x101', '0x29d4e67', '0xf3a4808')], [setSpte('0x101', '0x1100e67', '0x300004808')]),
    ]);
    const divergence = only(result);
    expect([divergence.step, divergence.group]).toEqual([1, 'fault-exit: set-spte (wrong frame in spte)']);
    expect(divergence.cause).toBe(
      "set-spte gfn 0x101 level 1: wrong frame: spte names page 0x29d4000, the replay's 0x1100000 stands for 0x29d3000",
    );
    expect(unequal(result, 'set-spte')).toEqual([1, 0, 0]);
  });

  test('a table that has another name, or whose name another table has', () => {
    const names = [changed('0x0', 4, '0x0', '0xf3a6827'), changed('0x8000000', 4, '0x0', '0xf3a5827')];
    const mine = [changed('0x0', 4, '0x0', '0x300006827'), changed('0x8000000', 4, '0x0', '0x300005827')];
    const crossed = oneStep(
      [...names, setSpte('0x100', '0x29d3e67', '0xf3a6800')],
      [...mine, setSpte('0x100', '0x1100e67', '0x300005800')],
    );
    expect(crossed.cause).toBe(
      "set-spte gfn 0x100 level 1: wrong frame: sptep names table 0xf3a6000, the replay's 0x300005000 stands for 0xf3a5000",
    );
    const taken = oneStep(
      [...names, setSpte('0x100', '0x29d3e67', '0xf3a6800')],
      [...mine, setSpte('0x100', '0x1100e67', '0x300009800')],
    );
    expect(taken.cause).toContain('which another one of the replay stands for, not 0x300009000');
  });

  test('a table whose frame the machine takes anew has a new name from that row on', () => {
    const recorded = [
      changed('0x0', 4, '0x0', '0xf3a6827'),
      changed('0x0', 4, '0xf3a6827', '0x5a0'),
      changed('0x0', 4, '0x0', '0xf777827'),
    ];
    const replayed = [
      changed('0x0', 4, '0x0', '0x300006827'),
      changed('0x0', 4, '0x300006827', '0x5a0'),
      changed('0x0', 4, '0x0', '0x300006827'),
    ];
    expect(oneStep(recorded, replayed).group).toBe('fault-exit: tdp-spte-changed (wrong frame in new_spte)');
    // Each event has one KVM_MORE row.
    const tables = [
      { row: 4, frame: 0x30_0006, taken: false },
      { row: 4, frame: 0x30_0006, taken: true },
    ];
    expect(replayScript([step(recorded, replayed, tables)]).verdict).toBe('match');
    const early = tables.map((use) => ({ ...use, row: 2 }));
    const result = replayScript([step(recorded, replayed, early)]);
    expect(result.receipt.diverged).toBe(1);
  });

  test('a table taken after the last row has a new name in the next step', () => {
    const tables = [{ row: 2, frame: 0x30_0006, taken: true }];
    const result = replayScript([
      step([changed('0x0', 4, '0x0', '0xf3a6827')], [changed('0x0', 4, '0x0', '0x300006827')], tables),
      step([changed('0x0', 4, '0x0', '0xf777827')], [changed('0x0', 4, '0x0', '0x300006827')]),
    ]);
    expect(result.receipt.diverged).toBe(0);
  });

  test('kernel addresses of SPTEs are in the same name space', () => {
    const fast = (sptep: string): Line => ({
      kvm: 'fast-page-fault',
      cr2_or_gpa: '0x401040',
      error_code: '0x7',
      sptep,
      old_spte: '0x0',
      new_spte: '0x0',
    });
    const result = replayScript([
      step(
        [changed('0x0', 2, '0x0', '0xf3a2827'), fast('0xff1100000f3a2008'), fast('0xff1100000f3a2010')],
        [changed('0x0', 2, '0x0', '0x300002827'), fast('0x300002008'), fast('0x300002010')],
      ),
      step([fast('0xff1100000f3a3008')], [fast('0x300003008')]),
      step([setSpte('0x1', '0x29d3e67', '0xf3a3008')], [setSpte('0x1', '0x1100e67', '0x300003008')]),
      step([fast('0xff1100000f3a2008')], [fast('0x300003008')]),
    ]);
    expect(only(result).step).toBe(3);
    expect(fieldsOf(result, 'fast-page-fault')).toMatchObject({ sptep: [0, 1, 2, 0, 1] });
    expect(fieldsOf(result, 'set-spte')).toMatchObject({ sptep: [0, 1, 0, 0, 0] });
  });

  test('what holds no frame is compared as it is: no slot, MMIO, frozen', () => {
    const noSlot = { kvm: 'spte-requested', gfn: '0xe0000', pfn: '0x8000000000000000', level: 1 };
    const mmio = (spte: string): Line => ({ kvm: 'check-mmio-spte', spte, kvm_gen: 8, spte_gen: 8 });
    const same = [noSlot, mmio('0x80000e0000047'), changed('0x1', 1, '0x5a0', '0x0')];
    const result = replayScript([{ step: FAULT, recorded: same }]);
    expect([result.verdict, result.receipt.observationsPredicted]).toEqual(['match', 3]);
    expect(oneStep([noSlot], [{ ...noSlot, pfn: '0x1100' }]).group).toBe('fault-exit: spte-requested (pfn)');
    expect(oneStep([mmio('0x80000e0000047')], [mmio('0x80000e0001047')]).group).toBe(
      'fault-exit: check-mmio-spte (spte gfn)',
    );
  });

  test('pages that share a recorded frame are told in the receipt', () => {
    const RO = { rwx: 'r-xu' };
    const result = replayScript([
      step([setSpte('0x1', '0x3310825', '0xf3a3008', RO)], [setSpte('0x1', '0x1001825', '0x300003008', RO)]),
      step([setSpte('0x2', '0x3310825', '0xf3a3010', RO)], [setSpte('0x2', '0x1002825', '0x300003010', RO)]),
    ]);
    expect(result.receipt.diverged).toBe(0);
    expect(result.receipt.limits).toEqual(['host frames of the replay that share a recorded one with others: 1']);
  });

  test('of a large mapping lie where its first one says', () => {
    const large = (spte: string, sptep: string): Line => setSpte('0x200', spte, sptep, { level: 2 });
    const result = replayScript([
      step([large('0x800ee7', '0xf3a3008')], [large('0x1200ee7', '0x300003008')]),
      step([setSpte('0x205', '0x805e67', '0xf3a4028')], [setSpte('0x205', '0x1205e67', '0x300004028')]),
      step([setSpte('0x206', '0x807e67', '0xf3a4030')], [setSpte('0x206', '0x1206e67', '0x300004030')]),
    ]);
    expect(only(result).step).toBe(2);
    expect(fieldsOf(result, 'set-spte')).toMatchObject({ 'spte frame': [0, 1, 1, 0, 0] });
  });
});

describe('a difference', () => {
  const spte = (low: string, gfn = '0x100'): Line => setSpte(gfn, `0x29d3${low}`, '0xf3a4800');

  test('in an SPTE is said by the bits that differ', () => {
    const divergence = oneStep([spte('e47')], [spte('e67')]);
    expect(divergence.cause).toBe(
      'set-spte gfn 0x100 level 1: spte 0x29d3e47 was recorded, 0x29d3e67 replayed: ' +
        'a (bit 5) not accessed in the recording, accessed in the replay',
    );
    expect(divergence.group).toBe('fault-exit: set-spte (spte a)');
  });

  test('in an EPT entry is said by its format', () => {
    const mmu = { vendor: 'intel', tdpLevel: 4 };
    const divergence = oneStep([spte('b77')], [spte('a77')], { mmu });
    expect(divergence.group).toBe('fault-exit: set-spte (spte a)');
    expect(divergence.cause).toContain('a (bit 8)');
  });

  test('between entries of different kinds is said so', () => {
    expect(oneStep([changed('0x1', 1, '0x0', '0x29d3e67')], [changed('0x1', 1, '0x0', '0x5a0')]).cause).toBe(
      'tdp-spte-changed gfn 0x1 level 1: new_spte 0x29d3e67 was recorded, 0x5a0 replayed: leaf in the recording, frozen in the replay',
    );
  });

  test('in a role is said by its fields', () => {
    const divergence = oneStep([getPage('0x0', '0x1784')], [getPage('0x0', '0x3784')]);
    expect(divergence.cause).toContain('cr0-wp (bit 13) CR0.WP clear in the recording, CR0.WP in the replay');
    expect(divergence.group).toBe('fault-exit: get-page (role cr0-wp)');
  });

  test('in a number or a flag is said by its name', () => {
    const divergence = oneStep([getPage('0x0', '0x1784', { root_count: 1 })], [getPage('0x0', '0x1784')]);
    expect(divergence.cause).toBe('get-page gfn 0x0: root_count 0x1 was recorded, 0x0 replayed');
    expect(oneStep([getPage('0x0', '0x1')], [getPage('0x0', '0x1', { created: false })]).group).toBe(
      'fault-exit: get-page (created)',
    );
  });

  test('is one event that was not recorded, and not all that follow', () => {
    const events = Array.from({ length: 40 }, (_, i) => changed(`0x${i.toString(16)}`, 1, '0x0', '0x5a0'));
    const more = [...events.slice(0, 7), changed('0x99', 1, '0x0', '0x5a0'), ...events.slice(7)];
    const extra = oneStep(events, more);
    expect(states(extra).filter((state) => state !== 'equal')).toEqual(['extra']);
    expect([extra.firstDifference, extra.cause]).toEqual([
      7,
      'the replay has tdp-spte-changed gfn 0x99 level 1, which was not recorded',
    ]);
    expect(extra.group).toBe('fault-exit: recorded nothing, replayed tdp-spte-changed');
    const missing = oneStep(more, events);
    expect(states(missing).filter((state) => state !== 'equal')).toEqual(['missing']);
    expect(missing.cause).toBe('the recording has tdp-spte-changed gfn 0x99 level 1, which the replay lacks');
    const result = replayScript([{ step: FAULT, recorded: more, replayed: events }]);
    const { events: equal, whollyPredicted } = eventOf(result, 'tdp-spte-changed');
    expect([equal, whollyPredicted, ...unequal(result, 'tdp-spte-changed')]).toEqual([40, 40, 0, 1, 0]);
  });

  test('is one event in the place of another', () => {
    const divergence = oneStep([spte('e67')], [getPage('0x0', '0x1784')]);
    expect(states(divergence)).toEqual(['missing', 'extra']);
    expect(divergence.group).toBe('fault-exit: recorded set-spte, replayed get-page');
    expect(divergence.cause).toBe('the recording has set-spte gfn 0x100 level 1, the replay get-page gfn 0x0');
  });

  test('of an access is an exit that was not recorded', () => {
    const access = { access: 'read', address: '0x100000' };
    const replayed = [pageFault('0x100000'), { translated: '0x100000', page: '4k', guestPhysical: '0x100000' }];
    const divergence = only(replayScript([{ step: access, recorded: [{ completed: true }], replayed }]));
    expect(divergence.group).toBe('supervisor read: recorded nothing, replayed page-fault');
    expect(states(divergence)).toEqual(['extra', 'equal']);
  });

  test('of an access whose address only was seen, too', () => {
    const access = { access: 'read', address: '0x100000', physical: '0x100000' };
    const lands = { translated: '0x100000', page: '4k', guestPhysical: '0x100000' };
    const steps = (replayed: Line[]): Scripted[] => [{ step: access, recorded: [], replayed }];
    expect(replayScript(steps([lands])).verdict).toBe('match');
    expect(only(replayScript(steps([pageFault('0x100000'), lands]))).group).toContain('replayed page-fault');
  });

  test('of a step of which nothing was recorded is an event', () => {
    const divergence = only(replayScript([{ step: ENTRY, recorded: [], replayed: [getPage('0x0', '0x1')] }]));
    expect(divergence.group).toBe('vm-entry: recorded nothing, replayed get-page');
  });

  test('in how an access ended is said as ever', () => {
    const access = { access: 'read', address: '0x100000' };
    const divergence = only(
      replayScript([
        {
          step: access,
          recorded: [spte('e67'), { exception: '#PF', error: '0x4', cr2: '0x100000' }],
          replayed: [spte('e67'), { translated: '0x5000', page: '4k' }],
        },
      ]),
    );
    expect([divergence.group, divergence.firstDifference]).toEqual([
      'supervisor read: recorded #PF 0x4, replayed translated',
      1,
    ]);
  });

  test('in a register after the step is said as ever, and what was recorded is taken over', () => {
    const ask = (value: string): Line => ({ register: 'cr3', value });
    const result = replayScript([
      { step: ENTRY, recorded: [spte('e67'), ask('0x1000')], replayed: [spte('e67')] },
      { step: ENTRY, recorded: [spte('e67'), ask('0x1000')], replayed: [spte('e67')] },
    ]);
    expect(only(result)).toMatchObject({ step: 0, cause: 'after the step cr3 holds 0x0, recorded was 0x1000' });
  });
});

describe('after a divergence', () => {
  const good = changed('0x1', 1, '0x0', '0x5a0');
  const bad: Scripted = { step: FAULT, recorded: [good], replayed: [] };
  const other: Scripted = { step: ENTRY, recorded: [], replayed: [good] };
  const fine: Scripted = { step: FAULT, recorded: [good] };

  test('groups tell which of them begin a run of diverging steps', () => {
    const { receipt } = replayScript([bad, other, bad, fine, bad, other]);
    expect(receipt.groups).toEqual([
      { group: 'fault-exit: recorded tdp-spte-changed, replayed nothing', count: 3, first: 0, leads: 2 },
      { group: 'vm-entry: recorded nothing, replayed tdp-spte-changed', count: 2, first: 1, leads: 0 },
    ]);
  });

  test('a step without observations ends no run', () => {
    const idle: Scripted = { step: { note: 'x' }, recorded: [] };
    expect(replayScript([bad, idle, other]).receipt.groups[1]!.leads).toBe(0);
  });

  test('bail ends the replay', () => {
    expect(replayScript([fine, bad, fine, bad], { bail: true }).receipt).toMatchObject({ steps: 2, diverged: 1 });
  });

  test('an expectation takes it', () => {
    const group = 'fault-exit: recorded tdp-spte-changed, replayed nothing';
    const expectations = [{ fault: 'a-fault', reason: 'because', group, count: 1 }];
    const result = replayScript([fine, bad], { expectations });
    expect([result.verdict, result.receipt.expected]).toEqual(['match', { 'a-fault': 1 }]);
  });

  test('an expectation covers no step that differs elsewhere, too', () => {
    const wrong = changed('0x7', 1, '0x0', '0x5a0');
    const step = (more: readonly Line[]): Scripted => ({
      step: FAULT,
      recorded: [pageFault('0x1', '0x6'), ...more],
      replayed: [pageFault('0x1', '0x7'), good],
    });
    const { group } = only(replayScript([step([good])]));
    expect(group).toBe('fault-exit: page-fault (error_code bit 0)');
    const expectations = [{ fault: 'a-fault', reason: 'because', group, count: 1 }];
    expect(replayScript([step([good])], { expectations }).verdict).toBe('match');
    expect(replayScript([step([good, wrong])], { expectations }).receipt.diverged).toBe(1);
    expect(replayScript([step([])], { expectations }).receipt.diverged).toBe(1);
  });

  test('an entry at a level that has no pages is compared as one of a table', () => {
    const recorded = [changed('0x0', 4, '0x0', '0x80008e7')];
    const replayed = [changed('0x0', 3, '0x0', '0x80008e7')];
    expect(oneStep(recorded, replayed).group).toBe('fault-exit: tdp-spte-changed (level)');
    expect(replayScript([{ step: FAULT, recorded }]).receipt.diverged).toBe(0);
  });

  test('names that stand in what is alike are learned all the same', () => {
    const result = replayScript([
      {
        step: FAULT,
        recorded: [good, changed('0x0', 2, '0x0', '0xf3a2827')],
        replayed: [changed('0x0', 2, '0x0', '0x300002827')],
      },
      {
        step: FAULT,
        recorded: [setSpte('0x1', '0x29d3e67', '0xf3a2008')],
        replayed: [setSpte('0x1', '0x1100e67', '0x300002008')],
      },
    ]);
    expect(only(result).step).toBe(0);
    expect(fieldsOf(result, 'set-spte')).toMatchObject({ sptep: [0, 1, 0, 0, 0] });
  });
});

describe("the host's doing", () => {
  const unmap: Line = { kvm: 'unmap-hva-range', start: '0x7f0000001000', end: '0x7f0000002000' };
  const after = changed('0x1', 1, '0x0', '0x5a0');

  test('is input', () => {
    const result = replayScript([{ step: FAULT, recorded: [unmap, after] }]);
    expect(fieldsOf(result, 'unmap-hva-range')).toEqual({ start: [0, 0, 0, 1, 0], end: [0, 0, 0, 1, 0] });
    expect(result.receipt.observationsPredicted).toBe(1);
  });

  test('is no difference where the replay had no part in it, but counted', () => {
    const result = replayScript([{ step: FAULT, recorded: [unmap, after], replayed: [after] }]);
    expect([result.verdict, eventOf(result, 'unmap-hva-range').unanswered]).toEqual(['match', 1]);
    const last = replayScript([{ step: FAULT, recorded: [after, unmap], replayed: [after] }]);
    expect(last.verdict).toBe('match');
  });

  test('is one where only the replay had it', () => {
    expect(oneStep([after], [unmap, after]).cause).toBe(
      'the replay has unmap-hva-range start 0x7f0000001000, which was not recorded',
    );
  });

  test('is counted once in a step that differs elsewhere', () => {
    const result = replayScript([
      { step: FAULT, recorded: [unmap, { completed: true }], replayed: [unmap] },
      { step: FAULT, recorded: [unmap, after], replayed: [unmap] },
      { step: FAULT, recorded: [after, unmap], replayed: [unmap] },
    ]);
    expect([eventOf(result, 'unmap-hva-range').events, result.receipt.diverged]).toEqual([3, 3]);
  });
});

describe('what a recording does not tell', () => {
  test('events that the recorder had switched off are passed over', () => {
    const inject: Line = { kvm: 'inj-exception', exception: '#PF', has_error: true, error_code: '0x4' };
    const step: Scripted = {
      step: FAULT,
      recorded: [pageFault('0x100000')],
      replayed: [pageFault('0x100000'), inject],
    };
    expect(replayScript([step]).verdict).toBe('diverged');
    const result = replayScript([step], { parameters: ['events-not-recorded=inj-exception,mmio'] });
    expect(result.receipt.diverged).toBe(0);
  });

  test('further rows of an event that is passed over go with it', () => {
    const mark: Line = { kvm: 'mark-mmio-spte', sptep: '0x300002008', gfn: '0xe0000', access: '0x7', gen: 8 };
    const after = changed('0x1', 1, '0x0', '0x5a0');
    const parameters = ['events-not-recorded=mark-mmio-spte'];
    const result = replayScript([{ step: FAULT, recorded: [after], replayed: [mark, after] }], { parameters });
    expect(result.verdict).toBe('match');
  });

  test('role bits that the text does not print', () => {
    const step: Scripted = { step: ENTRY, recorded: [getPage('0x0', '0x1784')], replayed: [getPage('0x0', '0x3784')] };
    expect(replayScript([step]).verdict).toBe('diverged');
    expect(replayScript([step], { parameters: ['role-bits=0x1fff'] }).verdict).toBe('match');
    expect(replayScript([step], { parameters: ['role-bits=0x2000'] }).verdict).toBe('diverged');
  });

  test('stands in the receipt', () => {
    const step: Scripted = { step: ENTRY, recorded: [getPage('0x0', '0x1784')] };
    const parameters = ['events-not-recorded=mmio,inj-exception', 'role-bits=0x1fff'];
    expect(replayScript([step], { parameters }).receipt.limits).toEqual([
      'events of KVM that were not recorded and are not compared: inj-exception, mmio',
      'of role words only these bits were recorded: 0x1fff',
    ]);
    expect(replayScript([step]).receipt.limits).toEqual([]);
  });

  test('an entry that was first known in this very step is learned', () => {
    const element: Line = { kvm: 'paging-element', pte: '0x201027', level: 4 };
    const store: Scripted = {
      step: { store: '0x1000', value: '0x201027', knowledge: true, provenance: 'inferred' },
      recorded: [],
    };
    const told = { ...element, address: '0x1000' };
    const walk: Scripted = { step: { 'software-walk': '0x0' }, recorded: [element], replayed: [told] };
    const result = replayScript([store, walk, walk]);
    expect(result.verdict).toBe('match');
    expect(fieldsOf(result, 'paging-element')).toEqual({ pte: [1, 0, 1, 0, 0], level: [2, 0, 0, 0, 0] });
  });
});

describe('what is not modelled', () => {
  test('is counted by event', () => {
    const result = replayScript([
      {
        step: FAULT,
        recorded: [pageFault('0x1'), changed('0x1', 1, '0x0', '0x5a0'), changed('0x2', 1, '0x0', '0x5a0')],
        replayed: [{ 'not-modelled': 'lam' }],
      },
    ]);
    expect([result.verdict, eventOf(result, 'tdp-spte-changed').notModelled]).toEqual(['not-modelled', 2]);
  });
});
