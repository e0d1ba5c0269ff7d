/** The work of `rewalk explain`: finds the step, replays up to it, on one machine or on two, and prints what it found. */

import { ExitStatus, Problem } from '../bits/problem.ts';
import { PairExplainer, PartingFinder } from '../compare/parting.ts';
import type { Sides } from '../compare/sides.ts';
import { STEP_KIND_MASK, StepKind } from '../formats/step.ts';
import { expectationsFor } from '../replay/expectations.ts';
import { Explainer } from '../replay/explain.ts';
import type { Explanation } from '../replay/explanation.ts';
import type { MachineChoice } from '../replay/machines.ts';
import { ReplaySession } from '../replay/session.ts';
import { explanationLines } from '../report/explain-text.ts';
import { explainWords } from '../report/explain-words.ts';
import { countText } from '../report/table.ts';
import type { StepColumns } from '../trace/columns.ts';
import type { TraceHeader } from '../trace/header.ts';
import { Output } from '../trace/output.ts';
import { openTrace } from '../trace/text/either-form.ts';
import { VERSION } from '../trace/version.ts';
import type { Context } from './command.ts';

/** A step of a file: by number, by the text of a note before it, or the first that diverges. */
export interface StepAsked {
  readonly file: string;
  readonly at:
    | { readonly kind: 'number'; readonly ordinal: number }
    | { readonly kind: 'note'; readonly text: string }
    | { readonly kind: 'first' };
}

export interface ExplainTraceOptions {
  /** Undefined: one machine, `machine`. */
  readonly sides: Sides | undefined;
  readonly machine: MachineChoice;
  /** The two are built alike: also what no row tells can be compared. */
  readonly internals: boolean;
  readonly segment: number;
  readonly all: boolean;
  readonly html: string | undefined;
  readonly expectations: boolean;
}

const FORM = 'expected TRACE@STEP, e.g. trace.rwt@1239, trace.rwt@first or "trace.rwt@note:TEXT"';

/** Takes TRACE@STEP apart. Throws E_USAGE. */
export function stepAsked(text: string): StepAsked {
  const note = text.indexOf('@note:');
  const at = note > 0 ? note : text.lastIndexOf('@');
  const file = text.slice(0, Math.max(0, at));
  const step = text.slice(at + 1);
  if (at <= 0) throw new Problem('E_USAGE', `${JSON.stringify(text)} names no step: ${FORM}`);
  if (file === '-')
    throw new Problem('E_USAGE', 'a trace is read more than once to be explained: - cannot be', {}, 'give a file');
  if (note > 0) return { file, at: { kind: 'note', text: step.slice('note:'.length) } };
  if (step === 'first') return { file, at: { kind: 'first' } };
  const ordinal = /^(0x[0-9a-f]+|[0-9]+)$/i.test(step) ? Number(step) : Number.NaN;
  if (!Number.isSafeInteger(ordinal)) throw new Problem('E_USAGE', `${JSON.stringify(step)} is no step: ${FORM}`);
  return { file, at: { kind: 'number', ordinal } };
}

type Visit = (columns: StepColumns) => boolean;

/** Reads the chunks of one segment until `visit` wants no more. `begin` gets its header. */
async function readSegment(
  file: string,
  segment: number,
  context: Context,
  begin: (header: TraceHeader) => Visit,
): Promise<void> {
  const trace = openTrace(file);
  const progress = await context.progress('explaining');
  try {
    let visit: Visit | undefined;
    let segments = 0;
    for (const item of trace) {
      await context.breathe();
      if (item.kind === 'header') {
        if (visit !== undefined) return;
        segments++;
        if (item.segment === segment) visit = begin(item.header);
      } else if (item.kind === 'steps' && visit !== undefined) {
        progress.update(() => `${file}: step ${countText(item.columns.firstOrdinal)}`);
        if (!visit(item.columns)) return;
      }
    }
    if (visit === undefined) {
      throw new Problem('E_USAGE', `there is no segment ${segment}: the file has ${segments}`, { file });
    }
  } finally {
    progress.done();
    trace.close();
  }
}

/** Explains a step and prints it. Returns the exit status: 1 where something differs. */
export async function explainTrace(asked: StepAsked, options: ExplainTraceOptions, context: Context): Promise<number> {
  const { file } = asked;
  const { segment } = options;
  const ordinal = await findStep(asked, options, context);
  const explanation = await explanationOf(file, ordinal, options, context);
  if (explanation === undefined) {
    throw new Problem(
      'E_USAGE',
      `there is no step ${ordinal} in segment ${segment}`,
      { file },
      '`rewalk view` lists the steps',
    );
  }
  if (options.html !== undefined) await writeHtml(options.html, explanation);
  if (context.json) context.out.json(explanation);
  else context.out.lines(explanationLines(explanation, context.paint, { all: options.all }));
  const differs = explanation.divergence !== undefined || explanation.difference !== undefined;
  return differs ? ExitStatus.DIVERGED : ExitStatus.MATCH;
}

/** Replays up to a step and explains it; undefined if there is no such step. */
export async function explanationOf(
  file: string,
  ordinal: number,
  options: ExplainTraceOptions,
  context: Context,
): Promise<Explanation | undefined> {
  const { sides } = options;
  return sides === undefined ? onOne(file, ordinal, options, context) : onTwo(file, ordinal, sides, options, context);
}

async function findStep(asked: StepAsked, options: ExplainTraceOptions, context: Context): Promise<number> {
  const { file, at } = asked;
  switch (at.kind) {
    case 'number':
      return at.ordinal;
    case 'note':
      return noted(file, at.text, options, context);
    default:
      return firstDivergence(file, options, context);
  }
}

/** The step after the first note that has the text. */
async function noted(file: string, text: string, { segment }: ExplainTraceOptions, context: Context): Promise<number> {
  let found: number | undefined;
  let isBehind = false;
  await readSegment(file, segment, context, () => (columns) => {
    for (let index = 0; index < columns.stepCount; index++) {
      const isRare = (columns.op[index]! & STEP_KIND_MASK) === StepKind.RARE;
      const stimulus = isRare ? columns.stimuli[columns.operand[2 * index]!] : undefined;
      if (isBehind && stimulus?.kind !== 'note') {
        found = columns.firstOrdinal + index;
        return false;
      }
      if (stimulus?.kind === 'note' && stimulus.text.includes(text)) isBehind = true;
    }
    return true;
  });
  if (found === undefined) {
    throw new Problem(
      'E_USAGE',
      `no step follows a note with ${JSON.stringify(text)}`,
      { file },
      '`rewalk view --kind note` lists the notes',
    );
  }
  return found;
}

/** The first step that is not as recorded, or of two machines one at which they show a difference. */
async function firstDivergence(file: string, options: ExplainTraceOptions, context: Context): Promise<number> {
  const { sides, segment } = options;
  const machine = sides === undefined ? options.machine : sides[1].choice;
  let first = await firstOfReplay(file, machine, options, context);
  if (first === undefined && sides !== undefined) {
    const finder = await partingUpTo(file, Number.MAX_SAFE_INTEGER, sides, options, context);
    first = finder.shown ?? finder.parted;
  }
  if (first === undefined) {
    const what = sides === undefined ? 'nothing diverges' : `${sides[0].label} and ${sides[1].label} do the same`;
    throw new Problem(
      'E_USAGE',
      `there is no first divergence in segment ${segment}: ${what}`,
      { file },
      'name a step by its number',
    );
  }
  return first;
}

async function firstOfReplay(
  file: string,
  machine: MachineChoice,
  options: ExplainTraceOptions,
  context: Context,
): Promise<number | undefined> {
  let session: ReplaySession | undefined;
  await readSegment(file, options.segment, context, (header) => {
    const replay = new ReplaySession(file, header, {
      machine,
      bail: true,
      maxDiffs: 1,
      expectations: expectations(file, options),
    });
    session = replay;
    return (columns) => replay.run(columns);
  });
  const result = session?.result(undefined, 'not read');
  const steps = [...(result?.divergences ?? []), ...(result?.guestDifferences ?? [])].map(({ step }) => step);
  return steps.length === 0 ? undefined : Math.min(...steps);
}

function expectations(file: string, options: ExplainTraceOptions): ReturnType<typeof expectationsFor> {
  return options.expectations ? expectationsFor(file, options.segment) : [];
}

async function onOne(
  file: string,
  ordinal: number,
  options: ExplainTraceOptions,
  context: Context,
): Promise<Explanation | undefined> {
  let explainer: Explainer | undefined;
  await readSegment(file, options.segment, context, (header) => {
    const made = new Explainer(file, header, options.segment, {
      machine: options.machine,
      expectations: expectations(file, options),
      steps: new Set([ordinal]),
      words: explainWords(header),
    });
    explainer = made;
    return (columns) => made.run(columns);
  });
  return explainer?.explanation(ordinal);
}

async function partingUpTo(
  file: string,
  last: number,
  sides: Sides,
  options: ExplainTraceOptions,
  context: Context,
): Promise<PartingFinder> {
  let finder: PartingFinder | undefined;
  await readSegment(file, options.segment, context, (header) => {
    const words = explainWords(header);
    const { internals } = options;
    const made = new PartingFinder(file, header, options.segment, sides, last, {
      expectations: expectations(file, options),
      words,
      internals,
    });
    finder = made;
    return (columns) => made.run(columns);
  });
  return finder!;
}

async function onTwo(
  file: string,
  step: number,
  sides: Sides,
  options: ExplainTraceOptions,
  context: Context,
): Promise<Explanation | undefined> {
  const { parted, shown } = await partingUpTo(file, step, sides, options, context);
  let explainer: PairExplainer | undefined;
  await readSegment(file, options.segment, context, (header) => {
    const words = explainWords(header);
    const { internals } = options;
    const given = { expectations: expectations(file, options), words, internals, step, parted, shown };
    const made = new PairExplainer(file, header, options.segment, sides, given);
    explainer = made;
    return (columns) => made.run(columns);
  });
  return explainer?.explanation();
}

async function writeHtml(path: string, explanation: Explanation): Promise<void> {
  const { explanationPage } = await import('../report/html/page.ts');
  const output = Output.create(path);
  try {
    output.write(Buffer.from(explanationPage(explanation, VERSION)));
    output.finish();
  } finally {
    output.abort();
  }
}
