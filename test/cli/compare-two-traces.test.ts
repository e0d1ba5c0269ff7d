/** `rewalk compare A B` with two traces or recordings. */

import { describe, expect, test } from 'vitest';
import { CASE, emptyFolder, file, packedCase, rewalk } from './cli.ts';

interface TracesJson {
  readonly mode: string;
  readonly steps: Record<string, number>;
  readonly events: Record<string, number>;
  readonly differences: number;
  readonly classes: { title: string; count: number; whose: string; first: Record<string, unknown> }[];
  readonly exitStatus: number;
}

async function json(...argv: string[]): Promise<TracesJson> {
  const { stdout } = await rewalk('compare', '--json', ...argv);
  return JSON.parse(stdout) as TracesJson;
}

/** The kernel's own text of the first exits of a guest, by a task. */
function kernelText(task: string, from: number, events: readonly string[]): string {
  const line = (event: string, i: number): string =>
    `  ${task} [000] ...1. ${(from + i / 1000).toFixed(6)}: ${event}`.padStart(12);
  return `# tracer: nop\n#\n${events.map(line).join('\n')}\n`;
}

const page = (gfn: string, pfn: string, table: string, slot: string): string[] => [
  `kvm_exit: vcpu 0 reason npf rip 0x100000 info1 0x0000000100000014 info2 0x0000000000${gfn}000 intr_info 0x00000000 error_code 0x00000000`,
  `kvm_page_fault: vcpu 0 rip 0x100000 address 0x0000000000${gfn}000 error_code 0x100000014`,
  `kvm_mmu_spte_requested: gfn ${gfn} pfn ${pfn} level 1`,
  `kvm_tdp_mmu_spte_changed: as id 0 gfn ${gfn} level 1 old_spte 0 new_spte ${pfn}e67`,
  `kvm_mmu_set_spte: gfn ${gfn} spte ${pfn}e67 (rwxu) level 1 at ${table}${slot}`,
  'kvm_entry: vcpu 0, rip 0x100000',
];
const guest = (frame: string, table: string): string[] => [
  'kvm_entry: vcpu 0, rip 0x100000',
  ...page('100', `${frame}3`, table, '800'),
  ...page('105', `${frame}7`, table, '828'),
  ...page('110', `${frame}9`, table, '880'),
  ...page('107', `${frame}b`, table, '838'),
];

describe('two kernel texts, imported on the fly', () => {
  const first = file('first.txt', kernelText('vmm-155', 19, guest('29d', 'f3b4')));

  test('by other tasks, at other times, with other frames and pointers: equal, exit status 0', async () => {
    const other = file('other.txt', kernelText('qemu-4711', 1234, guest('5a1', 'e7c1')));
    const { status, stdout, stderr } = await rewalk('compare', first, other);
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/\nequal: \d+ steps of both say the same\n$/);
    expect(stdout).toMatch(/^events +16 equal, 0 differ/m);
  });

  test('an event that is missing is one line of the table, with the place; exit status 1', async () => {
    const events = guest('29d', 'f3b4');
    const gone = events.findIndex((event) => event.startsWith('kvm_mmu_set_spte: gfn 110'));
    const other = file('gone.txt', kernelText('vmm-155', 19, events.toSpliced(gone, 1)));
    const { status, stdout } = await rewalk('compare', first, other);
    expect(status).toBe(1);
    expect(stdout).toMatch(/^ +1 +KVM +set-spte only in A +step \d+ +step \d+$/m);
    expect(stdout).toMatch(/1\. set-spte only in A\n {3}A step \d+ \(line \d+\) {2}set-spte gfn 110 /);
    expect(stdout).toMatch(/\ndifferent: 1 difference of 1 class\n$/);
    const { classes } = await json(first, other);
    expect(classes).toMatchObject([{ title: 'set-spte only in A', count: 1, whose: 'kvm' }]);
  });

  test('another bit of an SPTE is named', async () => {
    const events = guest('29d', 'f3b4').map((event) => event.replaceAll('29d9e67', '29d9e47'));
    const { classes, exitStatus } = await json(first, file('bit.txt', kernelText('vmm-155', 19, events)));
    expect(exitStatus).toBe(1);
    expect(classes.map(({ title }) => title).sort()).toEqual([
      'set-spte, spte: a 1 → 0 (bit 5)',
      'tdp-spte-changed, new_spte: a 1 → 0 (bit 5)',
    ]);
  });

  test('a whole exit that was inserted is one difference', async () => {
    const events = [
      ...guest('29d', 'f3b4').slice(0, 13),
      ...page('222', '29df', 'f3b9', '110'),
      ...guest('29d', 'f3b4').slice(13),
    ];
    const { classes, steps } = await json(first, file('exit.txt', kernelText('vmm-155', 19, events)));
    expect(steps['onlyA']).toBe(0);
    expect(classes.filter(({ whose }) => whose === 'kvm')).toMatchObject([
      { title: expect.stringMatching(/^exit .* only in B$/) },
    ]);
  });
});

describe('recordings of one scenario under two parameters', () => {
  test.each([
    ['a_npt1', 'a_npt1_notdpmmu', 'tdp-spte-changed only in A'],
    ['ept1_g64', 'ept1_noad_g64', 'set-spte, spte: a 1 → 0 (bit 8), d 1 → 0 (bit 9), ad-type 0 → 1 (bit 53:52)'],
  ])(
    '%s and %s: by class, in under 60 lines',
    async (a, b, title) => {
      const { status, stdout } = await rewalk('compare', `traces/kvmmmu/${a}.rwt`, `traces/kvmmmu/${b}.rwt`);
      expect(status).toBe(1);
      expect(stdout.trimEnd().split('\n').length).toBeLessThan(60);
      expect(stdout).toContain(title);
      expect(stdout).toMatch(/^steps +1\d,\d\d\d in both \(1\d\d marks of the guest among them\)/m);
      expect(stdout).toMatch(/^recorded +with .* → /m);
    },
    60_000,
  );

  test('--max-diffs says how many classes are told in full', async () => {
    const { stdout } = await rewalk(
      'compare',
      '--max-diffs',
      '1',
      'traces/kvmmmu/c_nest_np0.rwt',
      'traces/kvmmmu/c_nest_intr.rwt',
    );
    expect(stdout).toContain('\n1. ');
    expect(stdout).not.toContain('\n2. ');
    expect(stdout).toMatch(/the first of \d+ more classes?: --max-diffs \d+/);
  }, 60_000);
});

describe('small traces', () => {
  test('a trace and itself, packed and as text', async () => {
    const packed = await packedCase();
    const { status, stdout } = await rewalk('compare', packed, file('case.jsonl', CASE));
    expect([status, stdout.includes('\nequal: 9 steps')]).toEqual([0, true]);
  });

  test('text from a trace cannot command the terminal', async () => {
    const packed = await packedCase();
    const evil = file('evil.jsonl', `${CASE}\n{"note":"\\u001b[2J\\u202e"}`);
    const { status, stdout } = await rewalk('compare', packed, evil);
    expect(status).toBe(1);
    expect(stdout).toContain('note only in B');
    expect(stdout).toContain('\\x1b[2J\\u{202e}');
  });

  test('without a step nothing is compared', async () => {
    const empty = file('empty.jsonl', CASE.split('\n').slice(0, 1).join('\n'));
    const { status, stdout } = await rewalk('compare', empty, empty);
    expect([status, stdout.trimEnd().split('\n').at(-1)]).toEqual([1, 'nothing compared']);
  });
});

describe('refused', () => {
  test.each([
    [['--scope', 'guest'], 2, '--scope cannot apply'],
    [['--bail'], 2, '--bail cannot apply'],
    [['--receipts'], 2, '--receipts cannot apply'],
    [['--allow-unmodelled', 'lass'], 2, '--allow-unmodelled cannot apply'],
    [['--allow-other-corpus'], 2, '--allow-other-corpus cannot apply'],
    [['--vm', 'a', '--vm', 'b', '--vm', 'c'], 2, '--vm is given more than twice'],
  ])('%j', async (options, expected, sentence) => {
    const packed = await packedCase();
    const { status, stdout, stderr } = await rewalk('compare', ...options, packed, packed);
    expect([status, stdout]).toEqual([expected, '']);
    expect(stderr).toContain(sentence);
  });

  test('what is no trace, folders of traces, what is not there', async () => {
    const packed = await packedCase();
    expect((await rewalk('compare', packed, file('junk', 'junk'))).status).toBe(3);
    expect((await rewalk('compare', packed, `${packed}.no`)).stderr).toContain('E_NO_SUCH_FILE');
    expect((await rewalk('compare', emptyFolder('nothing'), packed)).status).toBe(3);
    expect((await rewalk('compare', '-', '-')).status).toBe(2);
  });

  test('a trace that was cut short is compared as far as it goes, exit status 3', async () => {
    const packed = await packedCase();
    const { readFileSync } = await import('node:fs');
    const bytes = readFileSync(packed);
    const cut = file('cut.rwt', bytes.subarray(0, bytes.length - 40));
    const { status, stderr } = await rewalk('compare', packed, cut);
    expect(status).toBe(3);
    expect(stderr).toContain('E_CUT_SHORT');
  });
});
