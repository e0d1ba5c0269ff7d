/** The work of `rewalk convert`. */

import { Problem } from '../bits/problem.ts';
import { escapeControls } from '../report/escape.ts';
import { counted, countText } from '../report/table.ts';
import { copyTrace, formByName, formOf, openTrace, type TraceForm, TraceOutput } from '../trace/text/either-form.ts';
import type { Context } from './command.ts';
import { type CodecName, reportWritten } from './trace-output.ts';

export interface Forms {
  readonly from: TraceForm;
  readonly to: TraceForm;
}

function other(form: TraceForm): TraceForm {
  return form === 'text' ? 'trace' : 'text';
}

/** What is said counts; then names and contents; a pipe on one side is the other form of what is on the other side. */
export function formsOf(input: string, output: string, from: TraceForm | undefined, to: TraceForm | undefined): Forms {
  const known = from ?? (input === '-' ? undefined : formOf(input));
  const wanted = to ?? (output === '-' ? undefined : formByName(output));
  if (known !== undefined) return { from: known, to: wanted ?? other(known) };
  if (wanted !== undefined) return { from: other(wanted), to: wanted };
  throw new Problem('E_USAGE', 'both sides are pipes and neither form is said', {}, 'give --from or --to');
}

/** Copies; the new file appears only if the whole input could be read. */
export async function convertTrace(
  input: string,
  output: string,
  { from, to }: Forms,
  codec: CodecName,
  context: Context,
): Promise<void> {
  const progress = await context.progress('converting');
  const trace = openTrace(input, from);
  const target = new TraceOutput(output, to, { codec });
  try {
    for (const steps of copyTrace(trace, target)) {
      progress.update(() => `converting: ${countText(steps)} steps`);
      await context.breathe();
    }
    const written = target.finish();
    progress.done();
    reportWritten(context, output, written, [
      `wrote ${counted(written.steps, 'step')} as ${to === 'text' ? 'text' : 'a trace'} to ${escapeControls(output)}`,
    ]);
  } finally {
    progress.done();
    target.abort();
    trace.close();
  }
}
