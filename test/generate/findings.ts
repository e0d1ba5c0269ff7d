/** Runs programs on all machines and keeps what fails: shrunk, as text, with what it takes to make it again. */

import { join } from 'node:path';
import { compareOn, type Finding, Tally, VARIANTS, type Variant } from '../../src/generate/differential.ts';
import { generateProgram, type ProgramOptions } from '../../src/generate/generate.ts';
import { PAGINGS, type Paging } from '../../src/generate/program.ts';
import { shrink } from '../../src/generate/shrink.ts';
import { writeProgram } from '../../src/generate/write-programs.ts';
import { TraceOutput } from '../../src/trace/text/either-form.ts';

/** Failing programs that are shrunk; further ones are counted. */
const MAXIMUM_SHRUNK = 10;

export class Findings {
  readonly tallies = new Map<string, Tally>();
  /** A sentence for each finding of a new shape. */
  readonly sentences: string[] = [];
  private readonly shapes = new Map<string, number>();
  private readonly folder: string | undefined;

  /** `folder`: where minimal programs go, if anywhere. */
  constructor(folder?: string) {
    this.folder = folder;
  }

  /** Number `index` under the seed, for all pagings and machines. Returns how many programs that was. */
  run(seed: number, index: number): number {
    for (const paging of PAGINGS) this.runPaging({ seed, index, paging });
    return PAGINGS.length;
  }

  private runPaging(options: ProgramOptions): void {
    const program = generateProgram(options);
    for (const variant of VARIANTS) {
      const finding = compareOn(program, variant, this.tally(options.paging, variant));
      if (finding === undefined) continue;
      const key = `${variant}: ${finding.shape}`;
      const seen = this.shapes.get(key) ?? 0;
      this.shapes.set(key, seen + 1);
      if (seen > 0) continue;
      const where = `seed ${options.seed}, number ${options.index}, ${options.paging}, ${variant}`;
      this.sentences.push(`${where}, step ${finding.step}: ${finding.text}`);
      if (this.shapes.size <= MAXIMUM_SHRUNK) this.keep(where, program, variant, finding);
    }
  }

  private keep(where: string, program: ReturnType<typeof generateProgram>, variant: Variant, found: Finding): void {
    if (this.folder === undefined) return;
    const { program: small, finding } = shrink(program, variant, found);
    const path = join(this.folder, `${where.replaceAll(/[ ,]+/g, '-')}.jsonl`);
    const output = new TraceOutput(path);
    writeProgram(output, small, [where, `step ${finding.step + 2}: ${finding.text}`]);
    output.finish();
    this.sentences.push(`  shrunk: ${path}`);
  }

  private tally(paging: Paging, variant: Variant): Tally {
    const key = `${paging} ${variant}`;
    let tally = this.tallies.get(key);
    if (tally === undefined) {
      tally = new Tally();
      this.tallies.set(key, tally);
    }
    return tally;
  }

  /** One line for each paging and machine. */
  summary(): string {
    return [...this.tallies]
      .map(([key, { programs, accesses, equal, translated, legal, undetermined, notModelled }]) => {
        const named = [...legal].map(([name, count]) => `${name} ${count}`).join(', ');
        const parts = [
          `${programs} programs`,
          `${accesses} accesses`,
          `${translated} translated`,
          `${equal} equal`,
          named,
        ];
        return `${key}: ${parts.join(', ')}, undetermined ${undetermined}, not modelled ${notModelled}`;
      })
      .join('\n');
  }
}
