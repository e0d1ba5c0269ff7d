import { describe, expect, test } from 'vitest';
import { Obs } from '../../src/formats/observation.ts';
import { REGISTER_COUNT, Reg } from '../../src/formats/registers.ts';
import { StepKind } from '../../src/formats/step.ts';
import type { Divergence, Receipt, ReplayResult, Row } from '../../src/replay/result.ts';
import { totalsOf } from '../../src/replay/totals.ts';
import {
  divergenceLines,
  groupLines,
  type PaintText,
  receiptLines,
  summaryLine,
  totalLines,
} from '../../src/report/replay-text.ts';
import { HEADER } from '../trace/samples.ts';

const plain: PaintText = (_, text) => text;
/** Shows what was painted how. */
const marked: PaintText = (style, text) => `<${style}>${text}</${style}>`;

const RECEIPT: Receipt = {
  file: 'a.rwt',
  title: 'a title',
  recorder: 'bochs',
  machine: 'bare',
  limits: [],
  policy: 'A/D after-permissions',
  digest: 'ab'.repeat(32),
  ending: 'complete',
  steps: 12_345,
  stepsByKind: { access: 12_000, store: 345 },
  counts: [
    { kind: 'element', observations: 1000, whollyPredicted: 900, predicted: 2900, renamed: 0, learned: 100, input: 0 },
  ],
  events: [],
  observationsPredicted: 900,
  skipped: {},
  notModelled: {},
  staleAllowed: 0,
  undetermined: 0,
  expected: {},
  diverged: 0,
  groups: [],
  brokenExpectations: [],
  brokenInvariants: [],
};

function result(receipt: Partial<Receipt> = {}, verdict: ReplayResult['verdict'] = 'match'): ReplayResult {
  return { verdict, receipt: { ...RECEIPT, ...receipt }, divergences: [] };
}

const UNUSUAL: Partial<Receipt> = {
  ending: 'cut short',
  digest: undefined,
  skipped: { 'left out by --filter': 7, 'outside --from and --to': 1234 },
  notModelled: { lass: 2 },
  staleAllowed: 3,
  undetermined: 4,
  expected: { 'a-fault': 5, 'b-fault': 6 },
  diverged: 8,
  brokenExpectations: ['"c" is expected in 1 steps (g) but was met in 0'],
};

describe('the line of a trace', () => {
  test('says the verdict and how much it rests on', () => {
    expect(summaryLine(result(), plain)).toBe('match    a.rwt: 12,345 steps, 900 observations predicted');
  });

  test('and everything that is unusual', () => {
    expect(summaryLine(result(UNUSUAL, 'not-modelled'), plain)).toBe(
      'NOT MODELLED a.rwt: 12,345 steps, 900 observations predicted, 3 stale, allowed, 11 expected, 4 undetermined, 8 diverged, 2 not modelled, CUT SHORT',
    );
  });

  test('is green only for a match', () => {
    expect(summaryLine(result(), marked)).toMatch(/^<green>match {3}<\/green> /);
    for (const verdict of ['diverged', 'not-modelled', 'nothing-compared'] as const) {
      expect(summaryLine(result({}, verdict), marked)).toMatch(/^<red>[A-Z ]+<\/red> a\.rwt/);
    }
  });
});

describe('the receipt', () => {
  test('has facts, counters by kind and what was predicted', () => {
    expect(receiptLines(RECEIPT)).toEqual([
      'trace     a.rwt: a title',
      'recorder  bochs',
      'machine   bare; A/D after-permissions',
      `digest    ${'ab'.repeat(32)}`,
      'steps     12,345: 12,000 access, 345 store',
      'compared and equal; predicted to input are fields:',
      '  observation  count  predicted  renamed  learned  input',
      '  element      1,000      2,900        0      100      0',
      'observations predicted in every field: 900',
    ]);
  });

  test('names what was not compared, and why', () => {
    expect(receiptLines({ ...RECEIPT, ...UNUSUAL }).slice(-6)).toEqual([
      'not compared: 7 left out by --filter, 1,234 outside --from and --to',
      'not modelled: 2 lass',
      'match (stale, allowed): 3',
      'undetermined: 4',
      'expected, by known fault: 5 a-fault, 6 b-fault',
      'expectation does not hold: "c" is expected in 1 steps (g) but was met in 0',
    ]);
  });

  test('names how the trace ended, if it did not end as it should', () => {
    const digest = (receipt: Partial<Receipt>): string => receiptLines({ ...RECEIPT, ...receipt })[3]!;
    expect(digest({ ending: 'cut short' })).toMatch(/^digest {4}(abab)+ \(the trace is cut short\)$/);
    expect(digest({ ending: 'not read', digest: undefined })).toBe(
      'digest    none (stopped before the end of the trace)',
    );
    expect(summaryLine(result({ ending: 'not read' }), plain)).not.toContain('CUT SHORT');
  });
});

describe('the totals', () => {
  test('count traces and verdicts', () => {
    const lines = totalLines(totalsOf([result(), result({}, 'diverged'), result()]), plain);
    expect(lines[0]).toBe('3 traces, 37,035 steps');
    expect(lines).toContain('observations predicted in every field: 2,700');
    expect(lines.at(-1)).toBe('2 match, 1 diverged');
  });

  test('are green only if all match, and there is one', () => {
    expect(totalLines(totalsOf([result()]), marked).at(-1)).toBe('<green>1 match</green>');
    expect(totalLines(totalsOf([result(), result({}, 'nothing-compared')]), marked).at(-1)).toMatch(/^<red>/);
    expect(totalLines(totalsOf([]), marked).at(-1)).toBe('<red>nothing replayed</red>');
  });
});

function row(op: number, address: number, value: number): Row {
  return { op, addressLo: address, addressHi: 0, valueLo: value, valueHi: 0 };
}

const ELEMENTS = [4, 3, 2, 1].map((level) =>
  row(Obs.ELEMENT | (level << 7), level * 0x1000, (level - 1) * 0x1000 + 0x67),
);
const registers = new Uint32Array(2 * REGISTER_COUNT);
registers[2 * Reg.CR0] = 0x8000_0001;
registers[2 * Reg.CR4] = 0x20;
registers[2 * Reg.EFER] = 0x500;

const DIVERGENCE: Divergence = {
  step: 7,
  line: 12,
  source: 'a.walklog',
  op: StepKind.ACCESS,
  addressLo: 0x5008,
  addressHi: 0,
  operandLo: 0,
  operandHi: 0,
  recorded: [ELEMENTS[0]!, { ...ELEMENTS[1]!, valueLo: 0x9067 }],
  replayed: ELEMENTS.slice(0, 2),
  walk: ELEMENTS.slice(0, 2),
  firstDifference: 1,
  pairs: undefined,
  judgement: { kind: 'diverged' },
  cause: 'the cause',
  group: 'the group',
  registers,
};

describe('a divergence', () => {
  const lines = (more: Partial<Divergence> = {}, paint = plain): string[] =>
    divergenceLines({ ...DIVERGENCE, ...more }, HEADER, paint);

  test('has the step, the stimulus in its mode, the cause, what was alike, both sides', () => {
    expect(lines()).toEqual([
      'step 7 (a.walklog line 12): diverged',
      '  stimulus: read  supervisor  cpl0 0x5008  in 4-level',
      '  cause: the cause',
      '  alike before, 1 observation:',
      '    guest PML4E [0x4000] = 0x3067  P W U A gfn 0x3',
      expect.stringMatching(/^ {4}recorded +replayed$/),
      expect.stringMatching(
        /^ {4}guest PDPTE \[0x3000\] = 0x9067 {2}P W U .* {2}guest PDPTE \[0x3000\] = 0x2067 {2}P W U .*$/,
      ),
    ]);
  });

  test('without source or line says the step only', () => {
    expect(lines({ line: undefined })[0]).toBe('step 7 (a.walklog): diverged');
    expect(lines({ line: undefined, source: undefined })[0]).toBe('step 7: diverged');
  });

  test('with one side at its end has nothing there', () => {
    expect(lines({ recorded: ELEMENTS.slice(0, 1) }).at(-1)).toMatch(
      /^ {4}\(nothing\) +guest PDPTE \[0x3000\] = 0x2067/,
    );
    expect(lines({ replayed: ELEMENTS.slice(0, 1), walk: [] }).at(-1)).toMatch(/ {2}\(nothing\)$/);
  });

  test('shows twelve rows and counts the others', () => {
    const many = Array.from({ length: 20 }, (_, i) => ELEMENTS[i % 4]!);
    const shown = lines({ firstDifference: 0, recorded: many, replayed: [], walk: [] });
    expect(shown.filter((line) => line.includes('(nothing)'))).toHaveLength(12);
    expect(shown.at(-1)).toBe('    and 8 more');
  });

  test('shows the whole walk where the recorder saw less of it', () => {
    const blind = lines({ firstDifference: 0, recorded: [], replayed: ELEMENTS.slice(3), walk: ELEMENTS });
    expect(blind.slice(-5).map((line) => line.trim().split(' ').slice(0, 2).join(' '))).toEqual([
      'the walk',
      'guest PML4E',
      'guest PDPTE',
      'guest PDE',
      'guest PTE',
    ]);
    expect(lines().join('\n')).not.toContain('the walk of the replay');
  });

  test('says how it was judged', () => {
    const judged = (judgement: Divergence['judgement']): string => lines({ judgement })[0]!.replace(/^.*?: /, '');
    expect(judged({ kind: 'stale-after-invalidation', invalidatedAt: 1234 })).toBe(
      'diverged (stale after invalidation at step 1234)',
    );
    expect(judged({ kind: 'undetermined', why: 'too long' })).toBe('undetermined (too long)');
  });

  test('is painted where colours are wanted', () => {
    const painted = lines({}, marked);
    expect(painted[0]).toBe('<bold>step 7 (a.walklog line 12): diverged</bold>');
    expect(painted[2]).toBe('  cause: <red>the cause</red>');
    expect(painted[4]).toMatch(/^<dim> {4}guest PML4E/);
    expect(lines().join('\n')).not.toMatch(/<[a-z]+>/);
  });

  test('indents entries of the second stage', () => {
    const nested = [
      row(Obs.NESTED_WALK | (1 << 5), 0x5000, 0),
      row(Obs.ELEMENT | (1 << 5) | (4 << 7), 0x4000, 0x3007),
      row(Obs.ELEMENT | (4 << 7), 0x4000, 0x3067),
    ];
    const shown = lines({ firstDifference: 3, recorded: nested, replayed: nested });
    expect(shown.slice(4, 7).map((line) => /^ */.exec(line)![0].length)).toEqual([4, 6, 4]);
  });

  test('of a chunk’s state that begins with a note shows no stimulus that is not there', () => {
    const note = lines({ op: StepKind.RARE, addressLo: 0, group: 'chunk state' });
    expect(note[1]).not.toContain('which the chunk does not have');
  });
});

describe('groups of the like', () => {
  const groups = Array.from({ length: 25 }, (_, i) => ({
    group: `group ${i}`,
    count: 2000 - i,
    first: i,
    leads: 2000 - i,
  }));

  test('have their count, their shape and where they begin', () => {
    expect(groupLines({ ...RECEIPT, groups: groups.slice(0, 2) })).toEqual([
      'divergences of the like:',
      '  2,000  group 0  first at step 0',
      '  1,999  group 1  first at step 1',
    ]);
    expect(groupLines(RECEIPT)).toEqual([]);
  });

  test('are twenty, or as many as asked for, and the number of the others', () => {
    expect(groupLines({ ...RECEIPT, groups }).length).toBe(22);
    expect(groupLines({ ...RECEIPT, groups }).at(-1)).toBe('  and 5 groups more');
    expect(groupLines({ ...RECEIPT, groups }, 3).at(-1)).toBe('  and 22 groups more');
  });
});

describe('text from a trace or a file', () => {
  const isUnsafe = (line: string): boolean => ['\u001b', '\u202e', '\n'].some((character) => line.includes(character));
  const HOSTILE = 'x\u001b[2Jy\u202e\nz';

  test('is escaped in the receipt', () => {
    const lines = receiptLines({
      ...RECEIPT,
      file: HOSTILE,
      title: HOSTILE,
      recorder: HOSTILE,
      brokenExpectations: [HOSTILE],
    });
    expect(lines[0]).toBe('trace     x\\x1b[2Jy\\u{202e}\\nz: x\\x1b[2Jy\\u{202e}\\nz');
    expect(lines.some(isUnsafe)).toBe(false);
  });

  test('is escaped among the known faults, of one trace and of all', () => {
    const hostile = result({ expected: { [HOSTILE]: 1 } });
    expect(receiptLines(hostile.receipt).some(isUnsafe)).toBe(false);
    expect(totalLines(totalsOf([hostile]), plain).some(isUnsafe)).toBe(false);
  });

  test('is escaped in the line of a trace and in a divergence', () => {
    expect(isUnsafe(summaryLine(result({ file: HOSTILE }), plain))).toBe(false);
    expect(divergenceLines({ ...DIVERGENCE, source: HOSTILE }, HEADER, plain).some(isUnsafe)).toBe(false);
  });
});
