/**
 * Expectations: differences that are known, named and counted. A file `expectations.json` beside the traces says which
 * fault of which recorder shows where; it fails when it no longer applies, in either direction.
 */

import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { Problem } from '../bits/problem.ts';
import type { ExpectationOutcome, MachineFacts } from './result.ts';

/** Under which machine an expectation holds: every part that is given must be so. */
export interface ExpectationCondition {
  readonly machine?: 'bare' | 'kvm';
  /** Kernel generation of the emulated KVM. */
  readonly profile?: string;
  readonly wiring?: string;
  readonly tdp?: boolean;
  readonly tdpMmu?: boolean;
  /** One of the historical bugs that were put in. */
  readonly mutant?: string;
}

export interface Expectation {
  /** Stable kebab-case name of the fault. */
  readonly fault: string;
  /** Why the recording, not the machine, is wrong, with its source. */
  readonly reason: string;
  /** The group (`cause.ts`) that the differing steps fall into. */
  readonly group: string;
  /** How many steps differ so. */
  readonly count: number;
  /** Their ordinals, where they are few enough to be listed. */
  readonly steps?: readonly number[];
  /** Of which segment of the trace file; 0 if left out. */
  readonly segment?: number;
  /** Where it holds, if not under every machine; elsewhere it is as if it were not there. */
  readonly when?: ExpectationCondition;
}

export const EXPECTATIONS_FILE = 'expectations.json';

const FIELDS = ['fault', 'reason', 'group', 'count', 'steps', 'segment', 'when'];
const TEXT_CONDITIONS = ['machine', 'profile', 'wiring', 'mutant'];
const SWITCH_CONDITIONS = ['tdp', 'tdpMmu'];

function checkedCondition(value: unknown, fail: (what: string) => never): ExpectationCondition {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return fail('has a "when" that is no object');
  const entries = Object.entries(value);
  if (entries.length === 0) return fail('has an empty "when"');
  for (const [key, asked] of entries) {
    if (TEXT_CONDITIONS.includes(key) ? typeof asked === 'string' && asked !== '' : typeof asked === 'boolean') {
      if (TEXT_CONDITIONS.includes(key) || SWITCH_CONDITIONS.includes(key)) continue;
    }
    if (![...TEXT_CONDITIONS, ...SWITCH_CONDITIONS].includes(key)) fail(`has an unknown condition "${key}" in "when"`);
    fail(`has a "when" whose "${key}" is no ${TEXT_CONDITIONS.includes(key) ? 'text' : 'true or false'}`);
  }
  return value;
}

/** Whether a condition holds for a machine. */
export function holdsFor(condition: ExpectationCondition | undefined, facts: MachineFacts): boolean {
  if (condition === undefined) return true;
  const { machine, profile, wiring, tdp, tdpMmu, mutant } = condition;
  return (
    (machine === undefined || machine === facts.name) &&
    (profile === undefined || profile === facts.config?.profile) &&
    (wiring === undefined || wiring === facts.wiring) &&
    (tdp === undefined || tdp === facts.config?.tdp) &&
    (tdpMmu === undefined || tdpMmu === facts.config?.tdpMmu) &&
    (mutant === undefined || facts.mutants.includes(mutant))
  );
}

function checked(value: unknown, trace: string, index: number, file: string): Expectation {
  const fail = (what: string): never => {
    throw new Problem('E_EXPECTATIONS', `entry ${index} of "${trace}" ${what}`, { file });
  };
  if (typeof value !== 'object' || value === null) return fail('is no object');
  const entry = value as Record<string, unknown>;
  for (const key of Object.keys(entry)) {
    if (!FIELDS.includes(key)) fail(`has an unknown field "${key}"`);
  }
  const text = (key: string): string => {
    const field = entry[key];
    return typeof field === 'string' && field !== '' ? field : fail(`has no text "${key}"`);
  };
  const isCount = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0;
  const { count, steps, segment, when } = entry;
  if (!isCount(count) || count === 0) return fail('has no positive "count"');
  if (segment !== undefined && !isCount(segment)) return fail('has a "segment" that is no number from 0');
  const where = {
    ...(segment === undefined ? {} : { segment }),
    ...(when === undefined ? {} : { when: checkedCondition(when, fail) }),
  };
  const result = { ...where, fault: text('fault'), reason: text('reason'), group: text('group'), count };
  if (steps === undefined) return result;
  if (!Array.isArray(steps) || !steps.every(isCount)) return fail('has "steps" that is no list of ordinals');
  return { ...result, steps };
}

/** The name that a trace has in the file beside it: both forms share one. */
export function expectationsName(path: string): string {
  return basename(path).replace(/\.jsonl$/, '.rwt');
}

/**
 * The expectations for a segment of the trace at `path`, those that hold for the machine if one is given; none if there
 * is no file. Throws E_EXPECTATIONS.
 */
export function expectationsFor(path: string, segment = 0, facts?: MachineFacts): Expectation[] {
  const file = join(dirname(path), EXPECTATIONS_FILE);
  if (path === '-') return [];
  const name = expectationsName(path);
  const list = readExpectations(file)[name];
  if (list === undefined) return [];
  return checkedExpectations(list, name, file).filter(
    (each) => (each.segment ?? 0) === segment && (facts === undefined || holdsFor(each.when, facts)),
  );
}

/** A trace's entry in the file. Throws E_EXPECTATIONS. */
export function checkedExpectations(list: unknown, name: string, file: string): Expectation[] {
  if (!Array.isArray(list)) throw new Problem('E_EXPECTATIONS', `"${name}" is no list`, { file });
  return list.map((entry, index) => checked(entry, name, index, file));
}

/** The file's content by trace, entries not yet checked; nothing if there is no file. Throws E_EXPECTATIONS. */
export function readExpectations(file: string): Record<string, unknown> {
  if (!existsSync(file)) return {};
  let parsed: unknown;
  try {
    parsed = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new Problem('E_EXPECTATIONS', `the file is not valid JSON: ${(error as Error).message}`, { file });
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new Problem('E_EXPECTATIONS', 'the file is no object of trace names', { file });
  }
  return parsed as Record<string, unknown>;
}

/** Matches divergences against expectations and tells at the end which did not hold. */
export class ExpectationBook {
  private readonly expectations: readonly Expectation[];
  private readonly met: number[];

  constructor(expectations: readonly Expectation[]) {
    this.expectations = expectations;
    this.met = expectations.map(() => 0);
  }

  /** The expectation that covers a divergence, if any; it counts as met once more. */
  take(group: string, step: number): Expectation | undefined {
    const index = this.expectations.findIndex(
      (each) => each.group === group && (each.steps === undefined || each.steps.includes(step)),
    );
    if (index < 0) return undefined;
    this.met[index]!++;
    return this.expectations[index];
  }

  /** Steps met so far, by fault. */
  counts(): Record<string, number> {
    const counts: Record<string, number> = {};
    this.expectations.forEach((each, i) => {
      if (this.met[i]! > 0) counts[each.fault] = (counts[each.fault] ?? 0) + this.met[i]!;
    });
    return counts;
  }

  /** Every expectation and how often it was met. */
  outcomes(): ExpectationOutcome[] {
    return this.expectations.map(({ fault, group, count }, i) => ({
      fault,
      group,
      expected: count,
      met: this.met[i]!,
    }));
  }

  /** Sentences about expectations that did not come true exactly. */
  broken(): string[] {
    return this.expectations.flatMap((each, i) => {
      const met = this.met[i]!;
      if (met === each.count) return [];
      return [`"${each.fault}" is expected in ${each.count} steps (${each.group}) but was met in ${met}`];
    });
  }
}
