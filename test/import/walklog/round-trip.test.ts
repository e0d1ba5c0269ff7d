/** Random records that follow the grammar: nothing of them is lost on the way into steps. */

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { importRecords, type Step } from './logs.ts';

const hex = (text: unknown): string => (text === undefined ? '0' : String(text).slice(2));
const word = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((value) => value.toString(16));
const half = fc.nat({ max: 0xffff_ffff }).map((value) => value.toString(16));
const page = (bits: number): fc.Arbitrary<bigint> => fc.bigInt({ min: 0n, max: 2n ** BigInt(bits) - 1n });

const TABLES: Readonly<Record<string, string | undefined>> = { g: undefined, e: 'ept', n: 'npt', s: 'spp' };
const ACCESS: Readonly<Record<string, string>> = { r: 'read', w: 'write', x: 'fetch', m: 'rmw' };
const FLAGS: Readonly<Record<string, string>> = { n: 'noLinear', u: 'user', w: 'writable', x: 'nx', s: 'shadowStack' };

/** The token that an observation of the text form stands for; the inverse of the importer's. */
function tokenOf(row: Step): string {
  if ('pdpte' in row) return `P${String(row['pdpte'])}:${hex(row['value'])}`;
  if ('nested-walk' in row) {
    const letter = Object.keys(ACCESS).find((each) => ACCESS[each] === (row['access'] ?? 'read'))!;
    const flags = Object.keys(FLAGS).filter((flag) => row[FLAGS[flag]!] === true);
    const head = `${row['tables'] === 'npt' ? 'n' : 'e'}${letter}${row['ofTable'] === true ? 'p' : 'f'}${flags.join('')}`;
    return `>${head}:${hex(row['nested-walk'])}`;
  }
  const written = 'entry-write' in row;
  const dim = Object.keys(TABLES).find((each) => TABLES[each] === row['tables'])!;
  const label = `${dim}${String(row['level'])}${row['fourBytes'] === true ? 'd' : ''}`;
  return `${written ? '^' : ''}${label}:${hex(row[written ? 'entry-write' : 'element'])}:${hex(row['value'])}`;
}

function resultOf(rows: readonly Step[]): string {
  const [row, linear] = rows as [Step, Step | undefined];
  const la = linear === undefined ? '-' : hex(linear['exit-linear']);
  if ('translated' in row) {
    const mask = { '4k': 'fff', '2m': '1fffff', '4m': '3fffff', '1g': '3fffffff' }[String(row['page'])];
    return `=${hex(row['translated'])}/${hex(row['guestPhysical'])} z${mask}`;
  }
  if ('exception' in row) return `!PF ${hex(row['error'])} ${hex(row['cr2'])}`;
  if ('ept-violation' in row) return `!EV ${hex(row['qualification'])} ${hex(row['ept-violation'])} ${la}`;
  if ('ept-misconfig' in row) return `!EM 0 ${hex(row['ept-misconfig'])} ${la}`;
  return `!NPF ${hex(row['exitInfo1'])} ${hex(row['npf'])}`;
}

/** An entry at a place of its own in the walk: eight bytes, or four. */
const entry = fc
  .record({
    letter: fc.constantFrom('g', 'e', 'n', 's'),
    level: fc.integer({ min: 1, max: 5 }),
    wide: fc.boolean(),
    value: word,
    low: half,
  })
  .map(({ letter, level, wide, value, low }) =>
    wide ? { label: `${letter}${level}`, value } : { label: `${letter}${level}d`, value: low },
  );
const nestedWalk = fc
  .record({
    dim: fc.constantFrom('e', 'n'),
    access: fc.constantFrom('r', 'w', 'x', 'm'),
    purpose: fc.constantFrom('p', 'f'),
    flags: fc.subarray(['n', 'u', 'w', 'x', 's']),
    gpa: word,
  })
  .map(({ dim, access, purpose, flags, gpa }) => `>${dim}${access}${purpose}${flags.join('')}:${gpa}`);

/** Tokens of one walk. Entries are read at different places, some written back afterwards. */
const tokens = fc
  .array(
    fc.oneof(
      { weight: 4, arbitrary: fc.record({ entry, back: fc.boolean() }) },
      { weight: 1, arbitrary: nestedWalk },
      { weight: 1, arbitrary: fc.tuple(fc.nat({ max: 3 }), word).map(([index, value]) => `P${index}:${value}`) },
    ),
    { maxLength: 12 },
  )
  .chain((items) =>
    fc.uniqueArray(page(4), { minLength: items.length, maxLength: items.length }).map((places) => {
      const reads: string[] = [];
      const writes: string[] = [];
      items.forEach((item, i) => {
        if (typeof item === 'string') {
          reads.push(item);
          return;
        }
        const place = (0x1000n + places[i]! * 8n).toString(16);
        const { label, value } = item.entry;
        reads.push(`${label}:${place}:${value}`);
        if (item.back) writes.push(`^${label}:${place}:${(BigInt(`0x${value}`) | 0x60n).toString(16)}`);
      });
      return [...reads, ...writes];
    }),
  );
const result = fc.oneof(
  fc
    .record({ pa: word, gpa: word, mask: fc.constantFrom('fff', '1fffff', '3fffff', '3fffffff') })
    .map(({ pa, gpa, mask }) => `=${pa}/${gpa} z${mask}`),
  fc.tuple(half, word).map(([error, cr2]) => `!PF ${error} ${cr2}`),
  fc.tuple(half, word, fc.oneof(word, fc.constant('-'))).map(([q, gpa, la]) => `!EV ${q} ${gpa} ${la}`),
  fc.tuple(word, fc.oneof(word, fc.constant('-'))).map(([gpa, la]) => `!EM 0 ${gpa} ${la}`),
  fc.tuple(word, word).map(([info, gpa]) => `!NPF ${info} ${gpa}`),
);
const walk = fc.record({
  kind: fc.constantFrom('r', 'w', 'x', 'm', 'R', 'W', 'M'),
  user: fc.boolean(),
  cpl: fc.nat({ max: 3 }),
  ac: fc.boolean(),
  la: word,
  len: fc.nat({ max: 0x1000 }),
  tokens,
  result,
});

test('every token and the result of a walk come back out of the steps, in their order', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(walk, { minLength: 1, maxLength: 4 }), async (walks) => {
      const records = walks.map((w) =>
        [
          'W',
          `${w.kind}${w.user ? 'U' : 'S'}`,
          `${w.cpl}${w.ac ? 'a' : '-'}`,
          w.la,
          w.len.toString(16),
          ...w.tokens,
          w.result,
        ].join(' '),
      );
      const { steps } = await importRecords(...records);
      const accesses = steps.filter((step) => 'access' in step);
      const back = accesses.map((step) => {
        const rows = (step['expect'] ?? []) as Step[];
        const end = rows.findIndex((row) =>
          ['translated', 'exception', 'ept-violation', 'ept-misconfig', 'npf'].some((kind) => kind in row),
        );
        return [hex(step['address']), ...rows.slice(0, end).map(tokenOf), resultOf(rows.slice(end))].join(' ');
      });
      expect(back).toEqual(walks.map((w) => [w.la, ...w.tokens, w.result].join(' ')));
    }),
    { numRuns: 200, seed: 20_261 },
  );
});

test('the stores make memory what every walk reads, and nothing is stated that was known', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(walk, { minLength: 1, maxLength: 5 }), async (walks) => {
      const records = walks.map((w) => ['W rS 0- 0 0', ...w.tokens, w.result].join(' '));
      const { steps } = await importRecords(...records);
      const memory = new Map<number, number>();
      const put = (address: string, value: string, bytes: number): boolean => {
        const [at, all] = [Number(address), BigInt(value)];
        const halves = [Number(all & 0xffff_ffffn), Number(all >> 32n)].slice(0, bytes / 4);
        const news = halves.some((each, i) => memory.get(at + 4 * i) !== each);
        halves.forEach((each, i) => {
          memory.set(at + 4 * i, each);
        });
        return news;
      };
      for (const step of steps) {
        if ('store' in step) {
          expect(step).toMatchObject({ knowledge: true, provenance: 'inferred' });
          expect(put(String(step['store']), String(step['value'] ?? '0x0'), Number(step['size'] ?? 8))).toBe(true);
        }
        for (const row of (step['expect'] ?? []) as Step[]) {
          const bytes = row['fourBytes'] === true ? 4 : 8;
          const value = String(row['value'] ?? '0x0');
          if ('element' in row) expect(put(String(row['element']), value, bytes)).toBe(false);
          if ('entry-write' in row) put(String(row['entry-write']), value, bytes);
        }
      }
    }),
    { numRuns: 200, seed: 20_262 },
  );
});
