/** `--report FORMAT[=FILE]`: which reports a run is to leave, and where. */

import { Problem } from '../bits/problem.ts';
import { suggestion } from './suggest.ts';

export const REPORT_FORMATS = ['text', 'json', 'ndjson', 'junit', 'ktap', 'tap', 'github', 'html'] as const;
export type ReportFormat = (typeof REPORT_FORMATS)[number];

export interface ReportRequest {
  readonly format: ReportFormat;
  /** Undefined: standard output, in place of the text. */
  readonly file: string | undefined;
}

function requestOf(text: string): ReportRequest {
  const at = text.indexOf('=');
  const [name, file] = at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
  const format = REPORT_FORMATS.find((each) => each === name);
  if (format === undefined) {
    const near = suggestion(name, REPORT_FORMATS);
    throw new Problem(
      'E_USAGE',
      `--report ${JSON.stringify(text)}: expected FORMAT or FORMAT=FILE with one of ${REPORT_FORMATS.join(', ')}`,
      {},
      near === undefined ? undefined : `did you mean ${near}?`,
    );
  }
  if (file === '') {
    throw new Problem('E_USAGE', `--report ${name}= names no file`, {}, `e.g. --report ${name}=report`);
  }
  return { format, file: file === '-' ? undefined : file };
}

/** A yargs `coerce`: all of them in the order given. Throws E_USAGE. */
function reportRequests(value: unknown): readonly ReportRequest[] {
  const given: readonly unknown[] = value === undefined ? [] : Array.isArray(value) ? value : [value];
  const requests = given.map((text) => requestOf(String(text)));
  const places = new Set<string | undefined>();
  for (const { format, file } of requests) {
    if (places.has(file)) {
      throw new Problem(
        'E_USAGE',
        file === undefined ? 'two reports would go to standard output' : `two reports would go to ${file}`,
        {},
        `name a file: --report ${format}=FILE`,
      );
    }
    places.add(file);
  }
  return requests;
}

export const reportOption = {
  report: {
    type: 'string',
    array: true,
    coerce: reportRequests,
    describe: `Report as ${REPORT_FORMATS.join(', ')}; FORMAT=FILE writes a file and keeps the text; may be repeated`,
  },
} as const;
