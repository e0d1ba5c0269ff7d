import { describe, expect, test } from 'vitest';
import {
  access,
  countsOf,
  divergenceOf,
  header,
  type Line,
  lands,
  READS,
  replay,
  state,
  store,
  TABLES,
  TO_PAGE_5,
  WALKS,
} from './small-traces.ts';

const BEGIN = [header(), state(), ...TABLES];
const OLD = lands('read', '0x5008', '0x5008');
const NEW = lands('read', '0x5008', '0x6008');
/** Something that matches, so that a trace has compared something. */
const ANCHOR: Line[] = [store('0x4100', '0x20067'), lands('read', '0x20000', '0x20000')];
const REMAP = store('0x4028', '0x6067');
const INVLPG: Line = { invlpg: '0x5000' };

/** What became of the last step: how it was judged, or how it is counted. */
function judged(...steps: Line[]): string {
  const { receipt, divergences, verdict } = replay([...BEGIN, ...ANCHOR, ...steps]);
  if (receipt.diverged > 1) throw new Error(`${receipt.diverged} divergences`);
  const judgement = divergences[0]?.judgement;
  if (judgement !== undefined) {
    const at = judgement.kind === 'stale-after-invalidation' ? ` at ${judgement.invalidatedAt}` : '';
    return `${judgement.kind}${at}`;
  }
  const counts = [receipt.staleAllowed && 'stale-allowed', receipt.undetermined && 'undetermined'];
  return counts.filter(Boolean).join(' and ') || verdict;
}

describe('a translation that memory does not support any more', () => {
  test('is allowed until something invalidates it', () => {
    expect(judged(REMAP, OLD)).toBe('stale-allowed');
    const { verdict, receipt } = replay([...BEGIN, ...ANCHOR, REMAP, OLD]);
    expect([verdict, receipt.staleAllowed, receipt.diverged]).toEqual(['match', 1, 0]);
  });

  test('is not after INVLPG, whose step is named, and not the one of another page before it', () => {
    // Steps 0 to 3 are the tables, 4 and 5 the anchor, 6 the change.
    expect(judged(REMAP, { invlpg: '0x7000' }, INVLPG, { invlpg: '0x5000' }, OLD)).toBe(
      'stale-after-invalidation at 8',
    );
    expect(judged(REMAP, { invlpg: '0x7000' }, OLD)).toBe('stale-allowed');
  });

  test('an invalidation before the change takes nothing away', () => {
    expect(judged(INVLPG, REMAP, OLD)).toBe('stale-allowed');
  });

  test('of the values that an entry had, those since the invalidation may be used', () => {
    const twice = [REMAP, INVLPG, store('0x4028', '0x7067')];
    expect(judged(...twice, NEW)).toBe('stale-allowed');
    expect(judged(...twice, OLD)).toBe('stale-after-invalidation at 7');
    expect(judged(...twice, lands('read', '0x5008', '0x8008'))).toBe('diverged');
  });

  test('a value that the entry never had is no excuse', () => {
    expect(judged(REMAP, lands('read', '0x5008', '0x7008'))).toBe('diverged');
  });

  test('values may be mixed across levels', () => {
    const remapped = [store('0x3000', '0x9067'), store('0x9028', '0x8067'), REMAP];
    const to = (physical: string): string => judged(...remapped, lands('read', '0x5008', physical));
    expect(to('0x8008')).toBe('match');
    // The old PDE with the old PTE, and with the new one.
    expect([to('0x5008'), to('0x6008')]).toEqual(['stale-allowed', 'stale-allowed']);
    expect(to('0x9008')).toBe('diverged');
  });

  test('an entry that was not present was never cached', () => {
    const absent = [store('0x4030', '0x6067'), access('read', '0x6000', { expect: [fault('0x0', '0x6000')] })];
    expect(judged(...absent)).toBe('diverged');
    expect(judged(store('0x4030', '0x6060'), store('0x4030', '0x6067'), absent[1]!)).toBe('diverged');
  });

  test('a fault may be spurious after a right was given, until the page is invalidated', () => {
    const given = [store('0x4030', '0x6065'), store('0x4030', '0x6067')];
    const spurious = access('write', '0x6000', { user: true, expect: [fault('0x7', '0x6000')] });
    expect(judged(...given, spurious)).toBe('stale-allowed');
    expect(judged(...given, { invlpg: '0x6000' }, spurious)).toBe('stale-after-invalidation at 8');
    expect(judged(given[1]!, spurious)).toBe('diverged');
  });
});

function fault(error: string, cr2: string): Line {
  return { exception: '#PF', error, cr2 };
}

describe('whose translations an invalidation removes', () => {
  const PCIDE = '0x20020';
  const pcid = (...steps: Line[]): string => judged({ 'register-write': 'cr4', value: PCIDE }, ...steps);
  const cr3 = (value: string): Line => ({ 'register-write': 'cr3', value });

  test('MOV CR3 those of the PCID it loads, and none with bit 63', () => {
    expect(pcid(cr3('0x1001'), REMAP, cr3('0x1001'), OLD)).toBe('stale-after-invalidation at 9');
    expect(pcid(cr3('0x1001'), REMAP, cr3('0x8000000000001001'), OLD)).toBe('stale-allowed');
    expect(pcid(cr3('0x1001'), REMAP, cr3('0x1002'), cr3('0x8000000000001001'), OLD)).toBe('stale-allowed');
  });

  test('INVPCID those of the PCID it names, or of all', () => {
    const invpcid = (fields: Line): Line => ({ invpcid: '0x0', ...fields });
    const stale = [cr3('0x1001'), REMAP];
    expect(pcid(...stale, invpcid({ type: 1, pcid: '0x2' }), OLD)).toBe('stale-allowed');
    expect(pcid(...stale, invpcid({ type: 1, pcid: '0x1' }), OLD)).toBe('stale-after-invalidation at 9');
    expect(pcid(...stale, invpcid({ type: 2 }), OLD)).toBe('stale-after-invalidation at 9');
  });

  test('MOV CR3 spares global pages, and only while CR4.PGE is set', () => {
    const global = [store('0x4028', '0x5167'), REMAP, cr3('0x1000'), OLD];
    expect(judged({ 'register-write': 'cr4', value: '0xa0' }, ...global)).toBe('stale-allowed');
    expect(judged(...global)).toBe('stale-after-invalidation at 8');
  });

  describe('under EPT', () => {
    const ept = [
      header({ processor: { vendor: 'intel', maxphyaddr: 40, features: ['pae', 'nx'], eptVpidCap: '0x6114141' } }),
      state({ eptp: '0x1001e', guest_mode: '0x1', secondary_controls: '0x22', vpid: '0x1' }),
      ...[store('0x10000', '0x11007'), store('0x11000', '0x12007'), store('0x12000', '0x13007')],
      ...[1, 2, 3, 4, 5].map((page) => store(`0x130${(8 * page).toString(16).padStart(2, '0')}`, `0x10${page}037`)),
      ...[store('0x101000', '0x2067'), store('0x102000', '0x3067'), store('0x103000', '0x4067')],
      store('0x104028', '0x5067'),
      lands('read', '0x5008', '0x105008'),
    ];
    const away = store('0x13028', '0x106037');
    const old = lands('read', '0x5010', '0x105010');
    const judgedAfter = (...steps: Line[]): string => {
      const { receipt, divergences } = replay([...ept, away, ...steps, old]);
      return divergences[0]?.judgement.kind ?? (receipt.staleAllowed === 1 ? 'stale-allowed' : 'match');
    };

    test('INVLPG and MOV CR3 leave what EPT translated, INVEPT of that pointer or of all does not', () => {
      expect(judgedAfter()).toBe('stale-allowed');
      expect(judgedAfter({ invlpg: '0x5000' })).toBe('stale-allowed');
      expect(judgedAfter({ 'register-write': 'cr3', value: '0x1000' })).toBe('stale-allowed');
      expect(judgedAfter({ invept: '0x2001e', type: 1 })).toBe('stale-allowed');
      expect(judgedAfter({ invept: '0x1001e', type: 1 })).toBe('stale-after-invalidation');
      expect(judgedAfter({ invept: '0x0', type: 2 })).toBe('stale-after-invalidation');
    });

    test('INVVPID removes what the guest translated, of its VPID', () => {
      const remapped = [...ept, store('0x104028', '0x4067')];
      const kind = (vpid: string): string | undefined =>
        replay([...remapped, { invvpid: '0x0', type: 1, vpid }, old]).divergences[0]?.judgement.kind;
      expect(kind('0x2')).toBeUndefined();
      expect(kind('0x1')).toBe('stale-after-invalidation');
    });
  });
});

describe('an entry whose accessed bit was not set', () => {
  const readsBack = (value: string): Line =>
    access('read', '0x5008', { expect: [TO_PAGE_5, { 'entry-after': '0x4028', level: 1, value }] });

  test('is allowed where an earlier value, with A, may still be cached', () => {
    expect(judged(store('0x4028', '0x5047'), readsBack('0x5047'))).toBe('stale-allowed');
    expect(judged(store('0x4028', '0x5047'), INVLPG, readsBack('0x5047'))).toBe('stale-after-invalidation at 7');
    expect(judged(store('0x4028', '0x5047'), INVLPG, readsBack('0x5067'))).toBe('match');
  });

  test('is a divergence where the entry never had it', () => {
    expect(judged(store('0x4028', '0x0'), INVLPG, store('0x4028', '0x5047'), readsBack('0x5047'))).toBe(
      'stale-after-invalidation at 7',
    );
    const never = [header(), state(), ...TABLES.slice(0, 3), store('0x4028', '0x5047'), readsBack('0x5047')];
    expect(divergenceOf(never).judgement.kind).toBe('diverged');
  });

  test('other bits than A and D are never a matter of staleness', () => {
    expect(judged(store('0x4028', '0x5047'), readsBack('0x5045'))).toBe('diverged');
    // Nor where the outcome is.
    const stale = access('read', '0x5008', {
      expect: [TO_PAGE_5, { 'entry-after': '0x4028', level: 1, value: '0xbad' }],
    });
    expect(judged(REMAP, stale)).toBe('diverged');
  });

  test('what was recorded is taken over, so that the next step does not diverge for the same reason', () => {
    const left = { 'entry-after': '0x4028', level: 1, value: '0x5047' };
    const asked: Line = { 'nested-exit': 'vmx', expect: [left] };
    expect(judged(store('0x4028', '0x5047'), readsBack('0x5047'), asked)).toBe('stale-allowed');
  });
});

describe('a recorder that does not declare when it writes A and D', () => {
  const unspecified = (pte: string, after: string, type = 'read'): string => {
    const { verdict, divergences } = replay([
      header({ adPolicy: undefined }),
      state(),
      ...TABLES.slice(0, 3),
      store('0x4028', pte),
      access(type, '0x5008', { user: true, expect: outcome(pte, type, after) }),
    ]);
    return divergences[0]?.judgement.kind ?? verdict;
  };
  const outcome = (pte: string, type: string, after: string): Line[] => [
    (Number(pte) & 2) === 0 && type === 'write' ? fault('0x7', '0x5008') : TO_PAGE_5,
    { 'entry-after': '0x4028', level: 1, value: after },
  ];

  test('may have left A alone, or set it, in a walk that faults', () => {
    expect(unspecified('0x5005', '0x5005', 'write')).toBe('match');
    expect(unspecified('0x5005', '0x5025', 'write')).toBe('match');
    expect(unspecified('0x5005', '0x5004', 'write')).toBe('diverged');
  });

  test('must have set A, and D of a write, in one that translates', () => {
    expect(unspecified('0x5007', '0x5027')).toBe('match');
    expect(unspecified('0x5007', '0x5067', 'write')).toBe('match');
    expect(unspecified('0x5007', '0x5007', 'write')).toBe('diverged');
  });

  test('never sets D for a read', () => {
    expect(unspecified('0x5007', '0x5067')).toBe('diverged');
  });

  test('may have written them at any time, but only in entries that were read, and nothing else', () => {
    const [pml4e, pdpte, pde] = READS as [Line, Line, Line];
    const pte = { element: '0x4028', level: 1, value: '0x5007' };
    const write = { 'entry-write': '0x4028', level: 1, value: '0x5027' };
    const kind = (...expected: Line[]): string => {
      const { verdict, divergences } = replay([
        header({ adPolicy: undefined, observable: WALKS }),
        state(),
        ...TABLES.slice(0, 3),
        store('0x4028', '0x5007'),
        access('read', '0x5008', { walked: true, expect: expected }),
      ]);
      return divergences[0]?.judgement.kind ?? verdict;
    };
    expect(kind(pml4e, pdpte, pde, pte, write, TO_PAGE_5)).toBe('match');
    expect(kind(pml4e, pdpte, pde, pte, TO_PAGE_5, write)).toBe('match');
    expect(kind(pml4e, pdpte, pde, pte, { ...write, value: '0x502f' }, TO_PAGE_5)).toBe('diverged');
    expect(kind(pml4e, pdpte, pde, pte, { ...write, 'entry-write': '0x4030' }, TO_PAGE_5)).toBe('diverged');
    expect(kind(pml4e, pdpte, pte, write, TO_PAGE_5)).toBe('diverged');
  });

  test('what it read was learned, not predicted, also behind a write that stands elsewhere', () => {
    const known: Line = { knowledge: true, provenance: 'inferred' };
    const [pml4e, pdpte, pde] = READS as [Line, Line, Line];
    const write = { 'entry-write': '0x1000', level: 4, value: '0x2067' };
    const result = replay([
      header({ adPolicy: undefined, observable: WALKS }),
      state(),
      store('0x1000', '0x2047', known),
      ...TABLES.slice(1).map((line) => ({ ...line, ...known })),
      access('read', '0x5008', {
        walked: true,
        expect: [{ ...pml4e, value: '0x2047' }, write, pdpte, pde, READS[3]!, TO_PAGE_5],
      }),
    ]);
    expect(result.verdict).toBe('match');
    expect(countsOf(result)).toEqual({ element: [4, 8, 4], 'entry-write': [1, 3, 0], translated: [1, 3, 0] });
  });

  test('a declared policy is held to', () => {
    const declared = [header(), state(), ...TABLES.slice(0, 3), store('0x4028', '0x5005')];
    const leaving = (value: string): Line =>
      access('write', '0x5008', {
        user: true,
        expect: [fault('0x7', '0x5008'), { 'entry-after': '0x4028', level: 1, value }],
      });
    expect(replay([...declared, leaving('0x5005')]).verdict).toBe('match');
    expect(divergenceOf([...declared, leaving('0x5025')]).judgement.kind).toBe('diverged');
  });

  test('a step that matches after all is counted once', () => {
    const result = replay([
      header({ adPolicy: undefined }),
      state(),
      ...TABLES.slice(0, 3),
      store('0x4028', '0x5005'),
      access('write', '0x5008', {
        user: true,
        expect: [fault('0x7', '0x5008'), { 'entry-after': '0x4028', level: 1, value: '0x5025' }],
      }),
    ]);
    expect(countsOf(result)).toEqual({ exception: [1, 3, 0], 'entry-after': [1, 1, 0] });
  });
});

describe("the machine's own TLB", () => {
  test('where it serves what was recorded, though memory does not: stale, allowed', () => {
    expect(judged(OLD, REMAP, OLD)).toBe('stale-allowed');
  });

  test('where the recorded processor walked afresh, a walk of memory as it stands is made', () => {
    const result = replay([...BEGIN, OLD, REMAP, NEW, NEW]);
    expect([result.verdict, result.receipt.staleAllowed]).toEqual(['match', 0]);
    expect(countsOf(result)).toEqual({ translated: [3, 3, 0] });
  });

  test('the fresh walk leaves its traces in memory', () => {
    const cleared = store('0x4028', '0x6007');
    const reread = access('read', '0x5008', {
      expect: [
        { translated: '0x6008', page: '4k', guestPhysical: '0x6008' },
        { 'entry-after': '0x4028', level: 1, value: '0x6027' },
      ],
    });
    expect(replay([...BEGIN, OLD, cleared, reread]).verdict).toBe('match');
    expect(replay([...BEGIN, OLD, cleared, lands('read', '0x5008', '0x7008')]).verdict).toBe('diverged');
  });

  test('a walk that was seen is made, whatever the TLB holds', () => {
    const walked = access('read', '0x5008', { walked: true, expect: [TO_PAGE_5] });
    expect(judged(OLD, REMAP, walked)).toBe('diverged');
  });
});

describe('who has no stale translations', () => {
  test("software that walks for the guest: KVM's instruction emulator", () => {
    expect(judged(REMAP, { ...OLD, software: true })).toBe('diverged');
    expect(judged(REMAP, { ...NEW, software: true })).toBe('match');
  });

  test('accesses that stand for themselves', () => {
    const independent = [header({ independent: true, observable: WALKS }), state(), ...TABLES, REMAP, OLD];
    expect(divergenceOf(independent).judgement.kind).toBe('diverged');
  });

  test('steps other than accesses', () => {
    expect(judged({ invlpg: '0x5000', expect: [{ 'entry-after': '0x4028', level: 1, value: '0x5047' }] })).toBe(
      'diverged',
    );
  });
});

describe('where the past could not be kept', () => {
  const values = (count: number): Line[] =>
    Array.from({ length: count }, (_, i) => store('0x4028', `0x${(0x100 + i).toString(16)}067`));

  test('it is undetermined whether an old value may be used', () => {
    const { verdict, receipt } = replay([...BEGIN, ...ANCHOR, ...values(70), OLD]);
    expect([verdict, receipt.undetermined, receipt.staleAllowed]).toEqual(['undetermined', 1, 0]);
  });

  test('and it is not, where all of it was kept', () => {
    expect(judged(...values(60), OLD)).toBe('stale-allowed');
    expect(judged(...values(60), lands('read', '0x5008', '0x9008'))).toBe('diverged');
  });

  test('an undetermined step predicts nothing', () => {
    const { receipt, verdict } = replay([...BEGIN, ...values(70), OLD]);
    expect([verdict, receipt.observationsPredicted, receipt.undetermined]).toEqual(['undetermined', 0, 1]);
  });

  test('it is no match unless that is allowed by name, or the trace is partial', () => {
    const good = lands('read', '0x5008', '0x9008');
    const steps = [...ANCHOR, ...values(70), OLD, store('0x4028', '0x9067'), { invlpg: '0x5000' }, good];
    const verdict = (lines: readonly Line[], allowed: readonly string[] = []): string =>
      replay([...lines, ...steps], { allowUnmodelled: allowed }).verdict;
    expect([verdict(BEGIN), verdict(BEGIN, ['lam']), verdict(BEGIN, ['undetermined'])]).toEqual([
      ...['undetermined', 'undetermined', 'match'],
    ]);
    const partial = [header({ unknown: ['memory'] }), state(), ...TABLES];
    expect(verdict(partial)).toBe('match');
    const bad = lands('read', '0x20000', '0x7000');
    expect(replay([...BEGIN, ...steps, bad]).verdict).toBe('diverged');
  });
});
