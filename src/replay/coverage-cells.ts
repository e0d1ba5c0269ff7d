/**
 * The cells of the model that a corpus can reach: check × level × context × outcome. The list is closed, and numbers are
 * stable: results files hold them, so that families are only ever added at the end. Cells that no trace can reach stay
 * listed, with the reason.
 *
 * What a context is:
 *
 * | context | who checks |
 * | --- | --- |
 * | `processor` | instructions and modes, as steps tell them |
 * | `tlb` | the processor's cached translations, KVM's flushes of them included |
 * | `cpuWalk` | the processor's walk of CR3's tables (with shadow paging: of KVM's) |
 * | `tdpWalk` | the processor's walk of EPT or NPT tables (`ept-`, `npt-`), the guest's or KVM's |
 * | `kvm.cpuWalk`, `kvm.nestedCpuWalk`, `kvm.tdpWalk` | KVM's walks in software: CR3's tables; an L2's; L1's second stage |
 * | `rootMmu.tdp`, `rootMmu.direct`, `rootMmu.shadow`, `guestMmu` | KVM's MMUs: the TDP MMU, the older direct one, shadows |
 * | `kvm` | the rest of KVM: requests, injections, nesting, what its host does |
 *
 * A rule of a check (`reserved-address`, `rights-smep`) counts as failed only where it alone was broken: an entry that is
 * wrong in two ways tells neither from the other.
 */

export const COVERAGE_CONTEXTS = [
  'processor',
  'tlb',
  'cpuWalk',
  'tdpWalk',
  'kvm.cpuWalk',
  'kvm.nestedCpuWalk',
  'kvm.tdpWalk',
  'rootMmu.tdp',
  'rootMmu.direct',
  'rootMmu.shadow',
  'guestMmu',
  'kvm',
] as const;

export type CoverageContext = (typeof COVERAGE_CONTEXTS)[number];

export interface CoverageCell {
  /** Stable. */
  readonly number: number;
  readonly context: CoverageContext;
  readonly check: string;
  /** Paging level, 1 PTE to 5 PML5E; 0: the check has none. */
  readonly level: number;
  readonly outcome: string;
  /** `cpuWalk/present/l4/fail`. */
  readonly name: string;
  /** Why no trace can reach it; undefined: one can. */
  readonly unreachable: string | undefined;
}

interface Family {
  readonly context: CoverageContext;
  readonly check: string;
  /** Empty: the check has no level. */
  readonly levels: readonly number[];
  readonly outcomes: readonly string[];
  /** By `outcome`, or `l4/outcome`. */
  readonly unreachable: Readonly<Record<string, string>>;
}

const NONE: readonly number[] = [];
const LEAVES = [1, 2, 3];
const ALL = [1, 2, 3, 4, 5];
const FOUR = [1, 2, 3, 4];
const CHECKED = ['pass', 'fail'];
const SET = ['set', 'was-set'];

function family(
  context: CoverageContext,
  check: string,
  levels: readonly number[],
  outcomes: readonly string[],
  unreachable: Readonly<Record<string, string>> = {},
): Family {
  return { context, check, levels, outcomes, unreachable };
}

/** The rules of x86 rights, each at the leaf's level. */
const X86_RIGHTS: readonly (readonly [check: string, outcomes: readonly string[]])[] = [
  ['rights', CHECKED],
  ['rights-user', CHECKED],
  ['rights-write', ['pass', 'fail', 'fail-wp', 'pass-wp0']],
  ['rights-fetch', CHECKED],
  ['rights-smep', ['fail', 'pass-off']],
  ['rights-smap', ['fail', 'pass-off', 'pass-ac']],
  ['rights-key', ['pass', 'fail']],
];

function x86Rights(context: CoverageContext): Family[] {
  return X86_RIGHTS.map(([check, outcomes]) => family(context, check, LEAVES, outcomes));
}

/** What L1's second stage cannot be asked, by check and outcome. */
const NO_SUCH_RIGHTS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'rights-key': { pass: 'a second stage has no protection keys', fail: 'a second stage has no protection keys' },
  'rights-smap': {
    fail: 'SMAP is no matter of a second stage',
    'pass-off': 'SMAP is no matter of a second stage',
    'pass-ac': 'SMAP is no matter of a second stage',
  },
  'rights-smep': { 'pass-off': 'without GMET every access to a second stage is a user access' },
  'rights-write': { 'pass-wp0': "a second stage is walked as if CR0.WP were set, which it is in L1's NPT role" },
};

function softwareWalk(context: CoverageContext): Family[] {
  const second = context === 'kvm.tdpWalk';
  const formats = second
    ? ['pae', '32-bit', '4-level', '5-level', 'ept-4', 'ept-5']
    : ['32-bit', 'pae', '4-level', '5-level'];
  return [
    family(context, 'format', NONE, formats),
    family(context, 'present', ALL, CHECKED),
    family(context, 'memslot', ALL, ['fail']),
    family(context, 'reserved', ALL, CHECKED),
    ...X86_RIGHTS.map(([check, outcomes]) =>
      family(context, check, LEAVES, outcomes, second ? (NO_SUCH_RIGHTS[check] ?? {}) : {}),
    ),
    family(context, 'accessed', ALL, SET),
    family(context, 'dirty', LEAVES, SET),
    ...(context === 'kvm.nestedCpuWalk'
      ? [family(context, 'second-of-table', ALL, CHECKED), family(context, 'second-of-final', NONE, CHECKED)]
      : []),
  ];
}

const BUILDS_NO_TABLE = 'tables of this MMU shadow no guest table';

function mmu(context: CoverageContext): Family[] {
  const shadow = context === 'rootMmu.shadow' || context === 'guestMmu';
  const tdpMmu = context === 'rootMmu.tdp';
  const notShadow = (...outcomes: readonly string[]): Readonly<Record<string, string>> =>
    shadow ? {} : Object.fromEntries(outcomes.map((outcome) => [outcome, BUILDS_NO_TABLE]));
  const without = (reason: string, ...outcomes: readonly string[]): Readonly<Record<string, string>> =>
    Object.fromEntries(outcomes.map((outcome) => [outcome, reason]));
  return [
    family(context, 'fault', NONE, ['retry', 'emulate', 'fixed', 'spurious']),
    family(
      context,
      'error-code',
      NONE,
      ['absent-read', 'absent-write', 'absent-fetch', 'rights-read', 'rights-write', 'rights-fetch', 'reserved'],
      shadow ? {} : without('KVM builds no page here that may be written or executed and not read', 'rights-read'),
    ),
    family(
      context,
      'root',
      NONE,
      ['loaded', 'refused', 'new-pgd-hit', 'new-pgd-miss', 'current-freed', 'previous-freed', 'synchronised'],
      {
        ...(shadow
          ? {}
          : {
              refused: "a direct root is no frame of the guest's: it cannot be missing",
              synchronised: BUILDS_NO_TABLE,
            }),
      },
    ),
    family(
      context,
      'page',
      FOUR,
      ['created', 'found'],
      tdpMmu ? without('the TDP MMU finds tables by walking down, never by frame', 'found') : {},
    ),
    family(
      context,
      'page-5',
      [5],
      ['created', 'found'],
      tdpMmu ? without('the TDP MMU finds tables by walking down, never by frame', 'found') : {},
    ),
    family(context, 'zap', ALL, ['zapped', 'zapped-unsync'], {
      ...notShadow('zapped-unsync'),
      ...Object.fromEntries(
        [2, 3, 4, 5].map((level) => [`l${level}/zapped-unsync`, 'only tables of level 1 may be out of step']),
      ),
    }),
    family(context, 'unsync', [1], ['marked'], notShadow('marked')),
    family(context, 'sync', FOUR, ['synchronised'], {
      ...notShadow('synchronised'),
      ...Object.fromEntries(
        [2, 3, 4].map((level) => [`l${level}/synchronised`, 'only tables of level 1 may be out of step']),
      ),
    }),
    family(
      context,
      'spte',
      LEAVES,
      ['made', 'made-read-only', 'made-no-execute', 'changed', 'removed', 'requested'],
      shadow
        ? {}
        : {
            'l1/made-no-execute':
              'a direct page of 4 KiB has every right but to write; only huge pages may be kept from being executed',
          },
    ),
    family(context, 'spte-table', [2, 3, 4, 5], ['made', 'removed']),
    family(
      context,
      'fast-fault',
      NONE,
      ['fixed', 'spurious', 'refused', 'no-table'],
      shadow
        ? without('faults of a shadow MMU never take the fast path', 'fixed', 'spurious', 'refused', 'no-table')
        : without('a direct root has an entry for every address, if only in its own table', 'no-table'),
    ),
    family(context, 'mmio', NONE, ['marked', 'current', 'stale', 'handled', 'cached']),
    family(context, 'nx-huge', [2, 3], ['kept-small']),
    family(
      context,
      'split',
      [2, 3],
      ['split'],
      tdpMmu ? {} : without('huge pages are split before they are written to by the TDP MMU only', 'split'),
    ),
  ];
}

const AT_ONCE = 'what all vCPUs have to flush they flush at once: no request is left to be served';
const HOST_PAGES = 'VMRUN with nested paging and CR0.PG of the host clear is refused (APM vol. 2 15.25.3)';

const FAMILIES: readonly Family[] = [
  // Instructions and modes.
  family('processor', 'access', NONE, ['read', 'write', 'fetch', 'rmw', 'implicit', 'shadow-stack', 'software']),
  family('processor', 'gpa-access', NONE, CHECKED),
  family('processor', 'pg', NONE, ['on', 'off']),
  family('processor', 'wp', NONE, ['on', 'off']),
  family('processor', 'pse', NONE, ['on', 'off']),
  family('processor', 'pae', NONE, ['on', 'off']),
  family('processor', 'pge', NONE, ['on', 'off']),
  family('processor', 'pcide', NONE, ['on', 'off']),
  family('processor', 'smep', NONE, ['on', 'off']),
  family('processor', 'smap', NONE, ['on', 'off']),
  family('processor', 'pke', NONE, ['on', 'off']),
  family('processor', 'pks', NONE, ['on', 'off']),
  family('processor', 'la57', NONE, ['on', 'off']),
  family('processor', 'nxe', NONE, ['on', 'off']),
  family('processor', 'smm', NONE, ['on', 'off']),
  family('processor', 'register-write', NONE, [
    'cr0',
    'cr3',
    'cr3-keep',
    'cr3-task-switch',
    'cr4',
    'efer',
    'pkru',
    'pkrs',
  ]),
  family('processor', 'pdpte-load', NONE, ['loaded', 'refused']),
  family('processor', 'invlpg', NONE, ['done']),
  family('processor', 'invpcid', NONE, ['address', 'pcid', 'all', 'all-but-global']),
  family('processor', 'invept', NONE, ['eptp', 'all']),
  family('processor', 'invvpid', NONE, ['address', 'vpid', 'all', 'vpid-but-global']),
  family('processor', 'invlpga', NONE, ['done']),
  family('processor', 'eptp-switch', NONE, ['by-value', 'by-list']),
  family('processor', 'nested-entry', NONE, ['vmx', 'svm', 'tlb-control-1', 'tlb-control-3', 'tlb-control-7']),
  family('processor', 'nested-exit', NONE, ['vmx', 'svm']),
  family('processor', 'vcpu', NONE, ['switched']),
  // The TLB.
  family('tlb', 'lookup', NONE, ['hit', 'hit-stale', 'miss', 'hit-denied']),
  family('tlb', 'entry', NONE, ['4k', '2m', '4m', '1g', 'global', 'fractured']),
  family('tlb', 'drop', NONE, ['all', 'page', 'context']),
  family('tlb', 'kvm-flush', NONE, ['all', 'current', 'guest', 'address']),
  // The processor's walk of CR3's tables.
  family('cpuWalk', 'format', NONE, ['none', '32-bit', 'pae', '4-level', '5-level']),
  family('cpuWalk', 'canonical', NONE, ['fail-gp', 'fail-ss']),
  family('cpuWalk', 'present', ALL, CHECKED),
  family('cpuWalk', 'pdpte', NONE, ['register-present', 'register-absent', 'memory-present', 'memory-absent']),
  family('cpuWalk', 'reserved', ALL, CHECKED),
  family('cpuWalk', 'reserved-address', ALL, ['fail']),
  family('cpuWalk', 'reserved-nx', ALL, ['fail']),
  family('cpuWalk', 'reserved-page-size', [3, 4, 5], ['fail']),
  family('cpuWalk', 'reserved-bit-8', [4, 5], ['fail']),
  family('cpuWalk', 'reserved-large-page', [2, 3], ['fail']),
  family('cpuWalk', 'reserved-pae-high', [1, 2], ['fail']),
  family('cpuWalk', 'reserved-pdpte', [3], ['fail']),
  ...x86Rights('cpuWalk'),
  family('cpuWalk', 'rights-supervisor-key', LEAVES, CHECKED),
  family('cpuWalk', 'rights-shadow-stack', LEAVES, CHECKED),
  family('cpuWalk', 'withheld-user', ALL, ['fail']),
  family('cpuWalk', 'withheld-write', ALL, ['fail']),
  family('cpuWalk', 'withheld-execute', ALL, ['fail']),
  family('cpuWalk', 'accessed', ALL, SET),
  family('cpuWalk', 'dirty', LEAVES, SET),
  family('cpuWalk', 'second-of-table', ALL, CHECKED),
  family('cpuWalk', 'second-of-final', NONE, CHECKED),
  family('cpuWalk', 'second-of-write-back', NONE, CHECKED),
  // The processor's walk of EPT.
  family('tdpWalk', 'ept-present', ALL, CHECKED),
  family('tdpWalk', 'ept-misconfig', ALL, CHECKED),
  family('tdpWalk', 'ept-misconfig-write-only', ALL, ['fail']),
  family('tdpWalk', 'ept-misconfig-execute-only', ALL, ['fail']),
  family('tdpWalk', 'ept-misconfig-memory-type', LEAVES, ['fail']),
  family('tdpWalk', 'ept-misconfig-low-bits', [2, 3, 4, 5], ['fail']),
  family('tdpWalk', 'ept-misconfig-address', ALL, ['fail']),
  family('tdpWalk', 'ept-misconfig-large-page', [2, 3], ['fail']),
  family('tdpWalk', 'ept-read', LEAVES, CHECKED),
  family('tdpWalk', 'ept-write', LEAVES, CHECKED),
  family('tdpWalk', 'ept-fetch', LEAVES, [...CHECKED, 'pass-user-page', 'fail-user-page']),
  family('tdpWalk', 'ept-of-table', LEAVES, CHECKED),
  family('tdpWalk', 'ept-withheld-read', ALL, ['fail']),
  family('tdpWalk', 'ept-withheld-write', ALL, ['fail']),
  family('tdpWalk', 'ept-withheld-execute', ALL, ['fail']),
  family('tdpWalk', 'ept-accessed', ALL, [...SET, 'off']),
  family('tdpWalk', 'ept-dirty', LEAVES, [...SET, 'off']),
  family('tdpWalk', 'ept-pml', NONE, ['logged', 'full']),
  // The processor's walk of NPT.
  family('tdpWalk', 'npt-format', NONE, ['none', '32-bit', 'pae', '4-level', '5-level'], { none: HOST_PAGES }),
  family('tdpWalk', 'npt-present', ALL, CHECKED),
  family('tdpWalk', 'npt-reserved', ALL, CHECKED),
  family('tdpWalk', 'npt-reserved-address', ALL, ['fail']),
  family('tdpWalk', 'npt-reserved-nx', ALL, ['fail']),
  family('tdpWalk', 'npt-reserved-page-size', [3, 4, 5], ['fail']),
  family('tdpWalk', 'npt-reserved-bit-8', [4, 5], ['fail']),
  family('tdpWalk', 'npt-reserved-large-page', [2, 3], ['fail']),
  family('tdpWalk', 'npt-user', LEAVES, CHECKED),
  family('tdpWalk', 'npt-write', LEAVES, CHECKED),
  family('tdpWalk', 'npt-fetch', LEAVES, CHECKED),
  family('tdpWalk', 'npt-gmet', LEAVES, ['fail', 'pass-supervisor-page']),
  family('tdpWalk', 'npt-of-table', LEAVES, CHECKED),
  family('tdpWalk', 'npt-withheld-user', ALL, ['fail']),
  family('tdpWalk', 'npt-withheld-write', ALL, ['fail']),
  family('tdpWalk', 'npt-withheld-execute', ALL, ['fail']),
  family('tdpWalk', 'npt-accessed', ALL, SET),
  family('tdpWalk', 'npt-dirty', LEAVES, SET),
  // KVM's walks.
  ...softwareWalk('kvm.cpuWalk'),
  ...softwareWalk('kvm.nestedCpuWalk'),
  ...softwareWalk('kvm.tdpWalk'),
  family('kvm.tdpWalk', 'rights-read', LEAVES, CHECKED),
  // KVM's MMUs.
  ...mmu('rootMmu.tdp'),
  ...mmu('rootMmu.direct'),
  ...mmu('rootMmu.shadow'),
  ...mmu('guestMmu'),
  // The rest of KVM.
  family(
    'kvm',
    'request',
    NONE,
    ['free-obsolete-roots', 'mmu-sync', 'load-mmu-pgd', 'tlb-flush', 'tlb-flush-current', 'tlb-flush-guest'],
    { 'tlb-flush': AT_ONCE },
  ),
  family(
    'kvm',
    'served',
    NONE,
    ['free-obsolete-roots', 'mmu-sync', 'load-mmu-pgd', 'tlb-flush', 'tlb-flush-current', 'tlb-flush-guest'],
    { 'tlb-flush': AT_ONCE },
  ),
  family('kvm', 'in-force', NONE, ['rootMmu', 'guestMmu']),
  family('kvm', 'tag', NONE, ['l1', 'l2']),
  family('kvm', 'reset', NONE, ['context', 'unload']),
  family('kvm', 'zap-all', NONE, ['fast', 'everything']),
  family('kvm', 'write-protect', NONE, ['protected', 'nothing']),
  family('kvm', 'unprotect', NONE, ['zapped', 'nothing']),
  family('kvm', 'injection', NONE, [
    'page-fault',
    'page-fault-exit',
    'npf',
    'ept-violation',
    'ept-misconfig',
    'pml-full',
  ]),
  family('kvm', 'injected-for', NONE, ['cpuWalk', 'nestedCpuWalk', 'tdpWalk']),
  family('kvm', 'notifier', NONE, ['unmap', 'set-pte', 'age', 'test-age']),
  family('kvm', 'memslot', NONE, ['create', 'delete', 'move', 'flags']),
  family('kvm', 'dirty-log', NONE, ['started', 'stopped', 'collected']),
  family('kvm', 'mmio', NONE, ['read-unsatisfied', 'read', 'write', 'match-gva', 'match-gpa']),
  family('kvm', 'nested-entry', NONE, ['with-tdp', 'without-tdp', 'failed']),
  family('kvm', 'nested-exit', NONE, ['to-kvm', 'to-l1']),
  family('kvm', 'hypervisor-call', NONE, ['zap-all', 'destroy', 'set-cpuid', 'set-sregs']),
  family('kvm', 'invept', NONE, ['eptp', 'all', 'refused']),
  family('kvm', 'invvpid', NONE, ['address', 'vpid', 'all', 'vpid-but-global', 'refused']),
  family('kvm', 'invlpga', NONE, ['done']),
  family('kvm', 'eptp-switch', NONE, ['done', 'refused']),
];

const LEVELS = 6;

/** A check's cells, to be found quickly. */
export class CoverageCheck {
  private readonly base: number;
  private readonly outcomes: Readonly<Record<string, number>>;
  private readonly levelIndex: readonly number[];
  readonly family: Family;

  constructor(of: Family, base: number) {
    this.family = of;
    this.base = base;
    this.outcomes = Object.fromEntries(of.outcomes.map((outcome, i) => [outcome, i]));
    const index = new Array<number>(LEVELS).fill(-1);
    if (of.levels.length === 0) index[0] = 0;
    of.levels.forEach((level, i) => {
      index[level] = i;
    });
    this.levelIndex = index;
  }

  /** Number of a cell; -1 if it is not in the list. */
  at(level: number, outcome: string): number {
    const row = this.levelIndex[level] ?? -1;
    const column = this.outcomes[outcome];
    return row < 0 || column === undefined ? -1 : this.base + row * this.family.outcomes.length + column;
  }
}

function levelText(level: number): string {
  return level === 0 ? '' : `l${level}/`;
}

const checks = new Map<string, CoverageCheck>();
const cells: CoverageCell[] = [];

for (const each of FAMILIES) {
  const { context, check, outcomes, unreachable } = each;
  checks.set(`${context}/${check}`, new CoverageCheck(each, cells.length));
  for (const level of each.levels.length === 0 ? [0] : each.levels) {
    for (const outcome of outcomes) {
      const place = `${levelText(level)}${outcome}`;
      const why = unreachable[place] ?? unreachable[outcome];
      cells.push({
        number: cells.length,
        context,
        check,
        level,
        outcome,
        name: `${context}/${check}/${place}`,
        unreachable: why,
      });
    }
  }
}

/** Every cell, by number. */
export const COVERAGE_CELLS: readonly CoverageCell[] = cells;

/** Throws for a check that is not in the list. */
export function checkOf(context: CoverageContext, name: string): CoverageCheck {
  const found = checks.get(`${context}/${name}`);
  if (found === undefined) throw new Error(`no such check: ${context}/${name}`);
  return found;
}
