import { describe, expect, test } from 'vitest';
import {
  Dim,
  elementRow,
  entryWriteRow,
  OBS_NESTED_OF_TABLE,
  OBS_PAGE_SHIFT_SHIFT,
  OBS_VECTOR_SHIFT,
  Obs,
} from '../../src/formats/observation.ts';
import type { Row } from '../../src/replay/result.ts';
import { markDifferences, walkGrid } from '../../src/report/html/walk-grid.ts';
import { walksOfRows } from '../../src/report/walk-of-rows.ts';

const row = (op: number, addressLo = 0, valueLo = 0): Row => ({ op, addressLo, addressHi: 0, valueLo, valueHi: 0 });
const walks = (rows: readonly Row[], mode = '4-level under EPT') =>
  walksOfRows(rows, { row: {}, address: 'read', access: '', mode, title: 'recorded' });

const FAULT = Obs.EXCEPTION | (14 << OBS_VECTOR_SHIFT);
const TRANSLATED = Obs.TRANSLATED | (12 << OBS_PAGE_SHIFT_SHIFT);

function second(gpa: number, isTable: boolean, levels: readonly number[]): Row[] {
  return [
    row(Obs.NESTED_WALK | (isTable ? OBS_NESTED_OF_TABLE : 0), gpa),
    ...levels.map((level) => row(elementRow(Dim.EPT, level, false), gpa + 8 * level, 7)),
  ];
}

/** A whole walk through tables of so many levels on both sides. */
function whole(guest: number, ept: number): Row[] {
  const levels = (top: number): number[] => Array.from({ length: top }, (_, i) => top - i);
  return [
    ...levels(guest).flatMap((level) => [
      ...second(0x1000 * level, true, levels(ept)),
      row(elementRow(Dim.GUEST, level, false), 0x1000 * level, 7),
    ]),
    ...second(0x9000, false, levels(ept)),
    row(TRANSLATED, 0x9000, 0x9000),
  ];
}

describe('the grid of a walk', () => {
  test('five levels by five are 35 reads', () => {
    const [walk] = walks(whole(5, 5), '5-level under EPT');
    const grid = walkGrid(walk!)!;
    expect(grid.reads).toBe(35);
    expect(grid.levels).toEqual([5, 4, 3, 2, 1]);
    expect(grid.rows.map(({ name }) => name)).toEqual(['PML5E', 'PML4E', 'PDPTE', 'PDE', 'PTE', 'address']);
    const cells = grid.rows.flatMap(({ second, guest }) => [...second, guest]);
    expect(cells.filter(({ state }) => state !== 'passed')).toEqual([]);
    expect(cells.map(({ order }) => order).filter((order) => order > 0)).toEqual(
      Array.from({ length: 35 }, (_, i) => i + 1),
    );
  });

  test('one dimension is a column', () => {
    const rows = [4, 3, 2].map((level) => row(elementRow(Dim.GUEST, level, false), 0x1000 * level + 0x10, 7));
    const [walk] = walks([...rows, row(TRANSLATED, 0x20_0000)], '4-level');
    const grid = walkGrid(walk!)!;
    expect(grid.levels).toEqual([]);
    // A large page: there is no PTE.
    expect(grid.rows.map(({ name, guest }) => [name, guest.index])).toEqual([
      ['PML4E', 2],
      ['PDPTE', 2],
      ['PDE', 2],
    ]);
  });

  test('a fault of the guest’s own tables stops there, and what is below was not reached', () => {
    const rows = [4, 3].map((level) => row(elementRow(Dim.GUEST, level, false), 0x1000 * level, 7));
    const [walk] = walks([...rows, row(FAULT, 0, 0)], '4-level');
    expect(walkGrid(walk!)!.rows.map(({ guest }) => guest.state)).toEqual([
      'passed',
      'stopped',
      'not-reached',
      'not-reached',
    ]);
  });

  test('a fault of the second stage for a table stops in its row', () => {
    const rows = [
      ...second(0x4000, true, [4, 3, 2, 1]),
      row(elementRow(Dim.GUEST, 4, false), 0x4000, 7),
      ...second(0x3000, true, [4, 3]),
      row(Obs.EPT_VIOLATION, 0x3000, 0x181),
    ];
    const [walk] = walks(rows);
    const grid = walkGrid(walk!)!;
    expect(grid.rows.map(({ name }) => name)).toEqual(['PML4E', 'PDPTE', 'PDE', 'PTE', 'address']);
    const states = grid.rows[1]!.second.map(({ state }) => state);
    expect(states).toEqual(['passed', 'stopped', 'not-reached', 'not-reached']);
    expect(grid.rows.slice(1).map(({ guest }) => guest.state)).toEqual(Array(4).fill('not-reached'));
    expect(grid.rows[4]!.second.map(({ state }) => state)).toEqual(Array(4).fill('not-reached'));
    expect(grid.stopped?.stopped).toContain('EPT violation');
  });

  test('without tables of the guest’s own there is the final address alone', () => {
    const [walk] = walks([...second(0x9000, false, [4, 3, 2]), row(TRANSLATED, 0x9000, 0x9000)]);
    const grid = walkGrid(walk!)!;
    expect(grid.rows.map(({ name }) => name)).toEqual(['address']);
    expect(grid.reads).toBe(3);
  });

  test('A and D written back; what differs from the other side', () => {
    const rows = [4, 3, 2, 1].map((level) => row(elementRow(Dim.GUEST, level, false), 0x1000 * level, 7));
    const other = rows.map((each, i) => (i === 2 ? { ...each, valueLo: 5 } : each));
    const end = [row(entryWriteRow(Dim.GUEST, 1, false), 0x1000, 0x27), row(TRANSLATED)];
    const [a, b] = [rows, other].map((each) => walkGrid(walks([...each, ...end], '4-level')[0]!)!);
    markDifferences(a!, b!);
    expect(a!.rows.map(({ guest }) => guest.differs)).toEqual([false, false, true, false]);
    expect(b!.rows.map(({ guest }) => guest.differs)).toEqual([false, false, true, false]);
    expect(a!.rows.map(({ guest }) => guest.written)).toEqual([false, false, false, true]);
  });

  test('an entry translated once more to be written back has a row of its own, and may stop there', () => {
    const read = [...second(0x2000, true, [2, 1]), row(elementRow(Dim.GUEST, 2, false), 0x2000, 0x87)];
    const again = second(0x2000, true, [2, 1]);
    const end = [...second(0x9000, false, [2, 1]), row(TRANSLATED, 0x9000, 0x9000)];
    const through = walkGrid(walks([...read, ...again, ...end], '32-bit under EPT')[0]!)!;
    expect(through.rows.map(({ name }) => name)).toEqual(['PDE', 'PDE, written back', 'address']);
    expect(through.reads).toBe(7);
    const stopped = walkGrid(
      walks([...read, ...again, row(Obs.EPT_VIOLATION, 0x2000, 0x182)], '32-bit under EPT')[0]!,
    )!;
    const states = stopped.rows.map((each) => [...each.second, each.guest].map(({ state }) => state).join(' '));
    expect(states).toEqual([
      'passed passed passed',
      'not-reached not-reached not-reached',
      'passed stopped none',
      'not-reached not-reached not-reached',
    ]);
  });

  test('a walk that begins anew is a walk of its own; rows without any are none', () => {
    const rows = [4, 3, 4, 3, 2, 1].map((level) => row(elementRow(Dim.GUEST, level, false), 0x1000 * level, 7));
    expect(walks([...rows, row(TRANSLATED)], '4-level').map(({ outcome }) => outcome)).toEqual(['fault', 'translated']);
    expect(walks([row(FAULT), row(TRANSLATED)])).toEqual([]);
  });
});
