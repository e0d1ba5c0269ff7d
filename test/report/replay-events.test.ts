import { describe, expect, test } from 'vitest';
import { totalsOf } from '../../src/replay/totals.ts';
import { replayObject } from '../../src/report/replay-json.ts';
import {
  divergenceLines,
  groupLines,
  type PaintText,
  receiptLines,
  scenarioLines,
  totalLines,
} from '../../src/report/replay-text.ts';
import { changed, ENTRY, fault, getPage, pageFault, replayScript, setSpte } from '../replay/scripted.ts';
import { type Line, replay } from '../replay/small-traces.ts';
import { HEADER } from '../trace/samples.ts';

const plain: PaintText = (_, text) => text;
const FAULT = fault('0x100000');

const GOOD = replayScript([
  {
    step: FAULT,
    recorded: [
      pageFault('0x100000'),
      changed('0x0', 2, '0x0', '0xf3a4827'),
      setSpte('0x100', '0x29d3e67', '0xf3a4800'),
    ],
    replayed: [
      pageFault('0x100000'),
      changed('0x0', 2, '0x0', '0x300004827'),
      setSpte('0x100', '0x1100e67', '0x300004800'),
    ],
  },
]);

const unmap: Line = { kvm: 'unmap-hva-range', start: '0x1000', end: '0x2000' };
const BAD = replayScript([
  {
    step: FAULT,
    recorded: [
      ...Array.from({ length: 8 }, (_, i) => changed(`0x${i}`, 1, '0x0', '0x5a0')),
      unmap,
      setSpte('0x100', '0x29d3e67', '0xf3a4800'),
      changed('0x9', 1, '0x0', '0x5a0'),
    ],
    replayed: [
      ...Array.from({ length: 8 }, (_, i) => changed(`0x${i}`, 1, '0x0', '0x5a0')),
      setSpte('0x100', '0x29d3e47', '0xf3a4800'),
      getPage('0x0', '0x1784'),
    ],
  },
  { step: ENTRY, recorded: [], replayed: [getPage('0x0', '0x1784')] },
]);

describe("the receipt's table of KVM's events", () => {
  test('has a line for each, and says which fields were learned', () => {
    const lines = receiptLines(GOOD.receipt);
    expect(lines.slice(lines.indexOf("KVM's events; predicted to input are fields of the equal ones:"))).toEqual([
      "KVM's events; predicted to input are fields of the equal ones:",
      '  event of KVM      equal  predicted  renamed  learned  input  diverged  missing  extra',
      '  set-spte              1          7        1        1      0         0        0      0',
      '  tdp-spte-changed      1          5        0        1      0         0        0      0',
      '  page-fault            1          0        0        0      2         0        0      0',
      'learned, not predicted: 1 set-spte spte frame, 1 tdp-spte-changed new_spte frame',
      'observations predicted in every field: 0',
    ]);
    expect(lines).not.toContain('compared and equal; predicted to input are fields:');
  });

  test('says what the replay had no part in, and what is not modelled, where there is such', () => {
    const head = receiptLines(BAD.receipt).find((line) => line.includes('event of KVM'));
    expect(head).toMatch(/extra {2}host's, not replayed$/);
    const unmodelled = replayScript([
      { step: FAULT, recorded: [changed('0x1', 1, '0x0', '0x5a0')], replayed: [{ 'not-modelled': 'lam' }] },
    ]);
    const lines = receiptLines(unmodelled.receipt);
    expect(lines.find((line) => line.includes('event of KVM'))).toMatch(/extra {2}not modelled$/);
    expect(lines.find((line) => line.includes('  tdp-spte-changed'))).toMatch(/ 1$/);
  });

  test('says what the machine cannot see', () => {
    const { receipt } = GOOD;
    expect(receiptLines({ ...receipt, limits: ['x\u001by'] })).toContain('note: x\\x1by');
  });
});

describe('of many traces', () => {
  test("there is a line for each that has events of KVM's", () => {
    const bare = replay([{ header: {} }, { invlpg: '0x0' }]);
    expect(scenarioLines([bare])).toEqual([]);
    const lines = scenarioLines([GOOD, bare, BAD]);
    expect(lines.length).toBe(4);
    expect(lines[2]).toMatch(/^ {2}script {2}kvm 6\.1, NPT, TDP MMU +3 +12 +1 +2 +2 +0 +0 +0 +0$/);
    expect(lines[3]).toMatch(/ 1 +1 +2 +2$/);
  });

  test('events add up, field by field', () => {
    const totals = totalsOf([GOOD, BAD, GOOD]);
    const spte = totals.events.find(({ event }) => event === 'set-spte')!;
    expect(spte).toMatchObject({ events: 2, predicted: 14, renamed: 2, learned: 2, diverged: 1 });
    expect(spte.fields.find(({ field }) => field === 'spte')).toMatchObject({ predicted: 2, diverged: 1 });
    expect(totalsOf([GOOD]).events).toEqual(GOOD.receipt.events);
    expect(totalLines(totals, plain).some((line) => line.startsWith('  set-spte'))).toBe(true);
  });
});

describe("a divergence among KVM's events", () => {
  const lines = divergenceLines(BAD.divergences[0]!, HEADER, plain);

  test('shows what is alike once, what differs on both sides, what one side lacks', () => {
    expect(lines.slice(3)).toEqual([
      '      3 observations alike',
      ...[3, 4, 5, 6, 7].map((gfn) => expect.stringMatching(new RegExp(`^ {6}tdp-spte-changed .*gfn ${gfn} `))),
      expect.stringMatching(/^ {6}unmap-hva-range /),
      expect.stringMatching(/^ {4}! recorded set-spte gfn 100 spte 29d3e67 /),
      expect.stringMatching(/^ {4}! replayed set-spte gfn 100 spte 29d3e47 /),
      expect.stringMatching(/^ {4}- recorded only: tdp-spte-changed .*gfn 9 /),
      expect.stringMatching(/^ {4}\+ replayed only: get-page /),
    ]);
  });

  test('in JSON is pairs with their state', () => {
    const { divergences, receipt } = JSON.parse(JSON.stringify(replayObject(BAD, HEADER))) as {
      divergences: Record<string, unknown>[];
      receipt: Record<string, unknown>;
    };
    const pairs = divergences[0]!['pairs'] as {
      state: string;
      recorded: unknown;
      replayed: unknown;
      fields?: string[];
    }[];
    expect(divergences[0]!['recorded']).toBeUndefined();
    expect(pairs.slice(8).map(({ state, fields }) => [state, fields])).toEqual([
      ['host', undefined],
      ['differs', ['spte']],
      ['missing', undefined],
      ['extra', undefined],
    ]);
    expect(pairs[8]!.replayed).toBe(null);
    expect(pairs[9]!.recorded).toEqual({ kind: 'set-spte', text: expect.stringContaining('29d3e67') });
    expect(receipt['events']).toEqual(JSON.parse(JSON.stringify(BAD.receipt.events)));
  });

  test('its group says whether it only follows others', () => {
    expect(groupLines(BAD.receipt).slice(1)).toEqual([
      expect.stringMatching(/^ {2}1 {2}fault-exit: set-spte \(spte a\) +first at step 0$/),
      expect.stringMatching(
        /^ {2}1 {2}vm-entry: recorded nothing, replayed get-page +first at step 1, always after others$/,
      ),
    ]);
  });
});
