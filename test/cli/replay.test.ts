import { copyFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CASE, emptyFolder, file, folder, rewalk, rewalkWith } from './cli.ts';

/** The case with every entry that its faulting read reads. */
const GOOD = CASE.replace(
  '[{"exception"',
  '[{"element":"0x1000","level":4,"value":"0x2027"},{"element":"0x2000","level":3,"value":"0x3027"},' +
    '{"element":"0x3000","level":2,"value":"0x4027"},{"element":"0x4010","level":1,"value":"0x0"},{"exception"',
);
/** The good case with an access recorded as landing elsewhere, after those that match. */
const WRONG = '{"access":"read","address":"0x1048","user":true,"physical":"0x9048"}';
const DIVERGING = [GOOD, WRONG].join('\n');
/** LASS, which is not modelled, from step 9 on. */
const UNMODELLED = [GOOD, '{"register-set":"cr4","value":"0x8000020"}', WRONG].join('\n');
/** Stimuli and no outcome. */
const NOTHING = GOOD.split('\n')
  .filter((line) => !line.includes('expect') && !line.includes('physical'))
  .join('\n');

async function packed(name: string, text: string): Promise<string> {
  const path = join(folder, `${name}.rwt`);
  const { status, stderr } = await rewalk('convert', file(`${name}.source.jsonl`, text), '-o', path);
  if (status !== 0) throw new Error(stderr);
  return path;
}

let cases = 0;

/** A trace that matches, under a name of its own. */
async function goodTrace(): Promise<string> {
  return packed(`good${cases++}`, GOOD);
}

interface ReplayJson {
  readonly results: {
    readonly verdict: string;
    readonly receipt: Record<string, unknown> & { readonly file: string; readonly skipped: Record<string, number> };
    readonly divergences: Record<string, unknown>[];
  }[];
  readonly totals: Record<string, unknown>;
  readonly minPredicted: number;
  readonly exitStatus: number;
}

async function json(...argv: string[]): Promise<ReplayJson & { status: number; stderr: string }> {
  const { status, stdout, stderr } = await rewalk('replay', '--json', ...argv);
  return { ...(JSON.parse(stdout) as ReplayJson), status, stderr };
}

describe('one trace', () => {
  test('that matches: the receipt, then the verdict, exit status 0', async () => {
    const path = await goodTrace();
    const { status, stdout, stderr } = await rewalk('replay', path);
    expect([status, stderr]).toEqual([0, '']);
    const lines = stdout.replaceAll(folder, '').split('\n');
    expect(lines[0]).toMatch(/^trace +\/good\d+\.rwt: two writes$/);
    expect(lines.slice(1, 3)).toEqual(['recorder', 'machine   bare; A/D unspecified']);
    expect(lines[3]).toMatch(/^digest {4}[0-9a-f]{64}$/);
    expect(lines.slice(4)).toEqual([
      'steps     9: 1 rare, 3 access, 4 store, 1 invalidate',
      'compared and equal; predicted to input are fields:',
      '  observation  count  predicted  renamed  learned  input',
      '  element          8         24        0        0      0',
      '  entry-write      1          3        0        0      0',
      '  translated       2          4        0        0      0',
      '  exception        1          3        0        0      0',
      'observations predicted in every field: 12',
      expect.stringMatching(/^match +\/good\d+\.rwt: 9 steps, 12 observations predicted$/),
      '',
    ]);
  });

  test('that diverges: the receipt, the verdict, the first divergence, groups; exit status 1', async () => {
    const { status, stdout } = await rewalk('replay', file('diverging.jsonl', DIVERGING));
    expect(status).toBe(1);
    const at = (text: string): number => stdout.indexOf(text);
    const order = [
      'trace ',
      'observations predicted in every field',
      'DIVERGED ',
      'step 9 (case.txt): diverged',
      'divergences of the like:',
    ];
    expect(order.map(at)).toEqual(order.map(at).toSorted((a, b) => a - b));
    expect(order.every((text) => at(text) >= 0)).toBe(true);
    expect(stdout.slice(at('step 9')).split('\n')).toEqual([
      'step 9 (case.txt): diverged',
      '  stimulus: read  user  cpl3 0x1048  in 4-level',
      '  cause: the recording translates to 0x9048, the replay to 0x5048',
      '    recorded              replayed',
      '    translated to 0x9048  translated to 0x5048, page of 4K',
      'divergences of the like:',
      '  1  user read: recorded translated, replayed translated (address)  first at step 9',
      '',
    ]);
  });

  test('of the text form is replayed as it is, and packed it gives the same', async () => {
    const text = await json(file('same.jsonl', DIVERGING));
    const trace = await json(await packed('same', DIVERGING));
    const counts = ({ results }: ReplayJson): unknown => [results[0]!.receipt['counts'], results[0]!.divergences];
    expect(counts(text)).toEqual(counts(trace));
  });

  test('of which nothing is compared is no pass', async () => {
    const { status, stdout } = await rewalk('replay', file('nothing.jsonl', NOTHING));
    expect(status).toBe(1);
    expect(stdout).toContain('NOTHING COMPARED');
    expect(await json('--min-predicted', '0', file('nothing.jsonl', NOTHING))).toMatchObject({ status: 1 });
  });
});

describe('--max-diffs', () => {
  const wrongTwice = file(
    'twice.jsonl',
    [GOOD, WRONG, '{"invlpg":"0x0"}', WRONG.replace('0x9048', '0x8048'), WRONG].join('\n'),
  );
  const shown = async (...argv: string[]): Promise<number> =>
    (await rewalk('replay', wrongTwice, ...argv)).stdout
      .split('\n')
      .filter((line) => /^step \d+ .*: diverged$/.test(line)).length;

  test('says how many divergences are printed in full: one, if nothing is said', async () => {
    expect([await shown(), await shown('--max-diffs', '2'), await shown('--max-diffs', '99')]).toEqual([1, 2, 3]);
    expect(await shown('--max-diffs=0')).toBe(0);
  });

  test('all are counted', async () => {
    const { results, status } = await json(wrongTwice, '--max-diffs', '0');
    expect([status, results[0]!.receipt['diverged'], results[0]!.divergences]).toEqual([1, 3, []]);
  });

  test('must be a number', async () => {
    for (const value of ['-1', 'x', '1.5', '']) {
      expect((await rewalk('replay', wrongTwice, `--max-diffs=${value}`)).status).toBe(2);
    }
  });
});

describe('--machine and what goes with it', () => {
  test('must fit each other and the trace', async () => {
    const path = await goodTrace();
    const refused = async (...argv: string[]): Promise<string> => {
      const { status, stdout, stderr } = await rewalk('replay', path, ...argv);
      expect([status, stdout]).toEqual([2, '']);
      return stderr;
    };
    expect(await refused('--machine', 'other')).toContain('--machine "other": expected bare or kvm');
    expect(await refused('--profile', '5.4')).toContain('--profile "5.4": expected 6.1 or 7.3');
    expect(await refused('--tdp', 'yes')).toContain('--tdp "yes": expected on or off');
    expect(await refused('--machine', 'bare', '--tdp', 'on')).toContain('--tdp cannot apply');
    expect(await refused('--tdp', 'off', '--tdp-mmu', 'on')).toContain('exclude each other');
    expect(await refused('--tdp-mmu', 'off')).toContain('add --machine kvm');
  });

  test('puts an emulated KVM below the guest, as it was asked for', async () => {
    const machine = async (...argv: string[]): Promise<unknown> =>
      (await json(await goodTrace(), ...argv)).results[0]!.receipt['machine'];
    expect(await machine('--machine', 'bare')).toBe('bare');
    expect(await machine('--machine', 'kvm', '--profile', '7.3', '--tdp', 'off')).toBe('kvm 7.3, shadow paging');
    expect(await machine('--machine', 'kvm', '--tdp-mmu', 'off')).toMatch(/^kvm 6\.1, .*, legacy direct MMU$/);
  });
});

describe('--bail', () => {
  test('stops at the first divergence, of all traces', async () => {
    const [bad, good] = [await packed('bail', [GOOD, WRONG, WRONG].join('\n')), await goodTrace()];
    const stopped = await json(bad, good, '--bail');
    expect([stopped.status, stopped.results.length, stopped.results[0]!.receipt['diverged']]).toEqual([1, 1, 1]);
    const through = await json(bad, good);
    expect([through.status, through.results.length, through.results[0]!.receipt['diverged']]).toEqual([1, 2, 2]);
  });

  test('goes on as long as there is none', async () => {
    const good = await goodTrace();
    expect(await json(good, await goodTrace(), '--bail')).toMatchObject({ status: 0, totals: { traces: 2 } });
  });

  test('does not make a whole trace one that is cut short', async () => {
    const { stdout } = await rewalk('replay', await packed('bail-whole', [GOOD, WRONG, WRONG].join('\n')), '--bail');
    expect(stdout).not.toMatch(/cut short/i);
  });
});

describe('--filter', () => {
  test('compares only what it lets through, and counts the rest', async () => {
    const path = await goodTrace();
    const page = await json(path, '--filter', 'gva=0x1000+0x1000');
    expect(page.results[0]!.receipt['observationsPredicted']).toBe(7);
    expect(page.results[0]!.receipt.skipped).toEqual({ 'left out by --filter': 1 });
    const faults = await json(path, '--filter', 'observed=exception');
    expect([faults.status, faults.totals['observationsPredicted']]).toEqual([0, 5]);
    expect(faults.results[0]!.receipt.skipped).toEqual({ 'left out by --filter': 2 });
  });

  test('several hold together, and a divergence outside is none', async () => {
    const path = file('filtered.jsonl', DIVERGING);
    expect((await json(path, '--filter', 'kind=access', '--filter', 'gva=0x2040')).status).toBe(0);
    expect((await json(path, '--filter', 'kind=access', '--filter', 'gva=0x1048')).status).toBe(1);
    expect((await json(path, '--filter', 'entry=0x4008')).totals['observationsPredicted']).toBe(6);
  });

  test('that lets nothing through is no pass', async () => {
    expect((await json(await goodTrace(), '--filter', 'gva=0x99999000')).status).toBe(1);
  });

  test.each([
    ['observd=exception', 'did you mean observed?'],
    ['kinds=access', 'did you mean kind?'],
    ['gva', undefined],
    ['=0x1000', undefined],
    ['kind=acess', 'did you mean access?'],
    ['observed=elment', 'did you mean element?'],
    ['gva=zero', undefined],
  ])('%s is a mistake, with a suggestion where there is one', async (filter, suggestion) => {
    const { status, stdout, stderr } = await rewalk('replay', await goodTrace(), '--filter', filter);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(/^rewalk: E_USAGE: --filter /);
    if (suggestion !== undefined) expect(stderr).toContain(suggestion);
  });

  test('an entry and a frame at once are a mistake, as in view; so is one name twice', async () => {
    const path = await goodTrace();
    expect((await rewalk('replay', path, '--filter', 'entry=0x4008', '--filter', 'gfn=0x3')).status).toBe(2);
    expect((await rewalk('replay', path, '--filter', 'gva=0x1040', '--filter', 'gva=0x2040')).status).toBe(2);
  });
});

describe('--from and --to', () => {
  test('bound what is compared, both included; everything is applied', async () => {
    const path = file('range.jsonl', DIVERGING);
    expect((await json(path, '--to', '8')).status).toBe(0);
    expect((await json(path, '--from', '9')).status).toBe(1);
    const one = await json(path, '--from', '6', '--to', '6');
    expect([one.status, one.totals['observationsPredicted']]).toEqual([0, 5]);
    expect(one.results[0]!.receipt.skipped).toEqual({ 'outside --from and --to': 3 });
  });

  test('the wrong way round are a mistake', async () => {
    const { status, stderr } = await rewalk('replay', await goodTrace(), '--from', '7', '--to', '5');
    expect([status, stderr]).toEqual([2, expect.stringContaining('--to 5 comes before --from 7')]);
  });

  test('beyond the end nothing is compared', async () => {
    expect((await json(await goodTrace(), '--from', '1000')).status).toBe(1);
  });
});

describe('--min-predicted', () => {
  test('fails a replay that predicted less, over all traces', async () => {
    const paths = [await goodTrace(), await goodTrace()];
    expect((await rewalk('replay', ...paths, '--min-predicted', '24')).status).toBe(0);
    const { status, stdout } = await rewalk('replay', ...paths, '--min-predicted', '25');
    expect(status).toBe(1);
    expect(stdout).toContain('only 24 observations were predicted and equal, --min-predicted asks for 25');
    expect(await json(...paths, '--min-predicted', '25')).toMatchObject({ exitStatus: 1, minPredicted: 25 });
  });
});

describe('--allow-unmodelled', () => {
  test('what is not modelled makes exit status 4, unless it is named', async () => {
    const path = file('unmodelled.jsonl', UNMODELLED);
    const { status, stdout } = await rewalk('replay', path);
    expect([status, stdout.includes('not modelled: 1 lass')]).toEqual([4, true]);
    expect((await rewalk('replay', path, '--allow-unmodelled', 'lass')).status).toBe(0);
    expect((await rewalk('replay', path, '--allow-unmodelled', 'lam,lass')).status).toBe(0);
    expect((await rewalk('replay', path, '--allow-unmodelled', 'lam')).status).toBe(4);
  });

  test('a name that there is not is a mistake', async () => {
    const { status, stderr } = await rewalk('replay', file('x.jsonl', GOOD), '--allow-unmodelled', 'las');
    expect([status, stderr]).toEqual([2, expect.stringContaining('did you mean lass?')]);
  });
});

describe('expectations', () => {
  const GROUP = 'user read: recorded translated, replayed #PF 0x4';
  const FAULTY = [GOOD, '{"access":"read","address":"0x7000","user":true,"physical":"0x7000"}'].join('\n');
  /** A folder with a diverging trace and what is expected of it. */
  async function withExpectations(name: string, entry: Record<string, unknown> | string): Promise<string> {
    const path = await packed(`${name}/trace`, FAULTY);
    const expectation = { fault: 'known-fault', reason: 'a test', group: GROUP, count: 1 };
    const content = typeof entry === 'string' ? entry : JSON.stringify({ 'trace.rwt': [{ ...expectation, ...entry }] });
    writeFileSync(join(folder, name, 'expectations.json'), content);
    return path;
  }

  test('beside the trace make a known difference a match, counted', async () => {
    const { status, stdout } = await rewalk('replay', await withExpectations('met', {}));
    expect(status).toBe(0);
    expect(stdout).toContain('expected, by known fault: 1 known-fault');
    expect(stdout).toMatch(/^match .*, 1 expected$/m);
  });

  test('--no-expectations shows every difference', async () => {
    const { status, stdout } = await rewalk('replay', await withExpectations('shown', {}), '--no-expectations');
    expect(status).toBe(1);
    expect(stdout).toContain(GROUP);
  });

  test('that do not come true fail, also among several traces', async () => {
    const path = await withExpectations('broken', { count: 2 });
    const sentence = `expectation does not hold: "known-fault" is expected in 2 steps (${GROUP}) but was met in 1`;
    for (const paths of [[path], [path, await goodTrace()]]) {
      const { status, stdout } = await rewalk('replay', ...paths);
      expect([status, stdout.includes(sentence)]).toEqual([1, true]);
    }
  });

  test('that cannot be read are exit status 3, and the other traces are replayed', async () => {
    const path = await withExpectations('unreadable', '{');
    const { status, stdout, stderr } = await rewalk('replay', path, await goodTrace());
    expect(status).toBe(3);
    expect(stderr).toMatch(
      /^rewalk: E_EXPECTATIONS: the file is not valid JSON: .* \(.*unreadable\/expectations\.json\)$/m,
    );
    expect(stdout).toMatch(/^match .*good\d+\.rwt/m);
    expect((await rewalk('replay', path, '--no-expectations')).status).toBe(1);
  });

  test('come from strangers: nothing of them reaches the terminal as it is', async () => {
    const hostile = await withExpectations('hostile', { fault: '\u001b[31mred', count: 2 });
    for (const paths of [[hostile], [hostile, await goodTrace()]]) {
      expect((await rewalk('replay', ...paths)).stdout).not.toContain('\u001b');
    }
  });
});

describe('several traces', () => {
  test('each has a line, all together a receipt and a count of verdicts', async () => {
    const [good, bad] = [await goodTrace(), await packed('one-of-two', DIVERGING)];
    const { status, stdout } = await rewalk('replay', good, bad);
    expect(status).toBe(1);
    const lines = stdout.split('\n');
    expect(lines[0]).toMatch(/^match +.*good\d+\.rwt: 9 steps, 12 observations predicted$/);
    expect(lines[1]).toMatch(/^DIVERGED .*one-of-two\.rwt: 10 steps, 12 observations predicted, 1 diverged$/);
    expect(stdout).toContain('2 traces, 19 steps');
    expect(lines.at(-2)).toBe('1 match, 1 diverged');
    expect(stdout).not.toContain('recorder');
    expect((await rewalk('replay', good, bad, '--receipts')).stdout.match(/^recorder/gm)).toHaveLength(2);
  });

  test('may be given as a folder or a pattern', async () => {
    const where = emptyFolder('many');
    for (const name of ['a.rwt', 'b.rwt']) copyFileSync(await goodTrace(), join(where, name));
    writeFileSync(join(where, 'c.jsonl'), GOOD);
    const names = async (argument: string): Promise<string[]> =>
      (await json(argument)).results.map(({ receipt }) => receipt.file.replace(`${where}/`, ''));
    expect(await names(where)).toEqual(['a.rwt', 'b.rwt', 'c.jsonl']);
    expect(await names(join(where, '*.rwt'))).toEqual(['a.rwt', 'b.rwt']);
  });

  test('the worst exit status counts: unreadable, not modelled, diverged, match', async () => {
    const traces: Record<number, string> = {
      0: await goodTrace(),
      1: file('status-1.jsonl', DIVERGING),
      3: file('status-3.rwt', 'not a trace'),
      4: file('status-4.jsonl', UNMODELLED),
    };
    for (const [worst, order] of [
      [3, [0, 1, 4, 3]],
      [3, [3, 4, 1, 0]],
      [4, [1, 4, 0]],
      [4, [4, 1]],
      [1, [0, 1, 0]],
    ] as [number, number[]][]) {
      const { status, exitStatus } = await json(...order.map((each) => traces[each]!));
      expect([order, status, exitStatus]).toEqual([order, worst, worst]);
    }
  });

  test('one that is not there does not keep from the others', async () => {
    const { status, stderr } = await rewalk('replay', await goodTrace(), join(folder, 'missing.rwt'));
    expect([status, stderr]).toEqual([3, expect.stringContaining('E_NO_SUCH_FILE')]);
  });
});

describe('a trace cut short', () => {
  /** The case with a second chunk, of which the end is missing. */
  async function cut(name: string, text: string): Promise<string> {
    const path = await packed(name, text);
    truncateSync(path, readFileSync(path).length - 10);
    return path;
  }
  const twoChunks = (first: string): string =>
    [
      first,
      '{"state":{"cr0":"0x80010001","cr3":"0x1000","cr4":"0x20","efer":"0xd00"}}',
      WRONG.replace('0x9048', '0x5048'),
    ].join('\n');

  test('is replayed as far as it goes, and is exit status 3', async () => {
    const { status, stdout, stderr } = await rewalk('replay', await cut('cut', twoChunks(GOOD)));
    expect(status).toBe(3);
    expect(stdout).toMatch(/^match .*cut\.rwt: (9|10) steps, \d+ observations predicted, CUT SHORT$/m);
    expect(stdout).toContain('(the trace is cut short)');
    expect(stderr).toContain('E_CUT_SHORT');
  });

  test('what diverges before is told', async () => {
    const { status, stdout } = await rewalk('replay', await cut('cut-diverged', twoChunks(DIVERGING)));
    expect(status).toBe(3);
    expect(stdout).toContain('step 9 (case.txt): diverged');
  });

  test('is exit status 3 and told of also where --bail stops at expectations that do not hold', async () => {
    const path = await cut('bail-cut/trace', twoChunks(GOOD));
    const expectation = { fault: 'known-fault', reason: 'a test', group: 'a group', count: 1 };
    writeFileSync(join(folder, 'bail-cut', 'expectations.json'), JSON.stringify({ 'trace.rwt': [expectation] }));
    const { status, stderr } = await rewalk('replay', path, '--bail');
    expect([status, stderr]).toEqual([3, expect.stringContaining('E_CUT_SHORT')]);
  });

  test('a damaged chunk: what was read before is in the report', async () => {
    const path = await packed('damaged', twoChunks(DIVERGING));
    const bytes = readFileSync(path);
    const second = bytes.length - 200;
    bytes[second]! ^= 0x40;
    writeFileSync(path, bytes);
    const { status, stderr } = await rewalk('replay', path);
    expect([status, stderr]).toEqual([3, expect.stringMatching(/E_(CORRUPT|CUT_SHORT|UNSOUND)/)]);
  });
});

describe('--json', () => {
  test('is one object: results, totals, what was asked for, the exit status', async () => {
    const path = await packed('shape', DIVERGING);
    const { status, stderr, ...object } = await json(path);
    expect([status, stderr]).toEqual([1, '']);
    expect(Object.keys(object)).toEqual(['results', 'totals', 'minPredicted', 'exitStatus']);
    const { receipt, divergences, verdict } = object.results[0]!;
    expect(verdict).toBe('diverged');
    expect(Object.keys(receipt)).toEqual([
      ...[
        'file',
        'title',
        'recorder',
        'machine',
        'limits',
        'policy',
        'digest',
        'ending',
        'steps',
        'stepsByKind',
        'counts',
      ],
      'events',
      ...['observationsPredicted', 'skipped', 'notModelled', 'staleAllowed', 'undetermined', 'expected', 'diverged'],
      ...['groups', 'brokenExpectations', 'brokenInvariants'],
    ]);
    expect(divergences[0]).toMatchObject({
      step: 9,
      stimulus: 'read  user  cpl3 0x1048',
      judgement: { kind: 'diverged' },
      firstDifference: 0,
      recorded: [
        {
          kind: 'translated',
          address: '0x9048',
          value: '0x9048',
          text: 'translated to 0x9048',
        },
      ],
      replayed: [{ kind: 'translated', address: '0x5048', value: '0x5048' }],
    });
    expect(object.totals).toMatchObject({ traces: 1, verdicts: { match: 0, diverged: 1 }, diverged: 1 });
  });

  test('errors are JSON, too, on standard error', async () => {
    const { status, stderr } = await rewalk('replay', '--json', join(folder, 'missing.rwt'));
    expect([status, JSON.parse(stderr)]).toMatchObject([3, { error: { code: 'E_NO_SUCH_FILE', exitStatus: 3 } }]);
  });
});

describe('colour', () => {
  test('is put on where it is asked for, and only there', async () => {
    const path = file('coloured.jsonl', DIVERGING);
    expect((await rewalk('replay', path)).stdout).not.toContain('\u001b');
    const { stdout } = await rewalk('replay', path, '--color', 'always');
    expect(stdout).toContain('\u001b[31mDIVERGED\u001b[39m');
    expect((await rewalk('replay', path, '--color', 'always', '--json')).stdout).not.toContain('\u001b');
    expect((await rewalkWith({ env: { FORCE_COLOR: '1' } }, 'replay', path)).stdout).toContain('\u001b[31m');
  });
});
