import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type StepList, StepListBuilder } from '../../src/compare/minimise-steps.ts';
import { SLICE_WIDTHS, slice, touchedPlaces } from '../../src/compare/slice.ts';
import { STEP_KIND_MASK, StepKind } from '../../src/formats/step.ts';
import { machineFor } from '../../src/replay/machines.ts';
import { openTrace } from '../../src/trace/text/either-form.ts';
import { TRACES } from './minimised.ts';

function listOf(trace: string, to: number): StepList {
  let builder: StepListBuilder | undefined;
  for (const item of openTrace(join(TRACES, trace))) {
    if (item.kind === 'header') builder = new StepListBuilder(item.header, machineFor(item.header, {}).machine);
    else if (item.kind === 'steps') builder!.add(item.columns, to);
  }
  return builder!.take();
}

function sliced(list: StepList, width: (typeof SLICE_WIDTHS)[number]): StepList {
  return slice(list, touchedPlaces(list, machineFor(list.header, {}).machine), width);
}

function ordinals({ steps }: StepList): number[] {
  return steps.map(({ ordinal }) => ordinal);
}

describe('what an access depends on', () => {
  // Steps 1 to 4: tables; 5 to 9: a read, another page's entry and a read of that page ...
  const trace = 'mutants/m43-tdp-pcid-not-flushed.rwt';

  test.each(SLICE_WIDTHS)('%s: the last step, its tables and the registers stay', (width) => {
    const list = listOf(trace, 7);
    const kept = new Set(ordinals(sliced(list, width)));
    expect(kept.has(6)).toBe(true);
    const kinds = list.steps.filter(({ ordinal }) => kept.has(ordinal)).map(({ op }) => op & STEP_KIND_MASK);
    expect(kinds).toContain(StepKind.STORE);
    expect(kinds).toContain(StepKind.ACCESS);
  });
});

test('near is within far, and both keep the order', () => {
  for (const trace of ['mutants/m01-inherited-permissions.rwt', 'mutants/m38-guest-mode-not-in-role.rwt']) {
    const list = listOf(trace, 13);
    const [near, far] = SLICE_WIDTHS.map((width) => ordinals(sliced(list, width)));
    expect(far).toEqual(expect.arrayContaining(near!));
    for (const kept of [near!, far!]) expect(kept).toEqual([...kept].sort((a, b) => a - b));
  }
});

test('of transitions those that lead to the last step, an exit between two entries', () => {
  const trace = 'mutants/m29-transition-keeps-previous-roots.rwt';
  const list = listOf(trace, Number.POSITIVE_INFINITY);
  const transitions = sliced(list, 'near')
    .steps.map(({ op }) => op & STEP_KIND_MASK)
    .filter((kind) => kind === StepKind.NESTED_ENTRY || kind === StepKind.NESTED_EXIT);
  for (let i = 1; i < transitions.length; i++) expect(transitions[i]).not.toBe(transitions[i - 1]);
});
