/** Two guests in one trace, which announce nothing: whose events they are, and what is concluded of them. */

import { describe, expect, it } from 'vitest';
import type { TraceEvent, TraceEventFields } from '../../../src/import/ftrace/event.ts';
import { ofOneTask, taskOf } from '../../../src/import/kvm/which-task.ts';
import { parseMark } from '../../../src/import/kvm-guest/marks.ts';
import { element, emulate, entry, exit, mark, marked, recording, told, trace, walk } from './events.ts';

const START = 'VMM start blob=/bin/g64.bin bytes=4096 mode=4';
const CFG = 'CFG wp cr0=80010011 cr3=200000 cr4=20 efer=d00';

function of(task: number, ...events: readonly TraceEventFields[]): TraceEvent[] {
  return trace(...events).map((event) => ({ ...event, pid: task }));
}

const log = [START, CFG].map((text, i) => parseMark(text, i + 1));

describe('the task of a log', () => {
  it('is the one that wrote its marks', async () => {
    const other = of(8, mark(START), mark('L1 skinit vec=6'));
    expect(await taskOf([...other, ...of(9, mark(START), mark(CFG))], log)).toBe(9);
  });

  it('is not guessed', async () => {
    const two = [...of(8, mark(START)), ...of(9, mark(START))];
    await expect(taskOf(two, log)).rejects.toMatchObject({ code: 'E_IMPORT' });
    await expect(taskOf([], log)).rejects.toMatchObject({ code: 'E_IMPORT' });
  });
});

it('a survey looks at the task that enters a guest first', async () => {
  const events = [...of(8, mark('a')), ...of(9, mark('b'), entry(), mark('c')), ...of(8, entry(), mark('d'))];
  const left: string[] = [];
  for await (const event of ofOneTask(events)) left.push(event.name === 'mark' ? event.text : event.name);
  expect(left).toEqual(['b', 'kvm_entry', 'c']);
});

/** A guest of 64 bits that has turned paging on; no mark stands ahead of what it does. */
const booted = [
  mark(START),
  entry(),
  exit('write_cr4', 0x3000n),
  emulate(0x3000n),
  entry(0x3003n),
  exit('cr0_sel_write', 0x3010n),
  emulate(0x3010n),
  entry(0x3013n),
  ...marked(CFG),
];

async function steps(...events: readonly TraceEventFields[]): Promise<readonly string[]> {
  const result = await told(trace(...booted, ...events), recording([CFG], 'g64.bin', ['kvm_amd/parameters/npt Y']));
  return result.steps;
}

describe('a guest that announces nothing', () => {
  it('has written what the next mark tells of a register', async () => {
    const writes = (await steps()).filter((step) => step.startsWith('register-write'));
    expect(writes.map((step) => step.split(' ').slice(-1)[0])).toEqual(['20', '80010011']);
  });

  it('has stored the entry that it reads before an access, and the bits that it reads behind it', async () => {
    const all = await steps(
      ...marked('T 1 mtx k=r u=0 ac=0 va=40001040 pte@209008=301007 cfg=wp'),
      ...marked('R 1 ok pte=301027'),
    );
    const found = all.filter((step) => / (209008|40001040) /.test(step));
    expect(found.map((step) => step.replace(/^(\w+) \S+/, '$1'))).toEqual([
      'store 209008 301007',
      'access 40001040 0: completed',
      'store 209008 301027',
    ]);
  });

  it('has another root by the time that a walk begins there', async () => {
    const all = await steps(
      ...marked('T 1 mtx k=r u=0 ac=0 va=40001040 pte@230000=231027 cfg=wp'),
      exit('msr', 0x4000n),
      walk(0x4000n, 0x10),
      element(4, 0x23_1027n),
      entry(0x4002n),
      ...marked('CR3 switch to 230000'),
    );
    const at = all.findIndex((step) => step.startsWith('software-walk'));
    expect(all.slice(0, at).findLast((step) => step.startsWith('register-write'))).toMatch(/ 230000$/);
  });
});
