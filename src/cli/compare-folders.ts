/** The work of `rewalk compare` with two folders of traces or recordings: each with the one of its name. */

import { ExitStatus, Problem } from '../bits/problem.ts';
import { type PairVerdict, TraceCorpus } from '../compare/trace-corpus.ts';
import { foldersObject } from '../report/compare-folders-json.ts';
import {
  type FoldersReport,
  foldersHeadLines,
  foldersLines,
  type PairLine,
  someNames,
  type TraceWhere,
} from '../report/compare-folders-text.ts';
import { tracesCase } from '../report/compare-traces-cases.ts';
import { tracesObject } from '../report/compare-traces-json.ts';
import { classTitle } from '../report/compare-traces-text.ts';
import type { Context } from './command.ts';
import { checkVms, heldAgainst, statusOf, type TwoTraces, type TwoTracesOptions } from './compare-two-traces.ts';
import { isClosedOutput, problemJson } from './error-text.ts';
import { Reports } from './report-output.ts';
import { worseStatus } from './status.ts';
import type { TraceFolder } from './trace-folders.ts';

function verdictOf({ compared, isEqual, problems }: TwoTraces): PairVerdict {
  if (problems.length > 0) return 'unreadable';
  return !compared ? 'nothing-compared' : isEqual ? 'equal' : 'different';
}

function differencesText({ report, compared }: TwoTraces): string {
  const [first] = report.result.classes;
  if (first !== undefined) return classTitle(first);
  return compared ? 'one has more segments' : '';
}

/**
 * Compares what both folders have, prints, returns the exit status: 0 all equal, 1 something differs or is in one folder
 * only, 3 a trace cannot be read, or not to its end. Throws E_NO_TRACES if the folders have no name in common.
 */
export async function compareFolders(
  paths: readonly [a: string, b: string],
  folders: readonly [a: TraceFolder, b: TraceFolder],
  options: TwoTracesOptions,
  context: Context,
): Promise<number> {
  checkVms(options.vms);
  const names = [...folders[0].keys()].filter((name) => folders[1].has(name));
  if (names.length === 0) {
    throw new Problem(
      'E_NO_TRACES',
      `no trace has a name that is in ${paths[0]}, too (${someNames([...folders[1].keys()])})`,
      { file: paths[1] },
      'traces go together by their path below the folder; compare two of other names by naming both',
    );
  }
  const inputs = folders.flatMap((folder) => [...folder.values()]);
  const reports = Reports.open(options.reports, context, {
    command: 'rewalk compare',
    unit: 'events equal',
    inputs,
  });
  try {
    return await new FoldersComparison(paths, folders, names, options, reports).run();
  } finally {
    reports.abort();
  }
}

class FoldersComparison {
  private readonly paths: readonly [a: string, b: string];
  private readonly folders: readonly [a: TraceFolder, b: TraceFolder];
  private readonly names: readonly string[];
  private readonly options: TwoTracesOptions;
  private readonly reports: Reports;
  private readonly corpus = new TraceCorpus<TraceWhere>();
  private readonly pairs: PairLine[] = [];
  private readonly objects: object[] = [];
  private status: number = ExitStatus.MATCH;

  constructor(
    paths: readonly [a: string, b: string],
    folders: readonly [a: TraceFolder, b: TraceFolder],
    names: readonly string[],
    options: TwoTracesOptions,
    reports: Reports,
  ) {
    this.paths = paths;
    this.folders = folders;
    this.names = names;
    this.options = options;
    this.reports = reports;
  }

  async run(): Promise<number> {
    const { context } = this.reports;
    for (const name of this.names) {
      this.reports.begin();
      try {
        await this.pair(name);
      } catch (error) {
        if (!(error instanceof Problem) || isClosedOutput(error)) throw error;
        this.unreadable(name, error);
      }
    }
    const report = this.report();
    if (report.removed.length + report.added.length > 0) this.worse(ExitStatus.DIVERGED);
    const { status } = this;
    const document = (): object => foldersObject(report, this.objects, status);
    if (context.json) context.out.json(document());
    else context.out.lines(foldersLines(report, this.options.maxDiffs, context.paint));
    await this.reports.finish({
      exitStatus: status,
      totals: foldersHeadLines(report),
      faults: [
        ...(report.removed.length === 0 ? [] : [`only in A: ${someNames(report.removed)}`]),
        ...(report.added.length === 0 ? [] : [`only in B: ${someNames(report.added)}`]),
      ],
      document,
    });
    return status;
  }

  private worse(status: number): void {
    this.status = worseStatus(this.status, status);
  }

  private async pair(name: string): Promise<void> {
    const { reports, options } = this;
    const [a, b] = this.folders.map((folder) => folder.get(name)!) as [string, string];
    const two = await heldAgainst(a, b, options.vms, name, reports.context);
    const { report, compared, isEqual, problems } = two;
    const status = statusOf(two);
    const verdict = verdictOf(two);
    this.worse(status);
    this.corpus.add({ name, a: report.a, b: report.b }, verdict, report.result);
    if (verdict !== 'equal') {
      const { differences, classes } = report.result;
      const what = problems[0]?.message ?? differencesText(two);
      this.pairs.push({ name, verdict, differences, classes: classes.length, what });
    }
    const object = (): object => ({ trace: name, verdict, ...tracesObject(report, status) });
    if (reports.documents) this.objects.push(object());
    reports.add({
      report: (seconds) => ({ ...tracesCase(report, compared, isEqual, seconds), file: name }),
      object,
      explain: undefined,
    });
    for (const problem of problems) reports.context.problem(problem);
  }

  /** Told of, and does not keep from the others. */
  private unreadable(name: string, problem: Problem): void {
    this.worse(problem.exitStatus);
    this.corpus.addUnreadable();
    this.pairs.push({ name, verdict: 'unreadable', differences: 0, classes: 0, what: problem.message });
    this.objects.push({ trace: name, verdict: 'unreadable', ...problemJson(problem) });
    this.reports.context.problem(problem);
  }

  private report(): FoldersReport {
    const { corpus, pairs, folders, paths } = this;
    const { verdicts, steps, events, marks, differences, beyond } = corpus;
    const only = (which: 0 | 1): string[] =>
      [...folders[which].keys()].filter((name) => !folders[1 - which]!.has(name));
    return {
      a: paths[0],
      b: paths[1],
      verdicts,
      removed: only(0),
      added: only(1),
      pairs,
      steps,
      events,
      marks,
      differences,
      classes: corpus.sorted(),
      beyond,
    };
  }
}
