/** Entries that a walk has read, of which it is asked which one of them, or which one rule, decided. */

export const ENTRY_P = 1 << 0;
export const ENTRY_W = 1 << 1;
export const ENTRY_U = 1 << 2;
export const ENTRY_A = 1 << 5;
export const ENTRY_D = 1 << 6;
export const ENTRY_PS = 1 << 7;

/** A rule of a check, and whether it was broken. */
export type Rule = readonly [name: string, broken: boolean];

/** The one rule that was broken; undefined if there were several. */
export function soleOf(rules: readonly Rule[]): string | undefined {
  const broken = rules.filter(([, is]) => is);
  return broken.length === 1 ? broken[0]![0] : undefined;
}

const FORMATS: Readonly<Record<number, string>> = { 0: 'none', 2: '32-bit', 3: 'pae', 4: '4-level', 5: '5-level' };

export function formatName(rootLevel: number): string {
  return FORMATS[rootLevel] ?? 'none';
}

/** Entries that a walk has read, by level. */
export class Entries {
  readonly lo = new Int32Array(6);
  readonly hi = new Int32Array(6);
  /** Levels read, the root's first. */
  levels: number[] = [];

  clear(): void {
    this.levels = [];
  }

  add(level: number, lo: number, hi: number): void {
    this.lo[level] = lo;
    this.hi[level] = hi;
    this.levels.push(level);
  }

  get last(): number {
    return this.levels[this.levels.length - 1] ?? 0;
  }

  /** Low halves ANDed. */
  get all(): number {
    return this.levels.reduce((all, level) => all & this.lo[level]!, -1);
  }

  get noExecute(): boolean {
    return this.levels.some((level) => this.hi[level]! < 0);
  }

  /** The only level whose entry has not the bit, or 0. */
  withholds(bit: number): number {
    const levels = this.levels.filter((level) => (this.lo[level]! & bit) === 0);
    return levels.length === 1 ? levels[0]! : 0;
  }

  get noExecuteAt(): number {
    const levels = this.levels.filter((level) => this.hi[level]! < 0);
    return levels.length === 1 ? levels[0]! : 0;
  }
}
