/** Traces with several vCPUs: every chunk tells the state of all of them. */

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { REGISTER_COUNT } from '../../src/formats/registers.ts';
import { StepKind } from '../../src/formats/step.ts';
import { checkTrace } from '../../src/trace/check/trace.ts';
import { keptColumns, type StepBuilder, type StepColumns } from '../../src/trace/columns.ts';
import { rewalk } from '../../src/trace/schema/trace.js';
import { checkColumns } from '../../src/trace/soundness.ts';
import { BODY_START, MessageBuffer, putSteps } from '../../src/trace/steps-writing.ts';
import { bytes, column, message, number, stepsFile } from './crafted.ts';
import {
  accesses,
  convert,
  fileOf,
  freshPath,
  outcome,
  PLAIN_HEADER,
  plain,
  problemOf,
  readAll,
  registersOf,
  told,
  writeTrace,
} from './samples.ts';

function toVcpu(builder: StepBuilder, vcpu: number): StepBuilder {
  builder.step(StepKind.VCPU, 0, 0, vcpu, 0);
  return builder;
}

/** Two chunks, the second of which begins with vCPU 1 while 0 and 5 are elsewhere. */
function chunks(): StepColumns[] {
  const builder = toVcpu(toVcpu(accesses(2), 5), 1);
  const first = builder.take(registersOf(3));
  const late = registersOf(7);
  late[2 * REGISTER_COUNT - 2] = 9;
  const others = [
    { vcpu: 0, registers: registersOf(3) },
    { vcpu: 5, registers: late },
  ];
  return [first, accesses(1, toVcpu(accesses(1, builder), 5)).take(registersOf(5), 0, 1, others)];
}

describe.each(['none', 'deflate'] as const)('with codec %s', (codec) => {
  test('what is written is read, and can be kept', () => {
    const made = chunks();
    const { path } = writeTrace(made, { codec });
    expect(readAll(path).slice(1, -1)).toEqual(made.map(plain));
    expect(plain(keptColumns(made[1]!))).toEqual(plain(made[1]!));
    expect(keptColumns(made[1]!).others[0]!.registers).not.toBe(made[1]!.others[0]!.registers);
  });
});

test('text → trace → text and back', () => {
  const { path } = writeTrace(chunks(), { header: PLAIN_HEADER });
  const text = freshPath('.jsonl');
  convert(path, text);
  const lines = readFileSync(text, 'utf8').trim().split('\n').slice(1);
  expect(lines.filter((line) => line.includes('vcpu')).map((line) => line.replace(/"0x[^,}]*/g, '…'))).toEqual([
    '{"vcpu":5}',
    '{"vcpu":1}',
    expect.stringMatching(/^{"state":{.*},"vcpu":1,"others":{"0":{"cr0":.*},"5":{.*"vm_function_controls":…}}}$/),
    '{"vcpu":5}',
  ]);
  const back = freshPath();
  convert(text, back);
  expect(readFileSync(back).equals(readFileSync(path))).toBe(true);
});

test('the proto says what is written', () => {
  const buffer = new MessageBuffer();
  const made = chunks()[1]!;
  putSteps(buffer, made, 0);
  const steps = rewalk.Steps.decode(buffer.bytes.subarray(BODY_START, buffer.position));
  expect(steps.vcpu).toBe(1);
  expect(steps.otherVcpu?.map(({ vcpu, registers }) => [vcpu, registers?.length])).toEqual([
    [0, 22],
    [5, REGISTER_COUNT],
  ]);
  expect(steps.registers).toHaveLength(22);
});

test('the registers of a trace without the newer ones are as many as ever', () => {
  const size = (late: number): number => {
    const registers = registersOf(1);
    registers[2 * 22] = late;
    return writeTrace([accesses(1).take(registers)]).bytes;
  };
  expect(size(1) - size(0)).toBe(8);
});

const ONE_STEP = [number(3, 1), column(5, 1), column(6, 0, 0), column(7, 0, 0), column(8, 0)];
const said = (...fields: Buffer[]): string => {
  const { steps, ended } = outcome(fileOf(stepsFile(message(...ONE_STEP, ...fields))));
  return typeof ended === 'string' ? `${steps} steps` : told(ended).replace(/.*(chunk 1, byte \d+.*?) ->.*/, '$1');
};
const other = (vcpu: number, ...words: number[]): Buffer => bytes(18, message(number(1, vcpu), column(2, ...words)));

test('states of vCPUs that cannot be are refused', () => {
  expect(said(number(17, 63), other(0, 1, 2), other(62))).toBe('1 steps');
  const results = [
    said(number(17, 64)),
    said(number(17, 2 ** 40)),
    said(number(17, 1), number(17, 1)),
    said(other(0)),
    said(other(2), other(1)),
    said(other(2), other(2)),
    said(other(64)),
    said(other(1, ...registersOf(1), 0, 0)),
    said(bytes(18, message(number(1, 1), bytes(2, [1, 2, 3])))),
    said(bytes(18, [0x12, 0x7f])),
    said(number(18, 5)),
    said(bytes(17, [1])),
    said(...Array.from({ length: 1000 }, () => other(1))),
  ];
  expect(results.map((result) => result.replace(/^.*?byte \d+: /, ''))).toMatchInlineSnapshot(`
    [
      "the chunk begins with vCPU 64",
      "the chunk begins with vCPU 1099511627776",
      "field 17 of the steps comes twice",
      "the chunk has registers of vCPU 0 where none are due",
      "the chunk has registers of vCPU 1 where none are due",
      "the chunk has registers of vCPU 2 where none are due",
      "the chunk has registers of vCPU 64 where none are due",
      "the chunk has registers that this version does not know",
      "a vCPU's registers end inside an element",
      "a field runs over the end of its message",
      "field 18 of the steps has wire type 0",
      "field 17 of the steps is no number",
      "the chunk has too many vCPUs",
    ]
  `);
});

test('a step of a vCPU that cannot be is refused, wherever it stands', () => {
  for (const [lo, hi] of [
    [64, 0],
    [0, 1],
    [0xffff_ffff, 0xffff_ffff],
  ] as const) {
    const columns = accesses(100).take(registersOf(1));
    columns.op[70] = StepKind.VCPU;
    columns.operand.set([lo, hi], 140);
    expect(problemOf(() => checkColumns(columns))).toMatchObject({
      message: 'a step is of a vCPU beyond 63',
      place: { step: 70 },
    });
  }
});

test('what a person is told who wrote it wrongly', () => {
  const tell = (...lines: string[]): string => {
    const text = ['{"header":{}}', ...lines].join('\n');
    return told(problemOf(() => convert(fileOf(text, '.jsonl'), freshPath()))).replace(/ ->.*/, '');
  };
  expect([
    tell('{"vcpu":64}'),
    tell('{"vcpu":"0x1"}'),
    tell('{"vcpu":1,"operand":"0x1"}'),
    tell('{"state":{},"vcpu":64}'),
    tell('{"state":{},"others":{"0":{}}}'),
    tell('{"state":{},"others":{"64":{}}}'),
    tell('{"state":{},"others":{"01":{}}}'),
    tell('{"state":{},"others":{"1":{"cr9":"0x0"}}}'),
    tell('{"state":{},"others":[]}'),
  ]).toMatchInlineSnapshot(`
    [
      "E_TEXT_FORM FILE.jsonl, line 2: 'vcpu' is 64, but a whole number from 0 to 63 is due",
      "E_TEXT_FORM FILE.jsonl, line 2: 'vcpu' is "0x1", but a whole number from 0 to 63 is due",
      "E_TEXT_FORM FILE.jsonl, line 2: 'operand' is no field of a step 'vcpu'",
      "E_TEXT_FORM FILE.jsonl, line 2: 'vcpu' is 64, but a whole number from 0 to 63 is due",
      "E_TEXT_FORM FILE.jsonl, line 2: 'others' has vCPU 0, whose state is 'state'",
      "E_TEXT_FORM FILE.jsonl, line 2: '64' is no vCPU: they are 0 to 63",
      "E_TEXT_FORM FILE.jsonl, line 2: '01' is no vCPU: they are 0 to 63",
      "E_TEXT_FORM FILE.jsonl, line 2: 'cr9' is no register; did you mean 'cr0'?",
      "E_TEXT_FORM FILE.jsonl, line 2: 'others' is [], but an object is due",
    ]
  `);
});

test('chunks that do not fit together are found', () => {
  const found = (...lines: object[]): string[] => {
    const path = freshPath();
    const text = [{ header: {} }, ...lines].map((line) => JSON.stringify(line)).join('\n');
    convert(fileOf(text, '.jsonl'), path);
    return checkTrace(path).map(({ id, sentence }) => `${id}: ${sentence}`);
  };
  const access = { access: 'read', address: '0x0' };
  expect(found({ vcpu: 1 }, access, { state: {}, vcpu: 1, others: { 0: {} } }, access, { vcpu: 0 })).toEqual([]);
  expect(found({ state: {}, vcpu: 3, others: { 1: {} } }, access)).toEqual([]);
  expect(found({ vcpu: 1 }, access, { state: {} }, access)).toEqual([
    'chunk.vcpu: the chunk begins with vCPU 0, but the steps before it end with vCPU 1',
    'chunk.vcpus: the chunk does not tell the registers of vCPU 1, which has made steps before',
  ]);
});
