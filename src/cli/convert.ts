/** `rewalk convert`: packed trace to text form and back, or to another codec. */

import { ExitStatus, Problem } from '../bits/problem.ts';
import { defineCommand, jsonOption } from './command.ts';
import { oneText } from './option-values.ts';
import { codecOption } from './trace-output.ts';

const FORMS = ['trace', 'text'] as const;

export const convert = defineCommand({
  command: 'convert <input>',
  describe: 'Convert between packed traces and their text form (JSON Lines)',
  examples: [
    ['rewalk convert trace.rwt -o trace.jsonl', 'packed to text'],
    ['rewalk convert case.jsonl -o case.rwt', 'text to packed'],
    ['rewalk convert trace.rwt -o small.rwt --codec deflate', 'packed anew'],
    ['rewalk convert - --from trace --to text -o -', 'from pipe to pipe'],
  ],
  positionals: {
    input: { type: 'string', demandOption: true, describe: 'Trace or text, - for a pipe' },
  },
  options: {
    output: {
      type: 'string',
      alias: 'o',
      default: '-',
      coerce: oneText('--output'),
      describe: 'New file, - for a pipe',
    },
    from: { choices: FORMS, describe: 'Form of the input; default: what it is, and for a pipe the other of --to' },
    to: {
      choices: FORMS,
      describe: 'Form of the output; default: text for *.jsonl, and for a pipe the other of the input',
    },
    ...codecOption,
    ...jsonOption,
  },
  async run(args, context) {
    const { convertTrace, formsOf } = await import('./convert-trace.ts');
    const output = args.output ?? '-';
    if (output !== '-' && output === args.input) throw new Problem('E_USAGE', 'the new file would replace the old one');
    await convertTrace(args.input, output, formsOf(args.input, output, args.from, args.to), args.codec, context);
    return ExitStatus.MATCH;
  },
});
