/** Steps explained: trees of walks with their rules, and that no rule contradicts a machine that is right. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { expectationsFor } from '../../src/replay/expectations.ts';
import { Explainer } from '../../src/replay/explain.ts';
import { contradictionsIn } from '../../src/replay/explain-walks.ts';
import type { ExplainedWalk, Explanation, WalkNode } from '../../src/replay/explanation.ts';
import type { MachineChoice } from '../../src/replay/machines.ts';
import { explainWords } from '../../src/report/explain-words.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';

const TRACES = fileURLToPath(new URL('../../traces/', import.meta.url));

function explained(trace: string, step: number, machine: MachineChoice = {}): Explanation {
  let explainer: Explainer | undefined;
  for (const item of openTrace(join(TRACES, trace))) {
    if (item.kind === 'header') {
      if (explainer !== undefined) break;
      const words = explainWords(item.header);
      const expectations = expectationsFor(join(TRACES, trace), item.segment);
      explainer = new Explainer(trace, item.header, item.segment, {
        machine,
        expectations,
        steps: new Set([step]),
        words,
      });
    } else if (item.kind === 'steps' && !explainer!.run(item.columns)) break;
  }
  return explainer!.explanation(step)!;
}

function entries(nodes: readonly WalkNode[]): WalkNode[] {
  return nodes.flatMap((node) => [...entries(node.inner), ...(node.kind === 'entry' ? [node] : [])]);
}

function names(nodes: readonly WalkNode[]): string[] {
  return nodes.filter(({ kind }) => kind !== 'register').map(({ name }) => name);
}

describe('a processor', () => {
  test('reads a 2-D walk under EPT entry by entry, and stops where the rule says', () => {
    const { walks, step, machine, divergence, cause } = explained('hand/nested-fault-ept.rwt', 32);
    expect([step.kind, step.mode, machine, divergence, cause]).toEqual([
      'access',
      '4-level under EPT',
      'bare',
      undefined,
      undefined,
    ]);
    const [walk] = walks;
    expect(names(walk!.nodes)).toEqual(['PML4E', 'PDPTE', 'PDE', 'PTE', 'table entry']);
    // Four entries, each after four of EPT, and the table page that A would be written to.
    expect(entries(walk!.nodes)).toHaveLength(4 * 5 + 4);
    const last = walk!.nodes.at(-1)!.inner.at(-1)!;
    expect([last.name, last.stopped, last.rights]).toEqual(['EPT PTE', 'ept-write', 'R-X']);
    expect(last.checks.find(({ outcome }) => outcome === 'fail')?.citation).toContain('SDM vol. 3C 29.3.3.2');
    expect(walk!.result).toContain('EPT violation at 0x4028, qualification 0xab');
  });

  test('the same under NPT', () => {
    const [walk] = explained('hand/nested-fault-npt.rwt', 18).walks;
    expect(names(walk!.nodes)).toEqual(['PML4E', 'PDPTE', 'PDE', 'PTE', 'final address']);
    expect(entries(walk!.nodes)).toHaveLength(4 * 5 + 4);
    expect(walk!.nodes.at(-1)!.inner.at(-1)!.stopped).toBe('write');
  });

  test('names each rule that decides: key, SMAP, reserved bit, canonical address', () => {
    const failing = (trace: string, step: number): string[] => {
      const [walk] = explained(trace, step).walks;
      const all = [...walk!.checks, ...entries(walk!.nodes).flatMap(({ checks }) => checks)];
      return all.filter(({ outcome }) => outcome === 'fail').map(({ name }) => name);
    };
    expect(failing('hand/canonical.rwt', 4)).toEqual(['canonical']);
    expect(failing('hand/pml.rwt', 27)).toEqual(['log']);
  });

  test('says what the TLB had', () => {
    const served = Array.from({ length: 12 }, (_, step) => explained('hand/stale-translations.rwt', step)).filter(
      ({ tlb }) => tlb.length > 0,
    );
    expect(served.length).toBeGreaterThan(0);
    expect(served.every(({ tlb }) => /^0x/.test(tlb[0]!.page) && tlb[0]!.part !== '')).toBe(true);
  });
});

describe.runIf(existsSync(join(TRACES, 'kvmmmu')))('a nested guest of KVM', () => {
  const step = 7782;

  test('has its fault walked by tdpWalk, and SPTEs of guestMmu built', () => {
    const { walks, tables, actions, contexts, divergence } = explained('kvmmmu/nest_ept.rwt', step);
    expect(divergence).toBeUndefined();
    expect(walks.map(({ by }) => by)).toContain('tdpWalk');
    expect(tables.map(({ context, inForce }) => [context, inForce])).toContainEqual(['guestMmu', true]);
    expect(tables[0]!.sptes.some(({ before }) => before !== undefined)).toBe(true);
    expect(contexts.filter(({ used }) => used).map(({ context }) => context)).toEqual(
      expect.arrayContaining(['tdpWalk', 'guestMmu']),
    );
    expect(actions.some(({ text }) => text.startsWith('handles the fault at'))).toBe(true);
    expect(actions.some(({ text }) => text.startsWith('ends it with RET_PF_'))).toBe(true);
  });
});

describe('two-dimensional walks of a guest on KVM', () => {
  test('go through SPTEs of rootMmu, attempt by attempt', () => {
    const { walks, tables } = explained('walklog/32bit-cmpxchg8b.rwt', 100, { machine: 'kvm', tdp: true });
    const attempts = walks.filter(({ by }) => by === 'processor');
    expect(attempts.length).toBeGreaterThanOrEqual(1);
    for (const walk of attempts) {
      const inner = walk.nodes.flatMap((node) => node.inner);
      expect(inner.every(({ context }) => context === 'rootMmu')).toBe(true);
    }
    expect(tables.every(({ context }) => context === 'rootMmu')).toBe(true);
  });
});

/** A set that has every step in it. */
const EVERY_STEP = new (class extends Set<number> {
  override has(): boolean {
    return true;
  }
})();

interface Scan {
  readonly walks: number;
  readonly contradictions: readonly string[];
  /** Faults of which no check says why. */
  readonly unexplained: readonly string[];
}

function stops(nodes: readonly WalkNode[]): boolean {
  return nodes.some((node) => node.stopped !== undefined || stops(node.inner));
}

function scan(trace: string, machine: MachineChoice): Scan {
  const contradictions: string[] = [];
  const unexplained: string[] = [];
  let walks = 0;
  const judge = (walk: ExplainedWalk, step: number): void => {
    walks++;
    if (walk.outcome === 'fault' && !stops(walk.nodes) && walk.checks.every(({ outcome }) => outcome !== 'fail')) {
      unexplained.push(`step ${step}: ${walk.result}`);
    }
  };
  let explainer: Explainer | undefined;
  for (const item of openTrace(join(TRACES, trace))) {
    if (item.kind === 'header') {
      const words = explainWords(item.header);
      const expectations = expectationsFor(join(TRACES, trace), item.segment);
      const last = Number.MAX_SAFE_INTEGER;
      explainer = new Explainer(trace, item.header, item.segment, {
        machine,
        expectations,
        steps: EVERY_STEP,
        last,
        words,
      });
    } else if (item.kind === 'steps') {
      explainer!.run(item.columns);
      for (const [step, captured] of explainer!.captured) {
        contradictions.push(...contradictionsIn(captured.walks).map((each) => `step ${step}: ${each}`));
        for (const walk of captured.walks) judge(walk, step);
      }
      explainer!.captured.clear();
    }
  }
  return { walks, contradictions, unexplained };
}

const ON: MachineChoice = { machine: 'kvm', tdp: true };
const OFF: MachineChoice = { machine: 'kvm', tdp: false };
const NEW: MachineChoice = { machine: 'kvm', tdp: true, profile: '7.3' };

/** Every check that an explanation makes is a second opinion: where machines are right it must say the same. */
describe('no rule contradicts a clean machine, and every fault has a rule that failed', () => {
  const cases: readonly (readonly [trace: string, machine: MachineChoice, walks: number])[] = [
    ['hand/ept-rights.rwt', {}, 8],
    ['hand/protection-keys.rwt', {}, 6],
    ['hand/pse-36.rwt', {}, 5],
    ['hand/pae-pdptes.rwt', {}, 7],
    ['walklog/cet.rwt', {}, 100],
    ['walklog/pcid.rwt', OFF, 100],
    ['walklog/la57.rwt', OFF, 100],
    ['walklog/svm-npt.rwt', ON, 9000],
    ['walklog/32bit-taskswitch2.rwt', NEW, 100],
    ['kvmmmu/ept0_pse.rwt', {}, 2000],
    ['kvmmmu/c_nest_np0.rwt', {}, 1000],
    ['kvmmmu/nest_ept_noad.rwt', {}, 5000],
  ];
  test.each(cases.filter(([trace]) => existsSync(join(TRACES, trace))))('%s on %o', (trace, machine, least) => {
    const { walks, contradictions, unexplained } = scan(trace, machine);
    expect([contradictions, unexplained]).toEqual([[], []]);
    expect(walks).toBeGreaterThanOrEqual(least);
  });
});
