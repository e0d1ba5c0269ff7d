/** The work of `rewalk minimise`. */

import { type Minimised, type MinimiseProgress, minimise } from '../compare/minimise.ts';
import type { GoalKind } from '../compare/minimise-goal.ts';
import type { Wanted } from '../compare/minimise-locate.ts';
import { escapeControls } from '../report/escape.ts';
import { counted, countText } from '../report/table.ts';
import { TraceOutput, type Written } from '../trace/text/either-form.ts';
import type { Context } from './command.ts';
import { type CodecName, reportWritten } from './trace-output.ts';

export interface MinimiseTraceOptions {
  /** Seconds. */
  readonly budget: number;
  readonly codec: CodecName;
}

/** Minimises, writes, tells. Throws what `minimise` and writing throw. */
export async function minimiseTrace(
  path: string,
  output: string,
  wanted: Wanted,
  { budget, codec }: MinimiseTraceOptions,
  context: Context,
): Promise<void> {
  const end = performance.now() + budget * 1000;
  const progress = await context.progress('minimising');
  const work = minimise(path, { ...wanted, isOver: () => performance.now() > end });
  const target = new TraceOutput(output, undefined, { codec });
  try {
    let next = work.next();
    for (; next.done !== true; next = work.next()) {
      const { value } = next;
      progress.update(() => progressText(path, value));
      await context.breathe();
    }
    const found = next.value;
    target.header(found.header);
    target.steps(found.columns);
    const written = target.finish();
    progress.done();
    reportWritten(context, output, resultObject(found, written, wanted), resultLines(found, output, wanted));
  } finally {
    progress.done();
    target.abort();
  }
}

function progressText(path: string, { phase, steps, trials }: MinimiseProgress): string {
  const tried = trials === 0 ? '' : `, ${counted(trials, 'trial')}`;
  return `${escapeControls(path)}: ${phase}, ${counted(steps, 'step')}${tried}`;
}

/** What the small trace is good for. */
function meaning(kind: GoalKind, { sides }: Wanted): string {
  switch (kind) {
    case 'as recorded':
      return 'a replay of it diverges; expectations are as recorded';
    case 'remade':
      return "a replay of it diverges at its last step, whose expectations are as recorded; the others' were made anew";
    case 'pair':
      return `${sides![0].label} matches it, ${sides![1].label} does not`;
    case 'machines':
      return `rewalk compare of ${sides![0].label} and ${sides![1].label} tells them apart on it; a replay need not`;
  }
}

function resultLines(found: Minimised, output: string, wanted: Wanted): string[] {
  const { steps, trials, finding, original, kind, finished } = found;
  const text = (words: string): string => escapeControls(words);
  return [
    `wrote ${counted(steps.after, 'step')} to ${text(output)}`,
    `  of ${counted(steps.before, 'step')} up to the divergence at step ${countText(original.step)}; ` +
      `${countText(steps.sliced)} after slicing; ${counted(trials, 'trial')}`,
    `  class: ${text(finding.group)}`,
    ...(finding.cause === '' ? [] : [`  step ${finding.step}: ${text(finding.cause)}`]),
    `  ${text(meaning(kind, wanted))}`,
    ...(finished ? [] : ['  the budget is used up: more could perhaps be left out (--budget)']),
  ];
}

function resultObject(found: Minimised, written: Written, wanted: Wanted): object {
  const { steps, trials, finding, original, kind, finished, segment } = found;
  const machines = wanted.sides?.map(({ label }) => label);
  return {
    ...written,
    ...(machines === undefined ? {} : { machines }),
    kind,
    segment,
    class: finding.group,
    cause: finding.cause,
    step: finding.step,
    original: { step: original.step, cause: original.cause, steps: steps.before, sliced: steps.sliced },
    trials,
    finished,
  };
}
