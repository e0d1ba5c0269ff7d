/** Runs programs on all machines and keeps what fails: shrunk, as text, with what it takes to make it again. */

import { join } from 'node:path';
import type { KvmProfile } from '../../src/formats/decode/kvm-role.ts';
import {
  compareOn,
  type Finding,
  type Host,
  hostName,
  offers,
  Tally,
  VARIANTS,
} from '../../src/generate/differential.ts';
import { generateProgram, type ProgramOptions } from '../../src/generate/generate.ts';
import { NESTINGS, PAGINGS, type Program } from '../../src/generate/program.ts';
import { shrink } from '../../src/generate/shrink.ts';
import { withoutIdleSets } from '../../src/generate/trim.ts';
import { writeProgram } from '../../src/generate/write-programs.ts';
import { WIRING_NAMES } from '../../src/mmu/wiring.ts';
import { TraceOutput } from '../../src/trace/text/either-form.ts';

/** Failing programs that are shrunk; further ones are counted. */
const MAXIMUM_SHRUNK = 10;
const PROFILES: readonly KvmProfile[] = ['6.1', '7.3'];

/** Kinds of program, in the order in which numbers go through them. */
export const KINDS = NESTINGS.flatMap((nested) =>
  ([1, 2] as const).map((vcpus) => ({ nested, vcpus, name: `${nested}${vcpus === 1 ? '' : ' 2 vCPUs'}` })),
);
export type Kind = (typeof KINDS)[number];

/**
 * The hosts that program `index` of the kind runs on: all tables; profile and wiring by turns, so that each of their
 * combinations gets its share. Un-nested, a host is what the program's header says, for all the wiring there is.
 */
export function hostsOf({ nested, vcpus }: Kind, index: number): Host[] {
  if (nested === 'no' && vcpus === 1) return VARIANTS.map((variant) => ({ variant }));
  const profile = PROFILES[index % 2]!;
  return VARIANTS.map((variant, i) => ({ variant, profile, wiring: WIRING_NAMES[((index >> 1) + i) % 3]! }));
}

/** Every host. */
export function allHosts(): Host[] {
  return VARIANTS.flatMap((variant) =>
    PROFILES.flatMap((profile) => WIRING_NAMES.map((wiring) => ({ variant, profile, wiring }))),
  );
}

export class Findings {
  readonly tallies = new Map<string, Tally>();
  /** A sentence for each finding of a new shape. */
  readonly sentences: string[] = [];
  /** Findings by kind of program, tables and shape. */
  readonly shapes = new Map<string, number>();
  private readonly folder: string | undefined;

  /** `folder`: where minimal programs go, if anywhere. */
  constructor(folder?: string) {
    this.folder = folder;
  }

  /** Number `index` under the seed, of one kind, for all pagings and tables. Returns how many programs that was. */
  run(seed: number, index: number, kind: Kind = KINDS[0]!, hosts: readonly Host[] = hostsOf(kind, index)): number {
    const { nested, vcpus } = kind;
    for (const paging of PAGINGS) this.runPaging({ seed, index, paging, nested, vcpus }, kind, hosts);
    return PAGINGS.length;
  }

  private runPaging(options: ProgramOptions, kind: Kind, hosts: readonly Host[]): void {
    const program = generateProgram(options);
    for (const host of hosts) {
      if (!offers(host, program)) continue;
      const finding = compareOn(program, host, this.tally(`${kind.name}: ${options.paging} ${host.variant}`));
      if (finding === undefined) continue;
      const key = `${kind.name}: ${host.variant}: ${finding.shape}`;
      const seen = this.shapes.get(key) ?? 0;
      this.shapes.set(key, seen + 1);
      if (seen > 0) continue;
      const made = `seed ${options.seed}, number ${options.index}, ${options.paging}, nested ${kind.name}`;
      const where = `${made}, ${hostName(host)}`;
      this.sentences.push(`${where}, step ${finding.step}: ${finding.text}`);
      if (this.shapes.size <= MAXIMUM_SHRUNK) this.keep(where, program, host, finding);
    }
  }

  private keep(where: string, program: Program, host: Host, found: Finding): void {
    if (this.folder === undefined) return;
    const shrunk = shrink(program, host, found);
    // Without what changes nothing for a bare processor, unless it is that.
    const trimmed = withoutIdleSets(shrunk.program);
    const still = compareOn(trimmed, host);
    const same = still?.shape === found.shape;
    const [small, finding] = same ? [trimmed, still] : [shrunk.program, shrunk.finding];
    const path = join(this.folder, `${where.replaceAll(/[ ,]+/g, '-')}.jsonl`);
    const output = new TraceOutput(path);
    writeProgram(output, small, [where, `step ${finding.step + 2}: ${finding.text}`]);
    output.finish();
    this.sentences.push(`  shrunk: ${path}`);
  }

  private tally(key: string): Tally {
    let tally = this.tallies.get(key);
    if (tally === undefined) {
      tally = new Tally();
      this.tallies.set(key, tally);
    }
    return tally;
  }

  /** One line for each kind of program, paging and machine; then how often each shape of finding was met. */
  summary(): string {
    const lines = [...this.tallies].map(
      ([key, { programs, accesses, equal, translated, exits, legal, undetermined, notModelled }]) => {
        const named = [...legal].map(([name, count]) => `${name} ${count}`).join(', ');
        const parts = [
          `${programs} programs`,
          `${accesses} accesses`,
          `${translated} translated`,
          `${exits} exits to L1`,
          `${equal} equal`,
          ...(named === '' ? [] : [named]),
        ];
        return `${key}: ${parts.join(', ')}, undetermined ${undetermined}, not modelled ${notModelled}`;
      },
    );
    const shapes = [...this.shapes].map(([shape, count]) => `${count} × ${shape}`);
    return [...lines, ...shapes].join('\n');
  }
}
