/** A step's verdict and its message, both ways. */

import { Problem } from '../bits/problem.ts';
import { hex64, parseHex64, type Word64, word64 } from '../bits/word64.ts';
import { REGISTER_COUNT } from '../formats/registers.ts';
import type { Divergence, GuestDifference, Judgement, Row, SidePair } from '../replay/result.ts';
import { countOf, longOf, longOfCount, wordOf } from '../trace/messages.ts';
import type { StepDetail, StoredJudgement, StoredStep } from './model.ts';
import { JUDGEMENTS, nameOf, PAIR_STATES } from './names.ts';
import type { rewalk } from './schema/results.js';

type StepMessage = rewalk.results.StepVerdict.$Properties;
type DetailMessage = rewalk.results.Detail.$Properties;
type RowsMessage = rewalk.results.Rows.$Properties;

const ROW_WORDS = 5;

function encodeRows(rows: readonly Row[]): RowsMessage {
  return { word: rows.flatMap((r) => [r.op, r.addressLo, r.addressHi, r.valueLo, r.valueHi]) };
}

function decodeRows(message: RowsMessage | null | undefined): Row[] {
  const words = message?.word ?? [];
  if (words.length % ROW_WORDS !== 0) throw new Problem('E_UNSOUND', 'rows are not whole: five words each');
  return Array.from({ length: words.length / ROW_WORDS }, (_, i) => ({
    op: words[ROW_WORDS * i]!,
    addressLo: words[ROW_WORDS * i + 1]!,
    addressHi: words[ROW_WORDS * i + 2]!,
    valueLo: words[ROW_WORDS * i + 3]!,
    valueHi: words[ROW_WORDS * i + 4]!,
  }));
}

function encodePair({ state, recorded, replayed, fields, wrongFrame }: SidePair): rewalk.results.Pair.$Properties {
  return {
    state: PAIR_STATES.indexOf(state),
    recorded: encodeRows(recorded),
    replayed: encodeRows(replayed),
    field: [...fields],
    ...(wrongFrame === undefined
      ? {}
      : {
          wrongFrame: {
            field: wrongFrame.field,
            isTable: wrongFrame.isTable,
            recorded: longOfCount(wrongFrame.recorded),
            replayed: longOfCount(wrongFrame.replayed),
            expectedPlusOne: longOfCount(wrongFrame.expected + 1),
          },
        }),
  };
}

function decodePair(message: rewalk.results.Pair.$Properties): SidePair {
  const { wrongFrame: wrong } = message;
  const [recorded, replayed] = [decodeRows(message.recorded), decodeRows(message.replayed)];
  const state = nameOf(PAIR_STATES, message.state, 'a state of pairs');
  const isAlike = state === 'equal' || state === 'host';
  if (recorded.length === 0 && (isAlike || replayed.length === 0)) {
    throw new Problem('E_UNSOUND', 'a pair lacks the rows that its state asks for');
  }
  return {
    state,
    recorded,
    replayed,
    fields: message.field ?? [],
    wrongFrame: wrong
      ? {
          field: wrong.field ?? '',
          isTable: wrong.isTable ?? false,
          recorded: countOf(wrong.recorded, 'a frame'),
          replayed: countOf(wrong.replayed, 'a frame'),
          expected: countOf(wrong.expectedPlusOne, 'a frame') - 1,
        }
      : undefined,
  };
}

interface Stimulus {
  readonly op: number;
  readonly addressLo: number;
  readonly addressHi: number;
  readonly operandLo: number;
  readonly operandHi: number;
  readonly registers: Uint32Array;
}

function encodeStimulus(step: Stimulus): DetailMessage {
  const { op, addressLo, addressHi, operandLo, operandHi, registers } = step;
  return {
    op: op >>> 0,
    address: longOf(word64(addressLo, addressHi)),
    operand: longOf(word64(operandLo, operandHi)),
    register: Array.from({ length: registers.length / 2 }, (_, i) =>
      longOf(word64(registers[2 * i]!, registers[2 * i + 1]!)),
    ),
  };
}

function decodeStimulus(message: DetailMessage): Stimulus {
  const [address, operand] = [wordOf(message.address), wordOf(message.operand)];
  const given = message.register ?? [];
  if (given.length > REGISTER_COUNT) throw new Problem('E_UNSOUND', `a step has more than ${REGISTER_COUNT} registers`);
  const registers = new Uint32Array(2 * REGISTER_COUNT);
  given.forEach((value, i) => {
    const word: Word64 = wordOf(value);
    registers[2 * i] = word.lo;
    registers[2 * i + 1] = word.hi;
  });
  return {
    op: message.op ?? 0,
    addressLo: address.lo,
    addressHi: address.hi,
    operandLo: operand.lo,
    operandHi: operand.hi,
    registers,
  };
}

function encodeDetail(detail: StepDetail): DetailMessage {
  if (detail.kind === 'guest') {
    const { difference } = detail;
    const { bare, kvm } = difference;
    return { ...encodeStimulus(difference), recorded: encodeRows(bare), replayed: encodeRows(kvm) };
  }
  const { divergence } = detail;
  const { pairs, recorded, replayed, walk, firstDifference } = divergence;
  return {
    ...encodeStimulus(divergence),
    ...(pairs === undefined
      ? { recorded: encodeRows(recorded), replayed: encodeRows(replayed) }
      : { paired: true, pair: pairs.map(encodePair) }),
    walk: encodeRows(walk),
    firstDifference,
    mixed: divergence.mixed === true,
  };
}

/** Of a guest's difference the configuration is that of the trace's machine. */
type Facts = Pick<StoredStep, 'step' | 'line' | 'source' | 'group' | 'cause'>;

function decodeDivergence(message: DetailMessage, facts: Facts, judgement: Judgement): Divergence {
  const pairs = message.paired ? (message.pair ?? []).map(decodePair) : undefined;
  const recorded = pairs?.flatMap((pair) => pair.recorded) ?? decodeRows(message.recorded);
  const replayed = pairs?.flatMap((pair) => pair.replayed) ?? decodeRows(message.replayed);
  const firstDifference = message.firstDifference ?? 0;
  const places = pairs?.length ?? Math.max(recorded.length, replayed.length);
  if (firstDifference > places) throw new Problem('E_UNSOUND', 'the first difference is behind all rows');
  return {
    ...facts,
    ...decodeStimulus(message),
    recorded,
    replayed,
    walk: decodeRows(message.walk),
    firstDifference,
    pairs,
    judgement,
    ...(message.mixed ? { mixed: true } : {}),
  };
}

function encodeJudgement(judgement: StoredJudgement): StepMessage {
  const kind = { judgement: JUDGEMENTS.indexOf(judgement.kind) };
  switch (judgement.kind) {
    case 'stale-after-invalidation':
      return { ...kind, invalidatedAt: longOfCount(judgement.invalidatedAt) };
    case 'undetermined':
      return { ...kind, why: judgement.why };
    case 'expected':
      return { ...kind, why: judgement.name };
    default:
      return kind;
  }
}

function decodeJudgement(message: StepMessage): StoredJudgement {
  const kind = nameOf(JUDGEMENTS, message.judgement, 'a judgement');
  switch (kind) {
    case 'stale-after-invalidation':
      return { kind, invalidatedAt: countOf(message.invalidatedAt, 'a step') };
    case 'undetermined':
      return { kind, why: message.why ?? '' };
    case 'expected':
      return { kind, name: message.why ?? '' };
    default:
      return { kind };
  }
}

export function encodeStep(step: StoredStep): StepMessage {
  const fingerprint = parseHex64(step.fingerprint);
  if (fingerprint === undefined) throw new Error('a fingerprint is 16 hexadecimal digits');
  return {
    step: longOfCount(step.step),
    line: longOfCount(step.line ?? 0),
    source: step.source ?? '',
    ...encodeJudgement(step.judgement),
    group: step.group,
    cause: step.cause,
    fingerprint: longOf(fingerprint),
    ...(step.detail === undefined ? {} : { detail: encodeDetail(step.detail) }),
  };
}

/** `config`: of the machine that replayed the trace; a guest's difference is shown by it. Throws E_UNSOUND. */
export function decodeStep(message: StepMessage, config: GuestDifference['config'] | undefined): StoredStep {
  const line = countOf(message.line, 'a line');
  const judgement = decodeJudgement(message);
  const { lo, hi } = wordOf(message.fingerprint);
  const facts: Facts = {
    step: countOf(message.step, 'a step'),
    line: line === 0 ? undefined : line,
    source: message.source || undefined,
    group: message.group ?? '',
    cause: message.cause ?? '',
  };
  return {
    ...facts,
    judgement,
    fingerprint: hex64(lo, hi).padStart(16, '0'),
    detail: message.detail ? decodeDetail(message.detail, facts, judgement, config) : undefined,
  };
}

function decodeDetail(
  message: DetailMessage,
  facts: Facts,
  judgement: StoredJudgement,
  config: GuestDifference['config'] | undefined,
): StepDetail {
  if (judgement.kind !== 'guest-differs') {
    return { kind: 'replay', divergence: decodeDivergence(message, facts, judgement) };
  }
  if (config === undefined) throw new Problem('E_UNSOUND', 'a guest differs on a KVM that is not there');
  const { step, line, group, cause } = facts;
  const sides = { bare: decodeRows(message.recorded), kvm: decodeRows(message.replayed) };
  return {
    kind: 'guest',
    difference: { step, line, group, cause, ...decodeStimulus(message), ...sides, config },
  };
}
