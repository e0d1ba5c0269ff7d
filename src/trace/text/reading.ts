/** Text as traces, line by line: the other way of `writing.ts`. */

import { createHash } from 'node:crypto';
import { Problem } from '../../bits/problem.ts';
import { Obs } from '../../formats/observation.ts';
import { REGISTER_COUNT } from '../../formats/registers.ts';
import { StepBuilder, type StepColumns } from '../columns.ts';
import type { TraceHeader } from '../header.ts';
import type { Input } from '../input.ts';
import { type TraceLimits, withinLimit } from '../limits.ts';
import type { TraceItem } from '../reader.ts';
import type { Stimulus } from '../stimulus.ts';
import { stimulusBytes, stimulusFault } from '../stimulus-message.ts';
import { parseNumber, shown, textProblem } from './fields.ts';
import { type ChunkState, parseHeader, parseState } from './header.ts';
import { type Kind, OBSERVATION_KINDS, RARE_KIND, STEP_KINDS } from './kinds.ts';
import { KVM_EVENT_KEY, parseKvmEvent } from './kvm-event.ts';
import { type TextLine, textLines } from './lines.ts';
import { asList, asObject } from './objects.ts';
import { namedKind, parseRow, type ReadObject } from './rows.ts';
import { parseStimulus, STIMULUS_FIELDS } from './stimulus.ts';

type TextItem =
  | { readonly kind: 'header'; readonly header: TraceHeader }
  /** The steps between two state lines, whose columns are the caller's for good. */
  | { readonly kind: 'steps'; readonly columns: StepColumns };

const byKey = (kinds: readonly Kind[]): ReadonlyMap<string, Kind> =>
  new Map(kinds.map((kind) => [kind.main.name, kind]));

const RARE_KEYS = Object.keys(STIMULUS_FIELDS) as Stimulus['kind'][];
/** Every key that names a step; the kinds of rare steps are here for suggestions. */
const STEPS_BY_KEY = new Map([...byKey(STEP_KINDS), ...RARE_KEYS.map((key) => [key, RARE_KIND] as const)]);
const KVM_EVENT_KIND = OBSERVATION_KINDS[Obs.KVM_EVENT]!;
const OBSERVATIONS_BY_KEY = new Map([...byKey(OBSERVATION_KINDS), [KVM_EVENT_KEY, KVM_EVENT_KIND] as const]);
/** Keys of a step's line that are no part of its row. */
const STEP_KEYS = ['line', 'time', 'expect'];

const NO_STATE: ChunkState = { registers: new Uint32Array(2 * REGISTER_COUNT), source: 0, vcpu: 0, others: [] };
const INT64_MAX = 2n ** 63n;

function parseTime(value: unknown): bigint {
  const whole =
    typeof value === 'number' ? Number.isSafeInteger(value) : typeof value === 'string' && /^-?\d{1,19}$/.test(value);
  const time = whole ? BigInt(value as number | string) : INT64_MAX;
  if (time >= -INT64_MAX && time < INT64_MAX) return time;
  throw textProblem(`'time' is ${shown(value)}, but nanoseconds, as a whole number or as a string of one, are due`);
}

class TextParser {
  private readonly limits: TraceLimits;
  private readonly builder = new StepBuilder();
  private state = NO_STATE;
  /** A header was there, a state line begins the present chunk. */
  private begun = false;
  private stated = false;
  private stamped = 0;
  private stimulusBytes = 0;

  constructor(limits: TraceLimits) {
    this.limits = limits;
  }

  /** Reads one line. Returns the items that it ends or is. */
  line(text: string): TextItem[] {
    if (text.trim() === '') return [];
    let parsed: unknown;
    try {
      parsed = JSON.parse(text);
    } catch {
      throw textProblem('the line is no JSON');
    }
    const object = asObject('the line', parsed);
    if ('header' in object) return this.header(object);
    if (!this.begun) throw textProblem(`the first line is no header; {"header":{}} is the shortest`);
    if ('state' in object) {
      const items = this.end();
      this.state = parseState(object);
      this.stated = true;
      return items;
    }
    this.step(object);
    return [];
  }

  /** The steps since the last state line. */
  end(): TextItem[] {
    const { builder } = this;
    if (builder.stepCount === 0 && !this.stated) return [];
    const { registers, source, vcpu, others } = this.state;
    const item: TextItem = { kind: 'steps', columns: builder.take(registers, source, vcpu, others) };
    this.state = NO_STATE;
    this.stated = false;
    this.stamped = 0;
    this.stimulusBytes = 0;
    return [item];
  }

  private header(object: ReadObject): TextItem[] {
    const items = this.end();
    const more = Object.keys(object).find((name) => name !== 'header');
    if (more !== undefined) throw textProblem(`'${more}' is no field of a header line`);
    items.push({ kind: 'header', header: parseHeader(object['header']) });
    this.begun = true;
    return items;
  }

  private step(object: ReadObject): void {
    const { builder } = this;
    const kind = namedKind(object, STEPS_BY_KEY, 'line');
    const line = object['line'] === undefined ? 0 : parseNumber('line', object['line'], 0xffff_ffff);
    if (kind === RARE_KIND) this.rare(object, line);
    else {
      const { op, address, second } = parseRow(object, kind, STEP_KEYS, `a step '${kind.main.name}'`);
      builder.step(op, address.lo, address.hi, second.lo, second.hi, line);
    }
    if (object['time'] !== undefined) {
      builder.stamp(parseTime(object['time']));
      this.stamped++;
    }
    if (this.stamped !== 0 && this.stamped !== builder.stepCount) {
      throw textProblem("between two state lines all steps have a 'time', or none has");
    }
    if (object['expect'] !== undefined) {
      for (const [i, element] of asList('expect', object['expect']).entries()) this.observation(element, i);
    }
    withinLimit(this.limits, 'maxTextSteps', builder.stepCount, 'the number of steps since the last state line');
    withinLimit(
      this.limits,
      'maxTextSteps',
      builder.observationCount,
      'the number of observations since the last state line',
    );
  }

  private observation(element: unknown, i: number): void {
    const object = asObject(`expect[${i}]`, element);
    const kind = namedKind(object, OBSERVATIONS_BY_KEY, 'observation');
    const rows =
      KVM_EVENT_KEY in object
        ? parseKvmEvent(object)
        : [parseRow(object, kind, [], `an observation '${kind.main.name}'`)];
    for (const { op, address, second } of rows) {
      this.builder.observe(op, address.lo, address.hi, second.lo, second.hi);
    }
  }

  private rare(object: ReadObject, line: number): void {
    const key = RARE_KEYS.find((name) => name in object)!;
    const { op } = parseRow(object, RARE_KIND, [key, ...STIMULUS_FIELDS[key], ...STEP_KEYS], `a step '${key}'`);
    const stimulus = parseStimulus(object, key);
    const fault = stimulusFault(stimulus, this.limits);
    if (fault !== undefined) throw textProblem(fault);
    this.stimulusBytes += stimulusBytes(stimulus);
    withinLimit(this.limits, 'maxStimulusBytes', this.stimulusBytes, "the memory of the chunk's rare stimuli");
    this.builder.rare(stimulus, op, line);
  }
}

/** The headers and chunks that lines spell. Throws E_TEXT_FORM or E_LIMIT with the line's number. */
function* parseTextLines(lines: Iterable<TextLine>, limits: TraceLimits): Generator<TextItem, void, void> {
  const parser = new TextParser(limits);
  let last = 0;
  let empty = true;
  try {
    for (const { text, line } of lines) {
      last = line;
      for (const item of parser.line(text)) {
        empty = false;
        yield item;
      }
    }
    yield* parser.end();
  } catch (error) {
    throw error instanceof Problem ? error.at({ line: last }) : error;
  }
  if (empty) throw new Problem('E_TEXT_FORM', 'there is no header line', { line: 1 });
}

/**
 * The text form as the items of a reader, but that columns are the caller's for good. The digest is the SHA-256 of the
 * lines so far. Throws E_TEXT_FORM or E_LIMIT with the line's number, and E_IO.
 */
export function* readText(input: Input, limits: TraceLimits): Generator<TraceItem, void, void> {
  const hash = createHash('sha256');
  const hashed = function* (): Generator<TextLine, void, void> {
    for (const line of textLines(input, limits)) {
      hash.update(line.text).update('\n');
      yield line;
    }
  };
  let segment = -1;
  let steps = 0;
  let chunk = 0;
  const end = (): TraceItem => {
    return { kind: 'end', complete: true, digest: hash.copy().digest('hex'), steps, problem: undefined };
  };
  try {
    for (const item of parseTextLines(hashed(), limits)) {
      if (item.kind === 'header') {
        if (segment >= 0) yield end();
        segment++;
        steps = 0;
        yield { kind: 'header', header: item.header, segment };
      } else {
        const place = { file: input.name, chunk: chunk++ };
        yield { kind: 'steps', columns: { ...item.columns, firstOrdinal: steps }, place };
        steps += item.columns.stepCount;
      }
    }
  } catch (error) {
    throw error instanceof Problem ? error.at({ file: input.name }) : error;
  }
  yield end();
}
