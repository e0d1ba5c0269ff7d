/** `rewalk generate`: random but valid guest programs as traces. */

import { ExitStatus, Problem } from '../bits/problem.ts';
import { NESTINGS, PAGINGS } from '../generate/program.ts';
import { defineCommand, jsonOption } from './command.ts';
import { oneText, wholeNumber } from './option-values.ts';
import { codecOption, reportWritten } from './trace-output.ts';

const MAXIMUM_STEPS = 100_000;
const MAXIMUM_SEED = 0xffff_ffff;

export const generate = defineCommand({
  command: 'generate',
  describe: 'Generate random guest programs as traces, with what a bare processor makes of them as expected',
  examples: [
    ['rewalk generate --seed 1 --programs 100 --paging pae -o pae.rwt', 'a hundred programs, one segment each'],
    ['rewalk generate --nested ept --programs 20 -o ept.rwt', 'a hypervisor that uses EPT, and its guest'],
    ['rewalk generate --paging 4-level --steps 40 -o one.jsonl', 'one short program as text'],
  ],
  positionals: {},
  options: {
    seed: {
      type: 'string',
      coerce: wholeNumber('--seed', 0, MAXIMUM_SEED),
      describe: 'The same seed, the same programs [1]',
    },
    programs: { type: 'string', coerce: wholeNumber('--programs', 1), describe: 'How many [1]' },
    first: { type: 'string', coerce: wholeNumber('--first', 0), describe: 'Number of the first under its seed [0]' },
    paging: { choices: PAGINGS, default: '4-level', describe: 'How the guest pages' },
    nested: {
      choices: NESTINGS,
      default: 'no' as const,
      describe: 'The guest is a hypervisor with NPT, with EPT, or without nested paging (none)',
    },
    vendor: { choices: ['amd', 'intel'] as const, describe: 'Of the processor, with --nested none [by chance]' },
    vcpus: { type: 'string', coerce: wholeNumber('--vcpus', 1, 2), describe: 'vCPUs that share memory, 1 or 2 [1]' },
    steps: {
      type: 'string',
      coerce: wholeNumber('--steps', 1, MAXIMUM_STEPS),
      describe: 'Steps of each after its tables are there [150, nested and with 2 vCPUs 200]',
    },
    output: {
      type: 'string',
      alias: 'o',
      default: '-',
      coerce: oneText('--output'),
      describe: 'New file, text for *.jsonl; - for a pipe',
    },
    ...codecOption,
    ...jsonOption,
  },
  async run(args, context) {
    const { generateProgram } = await import('../generate/generate.ts');
    const { withoutIdleSets } = await import('../generate/trim.ts');
    const { writeProgram } = await import('../generate/write-programs.ts');
    const { TraceOutput } = await import('../trace/text/either-form.ts');
    const { counted } = await import('../report/table.ts');
    const { escapeControls } = await import('../report/escape.ts');
    const { seed = 1, programs = 1, first = 0, steps, paging, nested, vendor, codec } = args;
    const vcpus = args.vcpus === 2 ? 2 : 1;
    if (vendor !== undefined && nested !== 'none') {
      throw new Problem('E_USAGE', "--vendor goes with --nested none only: NPT is AMD's, EPT is Intel's");
    }
    const path = args.output ?? '-';
    const output = new TraceOutput(path, undefined, { codec });
    const progress = await context.progress('generating');
    try {
      for (let index = first; index < first + programs; index++) {
        const chosen = { ...(steps === undefined ? {} : { steps }), ...(vendor === undefined ? {} : { vendor }) };
        writeProgram(output, withoutIdleSets(generateProgram({ seed, index, paging, nested, vcpus, ...chosen })));
        progress.update(() => `generating: ${counted(index - first + 1, 'program')}`);
        await context.breathe();
      }
      const written = output.finish();
      progress.done();
      const what = `${counted(programs, 'program')}, ${counted(written.steps, 'step')}`;
      reportWritten(context, path, { ...written, programs, seed, paging, nested }, [
        `wrote ${what} to ${escapeControls(path)}`,
      ]);
    } finally {
      progress.done();
      output.abort();
    }
    return ExitStatus.MATCH;
  },
});
