/** Is this file sound, and does what it says hold together? */

import { type Place, Problem, type ProblemCode } from '../../bits/problem.ts';
import type { TraceLimits } from '../limits.ts';
import type { TraceItem } from '../reader.ts';
import { openTrace } from '../text/either-form.ts';
import { type Finding, Findings } from './findings.ts';
import { headerFaults } from './kvm.ts';
import { StepRules } from './steps.ts';

export type { Finding } from './findings.ts';

/** Problems that are about the world, not about the file: they are thrown, not found. */
const NOT_FOUND: readonly ProblemCode[] = ['E_NO_SUCH_FILE', 'E_IO', 'E_USAGE'];

/**
 * Everything that is wrong with a trace of either form (a file, or `-`), in the order of the file. The file's own
 * unsoundness ends the check, since nothing behind it can be trusted; its finding has the problem's code for its id. An
 * empty list says that the file is sound and holds its invariants. Throws E_NO_SUCH_FILE and E_IO.
 */
export function checkTrace(path: string, limits?: Partial<TraceLimits>): Finding[] {
  const findings = new Findings();
  const trace = openTrace(path, undefined, limits);
  let rules: StepRules | undefined;
  let steps = 0;
  try {
    for (const item of trace) {
      rules = checkItem(item, rules, findings);
      if (item.kind === 'end') steps += item.steps;
    }
    if (steps === 0) findings.add('file.no-steps', 'warning', { file: path }, 'the trace has no steps');
  } catch (error) {
    if (!(error instanceof Problem) || NOT_FOUND.includes(error.code)) throw error;
    addProblem(findings, error);
  } finally {
    trace.close();
  }
  return findings.list();
}

function addProblem(
  findings: Findings,
  { code, message, place }: { code: string; message: string; place: Place },
): void {
  findings.add(code, 'error', place, message);
}

function checkItem(item: TraceItem, rules: StepRules | undefined, findings: Findings): StepRules | undefined {
  switch (item.kind) {
    case 'header':
      for (const { id, sentence } of headerFaults(item.header)) findings.add(id, 'error', {}, sentence);
      return new StepRules(findings, item.header);
    case 'steps':
      rules?.check(item.columns, item.place);
      return rules;
    case 'end':
      if (item.problem !== undefined) addProblem(findings, item.problem);
      return rules;
  }
}
