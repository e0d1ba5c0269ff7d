import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CASE, file, folder, packedCase, rewalk } from './cli.ts';

describe('stats', () => {
  test('counts by kind, type, outcome, mode, provenance and source', async () => {
    const { status, stdout } = await rewalk('stats', await packedCase(), '--json');
    expect(status).toBe(0);
    const { traces, sum } = JSON.parse(stdout) as { traces: object[]; sum: object };
    expect(traces).toHaveLength(1);
    expect(sum).toEqual({
      segments: 1,
      chunks: 1,
      stepCount: 9,
      observationCount: 7,
      events: {},
      vcpus: {},
      steps: { store: 4, access: 3, invalidate: 1, note: 1 },
      accesses: { 'read, supervisor': 1, 'read, user': 1, 'write, user': 1 },
      outcomes: { translated: 2, '#PF error 0x4': 1 },
      paging: { '4-level': 3 },
      observations: { element: 4, 'entry-write': 1, exception: 1, translated: 1 },
      provenance: { recorded: 8, mark: 1 },
      sources: { 'case.txt': 9 },
    });
  });

  test('several traces are counted one by one and together', async () => {
    const { stdout } = await rewalk('stats', await packedCase(), file('twice.jsonl', CASE));
    expect(stdout).toMatch(/^ {2}9 steps/m);
    expect(stdout).toContain('sum of 2 traces\n  18 steps');
  });

  test('--sum prints the sum only', async () => {
    const { stdout } = await rewalk('stats', '--sum', await packedCase());
    expect(stdout).toMatch(/^sum of 1 trace\n/);
  });

  test('the paging mode follows the registers', async () => {
    const lines = CASE.split('\n').slice(0, 2);
    const read = '{"access":"read","address":"0x1000"}';
    const modes = [
      '{"register-write":"cr4","value":"0x1020"}',
      read,
      '{"register-write":"cr0","value":"0x1"}',
      read,
      '{"register-set":"guest_mode","value":"0x1"}',
      '{"register-set":"eptp","value":"0x1005e"}',
      read,
    ];
    const { stdout } = await rewalk('stats', '--json', file('modes.jsonl', [...lines, read, ...modes].join('\n')));
    expect((JSON.parse(stdout) as { sum: { paging: object } }).sum.paging).toEqual({
      '4-level': 1,
      '5-level': 1,
      'no paging': 1,
      'no paging under EPT': 1,
    });
  });
});

describe('check', () => {
  test('a sound trace is said to be so, in either form', async () => {
    const packed = await packedCase();
    const text = file('sound.jsonl', CASE);
    expect(await rewalk('check', packed, text)).toEqual({
      status: 0,
      stdout: `${packed}: sound\n${text}: sound\n`,
      stderr: '',
    });
  });

  const UNSOUND = [...CASE.split('\n').slice(0, 2), '{"clear-page":"0x1008"}'].join('\n');

  test('a trace that breaks its invariants is status 3 with each finding', async () => {
    const path = file('unsound.jsonl', UNSOUND);
    const { status, stdout } = await rewalk('check', path);
    expect(status).toBe(3);
    expect(stdout).toContain(`${path}: unsound\n  error clear-page.alignment (`);
  });

  test('--json lists the findings', async () => {
    const { status, stdout } = await rewalk('check', '--json', file('unsound2.jsonl', UNSOUND));
    expect(status).toBe(3);
    expect(JSON.parse(stdout)).toMatchObject([{ sound: false, findings: [{ id: 'clear-page.alignment' }] }]);
  });

  test('warnings count only with --strict', async () => {
    const path = file('no-steps.jsonl', '{"header":{}}');
    expect((await rewalk('check', path)).status).toBe(0);
    expect((await rewalk('check', '--strict', path)).status).toBe(3);
  });
});

describe('recover', () => {
  test('saves the whole chunks of a damaged trace to one that is sound', async () => {
    const bytes = readFileSync(await packedCase());
    const damaged = file('damaged.rwt', bytes.subarray(0, bytes.length - 3));
    const saved = join(folder, 'saved.rwt');
    const { status, stdout } = await rewalk('recover', damaged, '-o', saved);
    expect(status).toBe(0);
    expect(stdout).toContain(`saved 9 steps in 1 chunk to ${saved}`);
    expect((await rewalk('check', saved)).status).toBe(0);
  });

  test('tells what was lost, with --json in a form for scripts', async () => {
    const bytes = Buffer.from(readFileSync(await packedCase()));
    bytes[600]! ^= 1;
    const { stdout } = await rewalk('recover', file('bad.rwt', bytes), '-o', join(folder, 'rest.rwt'), '--json');
    expect(JSON.parse(stdout)).toMatchObject({ steps: 0, chunks: 0, losses: [{ from: 48 }] });
  });

  test('what never was a trace cannot be recovered', async () => {
    const { status, stderr } = await rewalk('recover', file('noise.rwt', 'noise'), '-o', join(folder, 'never2.rwt'));
    expect(status).toBe(3);
    expect(stderr).toContain('E_CORRUPT: nothing can be recovered');
  });

  test('a damaged trace is not replaced by itself', async () => {
    expect((await rewalk('recover', 'a.rwt', '-o', 'a.rwt')).status).toBe(2);
  });
});

describe('convert', () => {
  test('trace to text to trace gives the same bytes', async () => {
    const packed = await packedCase();
    const text = join(folder, 'there.jsonl');
    const again = join(folder, 'again.rwt');
    expect((await rewalk('convert', packed, '-o', text)).status).toBe(0);
    expect((await rewalk('convert', text, '-o', again)).status).toBe(0);
    expect(readFileSync(again).equals(readFileSync(packed))).toBe(true);
  });

  test('another codec gives other bytes and the same steps', async () => {
    const packed = await packedCase();
    const small = join(folder, 'small.rwt');
    expect((await rewalk('convert', packed, '-o', small, '--codec', 'deflate')).status).toBe(0);
    expect(readFileSync(small).length).toBeLessThan(readFileSync(packed).length);
    const [a, b] = [await rewalk('view', packed, '--json'), await rewalk('view', small, '--json')];
    expect(b.stdout).toBe(a.stdout);
  });

  test('with --json it tells what was written', async () => {
    const target = join(folder, 'told.rwt');
    const { stdout } = await rewalk('convert', await packedCase(), '-o', target, '--json');
    expect(JSON.parse(stdout)).toMatchObject({ output: target, form: 'trace', steps: 9, segments: 1 });
  });

  test('two pipes need a form', async () => {
    const { status, stderr } = await rewalk('convert', '-');
    expect(status).toBe(2);
    expect(stderr).toContain('give --from or --to');
  });
});

describe('import', () => {
  const LOG = [
    'H walklog 1 bochs=test maxphy=40 fix=0 dedup=0 hits=0 cpu=arrow_lake feat=pae,nx vmx_ept_vpid_cap=0 vmx_c2_allowed=0',
    'S * cr0=80010001 cr3=1000 cr4=20 efer=d00',
    'W rU 3- 1040 8 g4:1000:2027 g3:2000:3027 g2:3000:4027 g1:4008:5027 =5040 zfff t6',
  ].join('\n');

  test('a named format', async () => {
    const target = join(folder, 'imported.rwt');
    const { status, stdout, stderr } = await rewalk('import', 'walklog', file('a.walklog', LOG), '-o', target);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(/^imported \d+ steps from walklog to /);
    expect((await rewalk('view', target)).stdout).toContain('guest PTE [0x4008] = 0x5027');
  });

  test('a format that is recognised, straight to text', async () => {
    const target = join(folder, 'imported.jsonl');
    const { status } = await rewalk('import', file('b.walklog', LOG), '-o', target);
    expect(status).toBe(0);
    expect(readFileSync(target, 'utf8')).toMatch(/^\{"header":/);
  });

  test('a format that is not recognised says what was looked for', async () => {
    const target = join(folder, 'never3.rwt');
    const { status, stderr } = await rewalk('import', file('x.bin', 'something'), '-o', target);
    expect(status).toBe(3);
    expect(stderr).toContain('E_IMPORT: the format is not recognised: walklog is');
    expect(() => readFileSync(target)).toThrow();
  });

  test('a broken input leaves no file behind', async () => {
    const target = join(folder, 'never4.rwt');
    const { status, stderr } = await rewalk('import', file('c.walklog', `${LOG}\nW nonsense\n`), '-o', target);
    expect(status).toBe(3);
    expect(stderr).toMatch(/E_IMPORT: .*line 4/);
    expect(() => readFileSync(target)).toThrow();
  });

  test('mistakes in the arguments', async () => {
    expect((await rewalk('import', '--list')).stdout).toMatch(/^walklog {2}/m);
    expect((await rewalk('import', 'walklgo', 'a', '-o', 'b')).stderr).toContain('did you mean walklog?');
    expect((await rewalk('import', 'walklog', 'a')).stderr).toContain('add `-o trace.rwt`');
    expect((await rewalk('import')).stderr).toContain('no input is given');
    expect((await rewalk('import', 'walklog', 'a', '-o', 'b', '--vm', 'vm1')).stderr).toContain('makes no difference');
  });

  test('a missing input', async () => {
    const { status, stderr } = await rewalk('import', join(folder, 'missing'), '-o', join(folder, 'never5.rwt'));
    expect(status).toBe(3);
    expect(stderr).toContain('E_NO_SUCH_FILE');
  });
});

describe('decode', () => {
  test('one word, long', async () => {
    const { status, stdout } = await rewalk('decode', 'pfec', '0x15');
    expect(status).toBe(0);
    expect(stdout).toMatch(/^PFEC 0x15: P U F\n {3}0 {2}p {5}0x1 {2}a page-level protection violation\n/);
  });

  test('several words, short', async () => {
    const { stdout } = await rewalk('decode', 'qualification', '182', '0x1aa', '--short');
    expect(stdout).toBe('write; entry ---; linear, final\nwrite; entry R-X; linear, final\n');
  });

  test('options select the meaning', async () => {
    expect((await rewalk('decode', 'pte', '--level', '2', '0x6000e7', '--short')).stdout).toBe(
      'P W U A D 2M gfn 0x600\n',
    );
    expect((await rewalk('decode', 'role', '--profile', '6.1', '0x801', '--short')).stdout).toContain('invalid');
    expect(
      (await rewalk('decode', 'spte', '--ept', '--profile', '6.1', '28f6907', '--level', '2', '--short')).stdout,
    ).toBe('table rwx A pfn 0x28f6\n');
  });

  test('--json', async () => {
    const { stdout } = await rewalk('decode', 'cr4', '0x20', '--json');
    expect(JSON.parse(stdout)).toMatchObject({ title: 'CR4', word: '0x20', short: 'PAE' });
  });

  test('what cannot be decoded is a mistake in the arguments', async () => {
    for (const argv of [['pfe', '1'], ['pfec'], ['pfec', 'xyz'], ['pfec', '1', '--mbec'], []]) {
      expect((await rewalk('decode', ...argv)).status).toBe(2);
    }
    expect((await rewalk('decode', 'pte', '1', '--level', '3', '--paging', '32-bit')).stderr).toContain(
      'has no level 3',
    );
    expect((await rewalk('decode', 'pfec', '0x1_0000_0000_0000_0000')).stderr).toContain('at most 64 bits');
  });

  test('--list names every format', async () => {
    expect((await rewalk('decode', '--list')).stdout).toContain('qualification, ept-violation');
  });
});
