/** The work of `rewalk import`: an importer's steps into a new file. */

import { Problem } from '../bits/problem.ts';
import type { StepSink } from '../import/sink.ts';
import { countText } from '../report/table.ts';
import { TraceOutput, type Written } from '../trace/text/either-form.ts';
import type { Context } from './command.ts';
import type { ImportFormat, ImportOptions } from './import-formats.ts';
import { Interrupted } from './io.ts';
import type { CodecName } from './trace-output.ts';

/** Imports; the new file appears only if the whole input could be read. */
export async function importInto(
  format: ImportFormat,
  input: string,
  options: ImportOptions,
  output: string,
  codec: CodecName,
  context: Context,
): Promise<Written> {
  const progress = await context.progress(`importing ${format.name}`);
  const target = new TraceOutput(output, undefined, { codec });
  let steps = 0;
  let begun = false;
  try {
    const sink: StepSink = {
      header: (header) => {
        target.header(header);
        begun = true;
      },
      steps: (columns) => {
        // Importers read asynchronously, so a signal has come in by the time of the next chunk.
        if (context.io.signal.aborted) throw new Interrupted('interrupted');
        target.steps(columns);
        steps += columns.stepCount;
        progress.update(() => `importing ${format.name}: ${countText(steps)} steps`);
      },
    };
    await format.import(input, sink, options);
    if (!begun) throw new Problem('E_IMPORT', `the input has nothing that ${format.name} knows`, { file: input });
    return target.finish();
  } finally {
    progress.done();
    target.abort();
  }
}
