/** `rewalk check`: is the file sound, does the trace hold its own invariants. */

import { ExitStatus, Problem, placeText } from '../bits/problem.ts';
import { escapeControls } from '../report/escape.ts';
import type { Finding } from '../trace/check/findings.ts';
import { defineCommand, jsonOption } from './command.ts';
import { worseStatus } from './status.ts';
import { traceFiles, tracesPositional } from './traces.ts';

export const check = defineCommand({
  command: 'check <traces..>',
  describe: 'Say whether traces are sound and hold their own invariants',
  examples: [
    ['rewalk check traces', 'the whole corpus; exit status 3 if anything is wrong'],
    ['rewalk check --strict trace.rwt', 'warnings count too'],
  ],
  positionals: tracesPositional,
  options: {
    strict: { type: 'boolean', default: false, describe: 'Warnings make the trace unsound, too' },
    ...jsonOption,
  },
  async run(args, context) {
    const files = traceFiles(args.traces);
    const { checkTrace } = await import('../trace/check/trace.ts');
    const { out, paint } = context;
    const reports: object[] = [];
    const progress = await context.progress('checking');
    let status: number = ExitStatus.MATCH;
    try {
      for (const file of files) {
        progress.update(() => escapeControls(file));
        await context.breathe();
        let findings: Finding[];
        try {
          findings = checkTrace(file);
        } catch (error) {
          if (!(error instanceof Problem)) throw error;
          // The file could not be opened or read at all; that says nothing of the others.
          context.problem(error);
          status = worseStatus(status, error.exitStatus);
          continue;
        }
        const unsound = findings.some(({ severity }) => args.strict || severity === 'error');
        if (unsound) status = worseStatus(status, ExitStatus.UNREADABLE);
        if (context.json) {
          reports.push({ trace: file, sound: !unsound, findings });
          continue;
        }
        const name = escapeControls(file);
        if (findings.length === 0) out.line(`${name}: ${paint('green', 'sound')}`);
        else out.line(`${name}: ${unsound ? paint('red', 'unsound') : paint('yellow', 'sound, with warnings')}`);
        for (const { id, severity, place, sentence, further } of findings) {
          const { file: _named, ...where } = place;
          const at = placeText(where);
          const colour = severity === 'error' ? 'red' : 'yellow';
          out.line(`  ${paint(colour, severity)} ${id}${at === '' ? '' : ` (${at})`}: ${escapeControls(sentence)}`);
          if (further > 0) out.line(`    and ${further} more of ${id}`);
        }
      }
    } finally {
      progress.done();
    }
    if (context.json) out.json(reports);
    return status;
  },
});
