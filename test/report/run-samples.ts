/** Runs for the tests of report formats; one whose every text is an attack on the medium that it is put into. */

import type { ReportCase, ReportDifference, ReportRun } from '../../src/report/run.ts';

/** Ends tags, attributes, comments, CDATA, lines, fences, commands and directives of all media, and controls terminals. */
export const HOSTILE =
  '</script><script>document.title="owned"</script><img src=x onerror="alert(1)">"\'&lt; ]]> --> `````\n::error::x\r\n##[error]y\nnot ok 1 - z # TODO\n...\n---\u001b[2J\u0000\u0008\u009b31m\u202e\u2028\ud800\ufffe\uffff %0A%25 @team | [a](javascript:alert(1)) \\';

export function difference(changes: Partial<ReportDifference> = {}): ReportDifference {
  return {
    step: 12,
    where: 'walk.log line 3',
    judgement: 'diverged',
    stimulus: 'read user cpl3 0x1000 len 8',
    mode: '4-level',
    cause: 'the PTE was read as 0x7, memory holds 0x5',
    group: 'user read: element (bit 1)',
    labels: ['recorded', 'replayed'],
    places: [
      { state: 'equal', a: [{ text: 'guest PDE [0x2000] = 0x3007', words: [] }], b: [] },
      {
        state: 'differs',
        a: [{ text: 'guest PTE [0x3000] = 0x7', words: [{ text: '0x7', lines: ['PTE 0x7', '1  w  0x1  writable'] }] }],
        b: [{ text: 'guest PTE [0x3000] = 0x5', words: [] }],
      },
    ],
    registers: [{ name: 'cr3', value: '0x1000', short: 'gfn 0x1', lines: ['CR3 0x1000: gfn 0x1'] }],
    walks: [],
    text: ['step 12: diverged', '  cause: the PTE was read as 0x7, memory holds 0x5'],
    ...changes,
  };
}

export function reportCase(changes: Partial<ReportCase> = {}): ReportCase {
  return {
    file: 'traces/a.rwt',
    title: 'a title',
    outcome: 'pass',
    verdict: 'match',
    summary: 'match traces/a.rwt: 100 steps',
    reason: '',
    steps: 100,
    compared: 50,
    seconds: 1.25,
    receipt: ['machine  bare'],
    differing: 0,
    differences: [],
    groups: [],
    ...changes,
  };
}

export function reportRun(cases: readonly ReportCase[], changes: Partial<ReportRun> = {}): ReportRun {
  return {
    command: 'rewalk replay',
    version: '1.2.3',
    unit: 'observations predicted',
    startedAt: new Date('2026-01-02T03:04:05.678Z'),
    seconds: 2.5,
    cases,
    totals: ['2 traces, 200 steps'],
    faults: [],
    exitStatus: 0,
    ...changes,
  };
}

/** One of each outcome. */
export const MIXED = reportRun(
  [
    reportCase(),
    reportCase({
      file: 'traces/b.rwt',
      outcome: 'fail',
      verdict: 'diverged',
      reason: 'step 12: the PTE was read as 0x7, memory holds 0x5',
      differing: 3,
      differences: [difference()],
      groups: [
        { group: 'user read: element (bit 1)', count: 2, first: 12 },
        { group: 'user write: element (bit 1)', count: 1, first: 40 },
      ],
    }),
    reportCase({ file: 'other/c.rwt', outcome: 'error', verdict: 'E_CORRUPT', reason: 'the file is damaged' }),
    reportCase({ file: 'other/d.rwt', outcome: 'skip', verdict: 'skipped', reason: 'cannot differ' }),
  ],
  { exitStatus: 3 },
);

/** The same from a hostile trace. */
export const ATTACK = reportRun(
  [
    reportCase({
      file: `dir/${HOSTILE}/x.rwt`,
      title: HOSTILE,
      outcome: 'fail',
      verdict: HOSTILE,
      summary: HOSTILE,
      reason: HOSTILE,
      receipt: [HOSTILE],
      differing: 1,
      differences: [
        difference({
          where: HOSTILE,
          judgement: HOSTILE,
          stimulus: HOSTILE,
          mode: HOSTILE,
          cause: HOSTILE,
          group: HOSTILE,
          labels: [HOSTILE, HOSTILE],
          places: [{ state: 'differs', a: [{ text: HOSTILE, words: [] }], b: [{ text: HOSTILE, words: [] }] }],
          registers: [{ name: HOSTILE, value: HOSTILE, short: HOSTILE, lines: [HOSTILE] }],
          text: [HOSTILE],
        }),
      ],
      groups: [
        { group: HOSTILE, count: 1, first: 12 },
        { group: 'other', count: 1, first: 13 },
      ],
    }),
    reportCase({ file: HOSTILE, outcome: 'skip', reason: HOSTILE }),
    reportCase({ file: HOSTILE, outcome: 'error', verdict: 'E_IO', reason: HOSTILE }),
  ],
  { totals: [HOSTILE], faults: [HOSTILE], exitStatus: 1 },
);
