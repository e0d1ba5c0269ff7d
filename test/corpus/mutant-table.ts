/** The table of traces/mutants/README.md: each bug's trace, the machine that shows it, and the step that diverges first. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const MUTANT_TRACES = fileURLToPath(new URL('../../traces/mutants/', import.meta.url));

export interface MutantRow {
  readonly name: string;
  readonly trace: string;
  /** For `replay` and `explain`: empty for a recording of KVM's own; without the bug. */
  readonly options: readonly string[];
  /** For `--mutant`: `m01,m06`. */
  readonly mutants: string;
  readonly step: number;
}

export const MUTANT_ROWS: readonly MutantRow[] = readFileSync(join(MUTANT_TRACES, 'README.md'), 'utf8')
  .split('\n')
  .map((line) => /^\| `(m[^`]+)` \| (?:`(--[^`]+)`)? *\| (\d+) \|/.exec(line))
  .filter((found) => found !== null)
  .map(([, name = '', options, step]) => ({
    name,
    trace: join(MUTANT_TRACES, `${name}.rwt`),
    options: options === undefined ? [] : options.split(' '),
    mutants: [...name.matchAll(/(m\d\db?)-/g)].map(([, row]) => row).join(','),
    step: Number(step),
  }));
