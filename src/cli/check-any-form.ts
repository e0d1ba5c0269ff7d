/** Checking a trace whatever its form. The text form is read, then held to the same rules as a packed trace. */

import { Problem } from '../bits/problem.ts';
import { checkTrace, type Finding } from '../trace/check.ts';
import { StepRules } from '../trace/check-steps.ts';
import { Findings } from '../trace/findings.ts';
import { formOf, openTrace } from './trace-input.ts';

/** Everything that is wrong, in the order of the file. Throws E_NO_SUCH_FILE and E_IO. */
export function checkTraceOfAnyForm(path: string): Finding[] {
  return formOf(path) === 'trace' ? checkTrace(path) : checkText(path);
}

function checkText(path: string): Finding[] {
  const findings = new Findings();
  const trace = openTrace(path, 'text');
  let rules: StepRules | undefined;
  let steps = 0;
  try {
    for (const item of trace) {
      if (item.kind === 'header') rules = new StepRules(findings, item.header);
      else if (item.kind === 'steps') rules?.check(item.columns, item.place);
      else steps += item.steps;
    }
    if (steps === 0) findings.add('file.no-steps', 'warning', { file: path }, 'the trace has no steps');
  } catch (error) {
    if (!(error instanceof Problem) || error.code === 'E_IO' || error.code === 'E_NO_SUCH_FILE') throw error;
    findings.add(error.code, 'error', error.place, error.message);
  } finally {
    trace.close();
  }
  return findings.list();
}
