/** The reports that a run leaves: each trace's case is kept, and every format written at the end, whole or not at all. */

import { randomBytes } from 'node:crypto';
import { appendFileSync } from 'node:fs';
import { stripVTControlCharacters } from 'node:util';
import { Problem, placeText } from '../bits/problem.ts';
import type { Explanation } from '../replay/explanation.ts';
import { githubLines, githubSummary } from '../report/github.ts';
import { junitLines } from '../report/junit.ts';
import { ktapLines } from '../report/ktap.ts';
import { ndjsonLine } from '../report/ndjson.ts';
import type { ReportCase, ReportRun } from '../report/run.ts';
import { tapLines } from '../report/tap.ts';
import { TimelineBuilder } from '../report/timeline.ts';
import { ioProblem } from '../trace/input.ts';
import { Output } from '../trace/output.ts';
import { VERSION } from '../trace/version.ts';
import type { Context } from './command.ts';
import { problemJson } from './error-text.ts';
import type { ReportFormat, ReportRequest } from './report-request.ts';
import { ResultOutput } from './result-output.ts';

/** Standard output for the text: listened to where a report needs it, silent where a report takes its place. */
class TextOutput extends ResultOutput {
  readonly heard: string[] = [];
  private readonly under: ResultOutput;
  private readonly silent: boolean;
  private readonly listens: boolean;

  constructor(under: ResultOutput, silent: boolean, listens: boolean) {
    super({ write: () => true, once: () => undefined, on: () => undefined });
    this.under = under;
    this.silent = silent;
    this.listens = listens;
  }

  override line(text = ''): void {
    // What came from a trace has no escape sequences any more: those that are there are ours.
    if (this.listens) this.heard.push(stripVTControlCharacters(text));
    if (!this.silent) this.under.line(text);
  }

  override get full(): boolean {
    return this.under.full;
  }

  override async flush(): Promise<void> {
    await this.under.flush();
  }
}

interface Destination {
  readonly format: ReportFormat;
  /** Undefined: standard output. */
  readonly output: Output | undefined;
}

/** What is known when all traces are through. */
export interface RunEnd {
  readonly exitStatus: number;
  /** The totals as text. */
  readonly totals: readonly string[];
  readonly faults: readonly string[];
  /** The document that `--json` prints. `results`: the objects that `add` was given. */
  readonly document: (results: readonly object[]) => object;
}

/** A trace's result: made into what the formats that were asked for need, and nothing else. */
export interface CaseMaker {
  /** `seconds` since the trace began. */
  readonly report: (seconds: number) => ReportCase;
  readonly object: () => object;
  /** Explains a step of it for a page; undefined where that cannot be. */
  readonly explain: ((step: number) => Promise<Explanation | undefined>) | undefined;
}

/** Cases whose first difference is explained on a page: explaining replays the trace up to there. */
const MAXIMUM_EXPLAINED = 10;

export class Reports {
  /** To be used in place of the one that `open` was given: its text may be listened to, its problems are cases, too. */
  readonly context: Context;
  private readonly given: Context;
  private readonly text: TextOutput;
  private readonly destinations: readonly Destination[];
  private readonly command: string;
  private readonly unit: string;
  private readonly startedAt = new Date();
  private readonly started = performance.now();
  private caseStarted = performance.now();
  private readonly cases: ReportCase[] = [];
  private readonly explainers = new Map<ReportCase, NonNullable<CaseMaker['explain']>>();
  private readonly objects: object[] = [];

  private constructor(destinations: readonly Destination[], given: Context, command: string, unit: string) {
    this.destinations = destinations;
    this.given = given;
    this.command = command;
    this.unit = unit;
    const taken = destinations.some(({ format, output }) => output === undefined && format !== 'text');
    const listens = destinations.some(
      ({ format, output }) => format === 'github' || (format === 'text' && output !== undefined),
    );
    this.text = new TextOutput(given.out, taken, listens);
    this.context =
      destinations.length === 0
        ? given
        : {
            ...given,
            out: this.text,
            problem: (problem) => {
              given.problem(problem);
              this.addProblem(problem);
            },
          };
  }

  /**
   * `command`: `rewalk replay`; `unit`: what its cases count as compared; `inputs`: files that must not be replaced. The
   * files are opened at once: that one cannot be written is told before the work. Throws E_USAGE, E_IO.
   */
  static open(
    requests: readonly ReportRequest[],
    context: Context,
    { command, unit, inputs }: { command: string; unit: string; inputs: readonly string[] },
  ): Reports {
    for (const { format, file } of requests) {
      if (context.json && (file === undefined || format === 'text' || format === 'github')) {
        throw new Problem('E_USAGE', `--json and --report ${format} exclude each other`, {}, 'use --report json=FILE');
      }
      if (file !== undefined && inputs.includes(file)) {
        throw new Problem('E_USAGE', `--report ${format}=${file} would replace a trace`, { file }, 'name another file');
      }
      if (file === undefined && format === 'html' && context.io.stdout.isTTY === true) {
        throw new Problem('E_USAGE', '--report html: a page is no use in a terminal', {}, '--report html=report.html');
      }
    }
    const destinations: Destination[] = [];
    try {
      for (const { format, file } of requests) {
        destinations.push({ format, output: file === undefined ? undefined : Output.create(file) });
      }
    } catch (error) {
      for (const { output } of destinations) output?.abort();
      throw error;
    }
    const reports = new Reports(destinations, context, command, unit);
    reports.stream({ type: 'start', command, version: VERSION });
    return reports;
  }

  get wanted(): boolean {
    return this.destinations.length > 0;
  }

  /** Whether a format asks for what only a page shows. */
  get pages(): boolean {
    return this.has('html');
  }

  /** Whether the whole run is asked for as one object. */
  get documents(): boolean {
    return this.given.json || this.has('json');
  }

  /** Whether a format lists cases. */
  private get listed(): boolean {
    return this.has('junit', 'ktap', 'tap', 'github', 'html');
  }

  private has(...formats: readonly ReportFormat[]): boolean {
    return this.destinations.some(({ format }) => formats.includes(format));
  }

  /** To be called when a trace begins. Something to show its chunks to, if a format asks for a timeline. */
  begin(): TimelineBuilder | undefined {
    this.caseStarted = performance.now();
    return this.pages ? new TimelineBuilder() : undefined;
  }

  add({ report, object, explain }: CaseMaker): void {
    if (!this.wanted) return;
    if (this.listed) {
      const made = report((performance.now() - this.caseStarted) / 1000);
      const isOne = this.pages && this.explainers.size < MAXIMUM_EXPLAINED && made.differences.length > 0;
      if (isOne && explain !== undefined) this.explainers.set(made, explain);
      this.cases.push(made);
    }
    if (this.has('json')) this.objects.push(object());
    if (this.has('ndjson')) this.stream({ type: 'trace', ...object() });
  }

  /** Writes everything. */
  async finish({ exitStatus, totals, faults, document }: RunEnd): Promise<void> {
    if (!this.wanted) return;
    const run: ReportRun = {
      command: this.command,
      version: VERSION,
      unit: this.unit,
      startedAt: this.startedAt,
      seconds: (performance.now() - this.started) / 1000,
      cases: this.cases,
      totals,
      faults,
      exitStatus,
    };
    for (const { format, output } of this.destinations) {
      if (format === 'ndjson') {
        const { results: _, traces: __, ...rest } = document([]) as { results?: unknown; traces?: unknown };
        this.stream({ type: 'end', ...rest });
      } else if (format !== 'text' || output !== undefined) {
        await this.write(output, await this.linesOf(format, run, document));
      }
      output?.finish();
    }
    this.summarise(run);
  }

  /** Leaves nothing behind of what was not finished. */
  abort(): void {
    for (const { output } of this.destinations) output?.abort();
  }

  private async linesOf(
    format: ReportFormat,
    run: ReportRun,
    document: RunEnd['document'],
  ): Promise<readonly string[]> {
    switch (format) {
      case 'text':
        return this.text.heard;
      case 'json':
        return [JSON.stringify(document(this.objects))];
      case 'junit':
        return junitLines(run);
      case 'ktap':
        return ktapLines(run);
      case 'tap':
        return tapLines(run);
      case 'github':
        return githubLines(run, this.text.heard, randomBytes(16).toString('hex'));
      case 'html': {
        const { htmlReport } = await import('../report/html/page.ts');
        return [htmlReport({ ...run, cases: await this.explained() }).trimEnd()];
      }
      case 'ndjson':
        return [];
    }
  }

  /** The cases, the first difference of some of them explained. */
  private async explained(): Promise<readonly ReportCase[]> {
    const cases: ReportCase[] = [];
    for (const each of this.cases) {
      const [first, ...others] = each.differences;
      const explain = this.explainers.get(each);
      const explanation = first?.step === undefined ? undefined : await explain?.(first.step);
      const isExplained = first !== undefined && explanation !== undefined;
      cases.push(isExplained ? { ...each, differences: [{ ...first, explanation }, ...others] } : each);
    }
    return cases;
  }

  private async write(output: Output | undefined, lines: readonly string[]): Promise<void> {
    if (output === undefined) {
      for (const line of lines) {
        this.given.out.line(line);
        if (this.given.out.full) await this.given.out.flush();
      }
    } else if (lines.length > 0) output.write(Buffer.from(`${lines.join('\n')}\n`));
  }

  /** A line of each NDJSON report. */
  private stream(value: object): void {
    for (const { format, output } of this.destinations) {
      if (format !== 'ndjson') continue;
      if (output === undefined) this.given.out.line(ndjsonLine(value));
      else output.write(Buffer.from(`${ndjsonLine(value)}\n`));
    }
  }

  private addProblem(problem: Problem): void {
    const { code, message, place, remedy } = problem;
    const where = placeText(place);
    const reason = [where === '' ? message : `${where}: ${message}`, remedy ?? ''].filter((part) => part !== '');
    this.stream({ type: 'problem', ...problemJson(problem) });
    if (!this.listed) return;
    this.cases.push({
      file: place.file ?? '<input>',
      title: '',
      outcome: 'error',
      verdict: code,
      summary: `${code} ${reason.join('; ')}`,
      reason: reason.join('; '),
      steps: 0,
      compared: 0,
      seconds: (performance.now() - this.caseStarted) / 1000,
      receipt: [],
      differing: 0,
      differences: [],
      groups: [],
    });
  }

  /** GitHub gives a file to which each step of a job appends. */
  private summarise(run: ReportRun): void {
    const path = this.given.io.env['GITHUB_STEP_SUMMARY'];
    if (path === undefined || path === '' || !this.has('github')) return;
    try {
      appendFileSync(path, githubSummary(run));
    } catch (error) {
      throw ioProblem(error, path, 'append the job summary to it');
    }
  }
}
