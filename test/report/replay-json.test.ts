import { describe, expect, test } from 'vitest';
import { replayObject } from '../../src/report/replay-json.ts';
import { access, header, lands, replay, state, store, TABLES } from '../replay/small-traces.ts';
import { HEADER } from '../trace/samples.ts';

interface Shape {
  readonly verdict: string;
  readonly receipt: Record<string, unknown>;
  readonly divergences: readonly Record<string, unknown>[];
}

function object(...args: Parameters<typeof replay>): Shape {
  return JSON.parse(JSON.stringify(replayObject(replay(...args), HEADER))) as Shape;
}

describe('a result as JSON', () => {
  test('of a match has its receipt, and no divergences', () => {
    const { verdict, receipt, divergences } = object([header(), state(), ...TABLES, lands('read', '0x5008', '0x5008')]);
    expect([verdict, divergences]).toEqual(['match', []]);
    expect(receipt).toMatchObject({
      steps: 5,
      observationsPredicted: 1,
      counts: [
        { kind: 'translated', observations: 1, whollyPredicted: 1, predicted: 1, renamed: 0, learned: 0, input: 0 },
      ],
    });
  });

  test('of a divergence has both sides, with addresses and values as hexadecimal text, and in words', () => {
    const { divergences } = object([
      header({ sources: [{ name: 'a.walklog' }] }),
      state(),
      ...TABLES,
      access('write', '0xffff800000005008', {
        line: 9,
        expect: [{ exception: '#PF', error: '0x3', cr2: '0xffff800000005008' }],
      }),
    ]);
    expect(divergences).toEqual([
      {
        step: 4,
        line: 9,
        source: 'a.walklog',
        stimulus: 'write  supervisor  cpl0 0xffff800000005008',
        judgement: { kind: 'diverged' },
        cause: expect.stringContaining('#PF 0x3 was recorded, #PF 0x2 replayed'),
        group: 'supervisor write: recorded #PF 0x3, replayed #PF 0x2',
        firstDifference: 0,
        recorded: [
          {
            kind: 'exception',
            address: '0xffff800000005008',
            value: '0x3',
            text: '#PF error 0x3 (P W) cr2 0xffff800000005008',
          },
        ],
        replayed: [expect.objectContaining({ kind: 'exception', value: '0x2' })],
      },
    ]);
  });

  test('leaves out line and source where they are not known', () => {
    const { divergences } = object([header(), state(), ...TABLES, lands('read', '0x5008', '0x6008')]);
    expect(Object.keys(divergences[0]!)).toEqual([
      ...['step', 'stimulus', 'judgement', 'cause', 'group', 'firstDifference', 'recorded', 'replayed'],
    ]);
  });

  test('says after which invalidation something was stale', () => {
    const { divergences } = object([
      ...[header(), state(), ...TABLES, store('0x4028', '0x6067'), { invlpg: '0x5000' }],
      lands('read', '0x5008', '0x5008'),
    ]);
    expect(divergences[0]!['judgement']).toEqual({ kind: 'stale-after-invalidation', invalidatedAt: 5 });
  });

  test('keeps text as it is: JSON has its own escapes', () => {
    const hostile = 'x\u001b[2Jy\u202e';
    const result = replay([header({ title: hostile }), state(), ...TABLES, lands('read', '0x5008', '0x5008')]);
    const json = JSON.stringify(replayObject(result, HEADER));
    expect(json).not.toContain('\u001b');
    expect((JSON.parse(json) as Shape).receipt['title']).toBe(hostile);
  });
});
