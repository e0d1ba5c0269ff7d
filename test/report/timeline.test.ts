import { expect, test } from 'vitest';
import { INJ_VECTOR_SHIFT, KVM_EVENT_SHIFT, KvmEvent } from '../../src/formats/kvm-event.ts';
import { Dim, elementRow, OBS_VECTOR_SHIFT, Obs } from '../../src/formats/observation.ts';
import { REGISTER_COUNT, Reg } from '../../src/formats/registers.ts';
import { NESTED_TLB_CONTROL_SHIFT, STEP_REGISTER_SHIFT, StepKind } from '../../src/formats/step.ts';
import { TimelineBuilder } from '../../src/report/timeline.ts';
import { StepBuilder, type StepColumns } from '../../src/trace/columns.ts';

function taken(builder: StepBuilder, firstOrdinal = 0): StepColumns {
  return { ...builder.take(new Uint32Array(2 * REGISTER_COUNT)), firstOrdinal };
}

test('faults, walks and flushes at their steps', () => {
  const builder = new StepBuilder();
  const event = (id: number, flags = 0): number => Obs.KVM_EVENT | (id << KVM_EVENT_SHIFT) | flags;
  builder.step(StepKind.ACCESS, 0, 0, 0, 0);
  builder.observe(elementRow(Dim.GUEST, 2, false), 0, 0, 0, 0);
  builder.observe(elementRow(Dim.GUEST, 1, false), 0, 0, 0, 0);
  builder.observe(Obs.EXCEPTION | (14 << OBS_VECTOR_SHIFT), 0, 0, 0, 0);
  builder.step(StepKind.ACCESS, 0, 0, 0, 0);
  builder.observe(Obs.EXCEPTION | (13 << OBS_VECTOR_SHIFT), 0, 0, 0, 0);
  builder.step(StepKind.FAULT_EXIT, 0, 0, 0, 0);
  builder.observe(event(KvmEvent.PAGETABLE_WALK), 0, 0, 0, 0);
  builder.observe(event(KvmEvent.PAGETABLE_WALK), 0, 0, 0, 0);
  builder.observe(event(KvmEvent.INJ_EXCEPTION, 14 << INJ_VECTOR_SHIFT), 0, 0, 0, 0);
  builder.step(StepKind.INVALIDATE, 0, 0, 0, 0);
  builder.step(StepKind.REGISTER_WRITE | (Reg.CR3 << STEP_REGISTER_SHIFT), 0, 0, 0x1000, 0);
  builder.step(StepKind.REGISTER_WRITE | (Reg.CR3 << STEP_REGISTER_SHIFT), 0, 0, 0x1000, 0x8000_0000);
  builder.step(StepKind.REGISTER_WRITE | (Reg.CR4 << STEP_REGISTER_SHIFT), 0, 0, 0x20, 0);
  builder.step(StepKind.NESTED_ENTRY | (1 << NESTED_TLB_CONTROL_SHIFT), 0, 0, 0, 0);
  const timeline = new TimelineBuilder();
  timeline.add(taken(builder));
  expect(timeline.result()).toEqual({
    steps: 8,
    width: 1,
    faults: [1, 0, 2, 0, 0, 0, 0, 0],
    walks: [1, 0, 2, 0, 0, 0, 0, 0],
    flushes: [0, 0, 0, 1, 1, 0, 0, 1],
  });
});

test('spans widen as the trace grows, and nothing is lost', () => {
  const timeline = new TimelineBuilder();
  for (let chunk = 0; chunk < 50; chunk++) {
    const builder = new StepBuilder();
    for (let i = 0; i < 1000; i++) builder.step(i % 10 === 0 ? StepKind.INVALIDATE : StepKind.STORE, 0, 0, 0, 0);
    timeline.add(taken(builder, 1000 * chunk));
  }
  const { steps, width, flushes } = timeline.result();
  expect(steps).toBe(50_000);
  expect(width).toBe(256);
  expect(flushes).toHaveLength(196);
  expect(flushes.reduce((sum, count) => sum + count, 0)).toBe(5000);
});

test('of nothing there is none', () => {
  expect(new TimelineBuilder().result()).toMatchObject({ steps: 0, faults: [] });
});
