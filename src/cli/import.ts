/** `rewalk import`: a foreign recording as a trace. */

import { ExitStatus, Problem } from '../bits/problem.ts';
import { escapeControls } from '../report/escape.ts';
import { counted, tableLines } from '../report/table.ts';
import { defineCommand, jsonOption } from './command.ts';
import { oneText } from './option-values.ts';
import { suggestion } from './suggest.ts';
import { codecOption } from './trace-output.ts';

export const importCommand = defineCommand({
  command: 'import [format] [input]',
  describe: 'Make a trace of a foreign recording',
  examples: [
    ['rewalk import walklog pcid.walklog.gz -o pcid.rwt', 'a log of Bochs'],
    ['rewalk import recordings/kvm/a_npt1 -o a_npt1.rwt', 'format detected'],
    ['rewalk import --list', 'the formats'],
  ],
  positionals: {
    format: { type: 'string', describe: 'Format of the input; may be left out' },
    input: { type: 'string', describe: 'File or folder' },
  },
  options: {
    list: { type: 'boolean', default: false, describe: 'List the formats' },
    output: {
      type: 'string',
      alias: 'o',
      coerce: oneText('--output'),
      describe: 'New trace (*.jsonl: as text), - for a pipe',
    },
    vm: { type: 'string', coerce: oneText('--vm'), describe: 'Which guest, in a recording of several' },
    ...codecOption,
    ...jsonOption,
  },
  async run(args, context) {
    const { detectFormat, IMPORT_FORMATS } = await import('./import-formats.ts');
    if (args.list) {
      if (context.json)
        context.out.json(IMPORT_FORMATS.map(({ name, summary, looksLike }) => ({ name, summary, looksLike })));
      else context.out.lines(tableLines(IMPORT_FORMATS.map(({ name, summary }) => [name, summary])));
      return ExitStatus.MATCH;
    }
    // With one argument, it is the input.
    const [named, path] = args.input === undefined ? [undefined, args.format] : [args.format, args.input];
    if (path === undefined) throw new Problem('E_USAGE', 'no input is given', {}, 'see `rewalk import --help`');
    if (args.output === undefined) throw new Problem('E_USAGE', 'no output is given', {}, 'add `-o trace.rwt`');
    const format = named === undefined ? detectFormat(path) : IMPORT_FORMATS.find(({ name }) => name === named);
    if (format === undefined) {
      const near = suggestion(
        named ?? '',
        IMPORT_FORMATS.map(({ name }) => name),
      );
      const remedy = near === undefined ? '`rewalk import --list` names the formats' : `did you mean ${near}?`;
      throw new Problem('E_USAGE', `unknown format ${JSON.stringify(named)}`, {}, remedy);
    }
    if (args.vm !== undefined && !format.options.includes('vm')) {
      throw new Problem('E_USAGE', `--vm makes no difference to ${format.name}`);
    }
    const { importInto } = await import('./import-into.ts');
    const written = await importInto(format, path, { vm: args.vm }, args.output, args.codec, context);
    const { reportWritten } = await import('./trace-output.ts');
    reportWritten(context, args.output, { format: format.name, ...written }, [
      `imported ${counted(written.steps, 'step')} from ${format.name} to ${escapeControls(args.output)}`,
    ]);
    return ExitStatus.MATCH;
  },
});
