/** Fewer steps for the same memory: stores of a page joined, several tables in one page, first values postponed. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { joinStores } from '../../src/compare/minimise-pages.ts';
import { postponeFirstValues } from '../../src/compare/minimise-registers.ts';
import { remade } from '../../src/compare/minimise-remake.ts';
import { columnsOf, type Reducible, type StepList, StepListBuilder } from '../../src/compare/minimise-steps.ts';
import { joinTables } from '../../src/compare/minimise-tables.ts';
import { stepName } from '../../src/replay/cause.ts';
import { machineFor } from '../../src/replay/machines.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';
import { folder } from './minimised.ts';

const HEADER = {
  header: {
    recorder: 'test',
    title: 'a chain of tables',
    processor: { vendor: 'intel', maxphyaddr: 40, features: ['pae', 'nx'] },
    adPolicy: 'after-permissions',
    observable: ['translated', 'exception'],
  },
};
const STATE = { state: { cr0: '0x80010011', cr3: '0x1000', cr4: '0x20', efer: '0xd00' } };

let files = 0;

function listOf(steps: readonly object[], state: object = STATE): StepList {
  const path = join(folder, `list-${files++}.jsonl`);
  writeFileSync(path, [HEADER, state, ...steps].map((line) => `${JSON.stringify(line)}\n`).join(''));
  let builder: StepListBuilder | undefined;
  for (const item of openTrace(path)) {
    if (item.kind === 'header') builder = new StepListBuilder(item.header, machineFor(item.header, {}).machine);
    else if (item.kind === 'steps') builder!.add(item.columns, Number.POSITIVE_INFINITY);
  }
  return builder!.take();
}

/** What the bare machine sees in the last step: kinds and values of its rows. */
function seenLast(list: StepList): readonly unknown[] {
  const made = remade(list.header, { machine: 'bare' }, columnsOf(list));
  const begin = made.stepCount < 2 ? 0 : made.observationEnd[made.stepCount - 2]!;
  return [made.observationOp.slice(begin, made.observationCount), made.observationValue.slice(2 * begin)];
}

/** A list that serves as long as its last step sees the same. */
class SeeingTheSame implements Reducible {
  best: StepList;
  attempts = 0;
  private readonly wanted: readonly unknown[];

  constructor(list: StepList) {
    this.best = list;
    this.wanted = seenLast(list);
  }

  attemptList(list: StepList): boolean {
    this.attempts++;
    const serves = JSON.stringify(seenLast(list)) === JSON.stringify(this.wanted);
    if (serves) this.best = list;
    return serves;
  }

  isOver(): boolean {
    return false;
  }
}

const CHAIN = [
  { store: '0x1000', value: '0x2067' },
  { store: '0x2000', value: '0x3067' },
  { store: '0x3000', value: '0x4067' },
  { store: '0x4028', value: '0x105067' },
  { store: '0x4030', value: '0x106067' },
];
const READ = { access: 'read', address: '0x5008' };

function names({ steps }: StepList): string[] {
  return steps.map(({ op, stimulus }) => stimulus?.kind ?? stepName(op));
}

test('stores of one page become one image, the last one of a word counts', () => {
  const list = new SeeingTheSame(
    listOf([{ store: '0x4028', value: '0x107067' }, ...CHAIN, { store: '0x4034', value: '0x1', size: 4 }, READ]),
  );
  for (const _ of joinStores(list));
  expect(names(list.best)).toEqual(['page-image', 'store', 'store', 'store', 'supervisor read']);
  const { stimulus } = list.best.steps[0]!;
  if (stimulus?.kind !== 'page-image') throw new Error('no image');
  expect(stimulus.address).toEqual({ lo: 0x4000, hi: 0 });
  expect([...stimulus.words.slice(10, 14)]).toEqual([0x105067, 0, 0x106067, 1]);
  expect(stimulus.words.filter((half) => half !== 0)).toHaveLength(3);
});

test('stores before and after another step stay apart', () => {
  const list = new SeeingTheSame(
    listOf([...CHAIN.slice(0, 4), READ, { store: '0x4028', value: '0x106067' }, { invlpg: '0x5000' }, READ]),
  );
  for (const _ of joinStores(list));
  expect(list.attempts).toBe(0);
});

test('tables of all levels in one page: other indices, another address, the same translation', () => {
  const list = new SeeingTheSame(listOf([...CHAIN, READ]));
  const before = seenLast(list.best);
  for (let length = 0; length !== list.best.steps.length; ) {
    length = list.best.steps.length;
    for (const _ of joinTables(list));
  }
  expect(names(list.best)).toEqual(['page-image', 'supervisor read']);
  expect(seenLast(list.best)).toEqual(before);
});

test('a first value that is needed again later is needed only there', () => {
  const entry = { 'register-set': 'guest_mode', value: '0x1' };
  const exit = { 'register-set': 'guest_mode', value: '0x0' };
  const steps = [...CHAIN, { invlpg: '0x7000' }, entry, READ, exit, READ];
  const list = new SeeingTheSame(listOf(steps));
  for (const _ of postponeFirstValues(list));
  expect(names(list.best).slice(CHAIN.length)).toEqual([
    'supervisor read',
    'register-set',
    'invalidate',
    'supervisor read',
  ]);
});
