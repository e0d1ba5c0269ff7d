/** What the hypervisor's user space and the host do while a random program runs. The guest must not notice. */

import { HOST_LEVEL_SHIFT, HOST_PAGE_SHIFT, HostPage, StepKind } from '../formats/step.ts';
import type { Memslot } from '../trace/stimulus.ts';
import type { Guest } from './guest.ts';
import { type ProgramStep, rareStep, step } from './program.ts';
import type { Random } from './random.ts';
import { addressOf, creation, type SceneSlot } from './scene.ts';

function change(slot: SceneSlot, what: Memslot['what'], other: Partial<Memslot> = {}): ProgramStep {
  return rareStep({ ...creation(slot), what, ...other });
}

/** A run of frames in a slot: one page, a few, or all. */
function range(
  random: Random,
  { frame, pages }: SceneSlot,
  frames: readonly number[],
): { first: number; count: number } {
  if (random.chance(0.2)) return { first: frame, count: pages };
  const inside = frames.filter((each) => each >= frame && each < frame + pages);
  const first = inside.length === 0 ? frame : random.pick(inside);
  return { first, count: Math.min(random.pick([1, 1, 4]), frame + pages - first) };
}

/**
 * A slot that goes comes back in the same unit, so that tables always are in memory that both machines have; slot 1,
 * which holds none, also moves away and back.
 */
export function hostMove(random: Random, { scene }: Guest): ProgramStep[] {
  const slot = random.pick(scene.slots);
  const frames = [...scene.dataFrames, ...scene.tables.map(({ frame }) => frame), ...scene.otherFrames];
  const { first, count } = range(random, slot, frames);
  const host = slot.userspacePage - slot.frame;
  const notifier = (what: 'unmap' | 'set-pte' | 'age' | 'test-age'): ProgramStep =>
    rareStep({ kind: 'notifier', what, start: addressOf(host + first), end: addressOf(host + first + count) });
  return random.weighted<() => ProgramStep[]>([
    [6, () => [change(slot, 'flags', { dirtyLog: random.chance(0.6) })]],
    [5, () => [rareStep({ kind: 'dirty-log', slot: slot.slot })]],
    [4, () => [change(slot, 'delete', { address: addressOf(0), size: addressOf(0) }), rareStep(creation(slot))]],
    [
      2,
      () => {
        const away = { ...slot, frame: slot.frame + 0x1_0000 };
        return [change(away, 'move'), change(slot, 'move')];
      },
    ],
    [7, () => [notifier('unmap')]],
    [2, () => [notifier('set-pte')]],
    [5, () => [notifier('age')]],
    [1, () => [notifier('test-age')]],
    [2, () => [rareStep({ kind: 'hypervisor', what: 'zap-all' })]],
    [4, () => residency(random, scene.slots[random.below(2)]!)],
  ])();
}

/** The host maps 2 MiB of a slot by one large page, or again by small ones: it takes away what was there first. */
function residency(random: Random, slot: SceneSlot): ProgramStep[] {
  const block = 0x200 * random.below(slot.pages / 0x200);
  const level = random.chance(0.7) ? 2 : 1;
  const op = StepKind.HOST_PAGES | (HostPage.WRITABLE << HOST_PAGE_SHIFT) | (level << HOST_LEVEL_SHIFT);
  const page = slot.userspacePage + block;
  return [
    rareStep({ kind: 'notifier', what: 'unmap', start: addressOf(page), end: addressOf(page + 0x200) }),
    step(op, addressOf(slot.frame + block), { lo: 0x200, hi: 0 }),
  ];
}
