/** `rewalk recover`: save what can be saved of a damaged trace. */

import { ExitStatus, Problem } from '../bits/problem.ts';
import { escapeControls } from '../report/escape.ts';
import { counted } from '../report/table.ts';
import { defineCommand, jsonOption } from './command.ts';
import { oneText } from './option-values.ts';
import { reportWritten } from './trace-output.ts';

export const recover = defineCommand({
  command: 'recover <trace>',
  describe: 'Copy the whole chunks of a damaged trace to a new, sound one',
  examples: [['rewalk recover cut.rwt -o saved.rwt', 'every chunk that is whole']],
  positionals: {
    trace: { type: 'string', demandOption: true, describe: 'Damaged trace; a regular file' },
  },
  options: {
    output: { type: 'string', alias: 'o', demandOption: true, coerce: oneText('--output'), describe: 'New trace' },
    ...jsonOption,
  },
  async run(args, context) {
    const output = args.output ?? '';
    if (output === args.trace) throw new Problem('E_USAGE', 'the new trace would replace the damaged one');
    const { recoverTrace } = await import('../trace/recover.ts');
    const { written, chunks, losses, furtherLosses, missingSteps } = recoverTrace(args.trace, output);
    reportWritten(context, output, { ...written, chunks, losses, furtherLosses, missingSteps }, [
      `saved ${counted(written.steps, 'step')} in ${counted(chunks, 'chunk')} to ${escapeControls(output)}`,
      ...losses.map(({ from, to, reason }) => `lost: bytes ${from} to ${to}: ${escapeControls(reason)}`),
      ...(furtherLosses > 0 ? [`and ${furtherLosses} more losses`] : []),
      ...(missingSteps > 0
        ? [`missing in between: ${counted(missingSteps, 'step')}; a new segment begins behind each gap`]
        : []),
    ]);
    return ExitStatus.MATCH;
  },
});
