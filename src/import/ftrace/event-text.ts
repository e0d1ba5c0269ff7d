/** The text behind an event's name, back into fields: one function per event (formats: facts/kvm-mmu.md §9). */

import { Cursor } from './cursor.ts';
import type { ExitFields, TraceEventFields } from './event.ts';
import { eventFromFields } from './event-fields.ts';
import { NamedValues, UNPARSED } from './named-values.ts';
import { MMIO_TYPES, parseException, parseFaultFlags } from './names.ts';
import { parseShadowPage } from './shadow-page-text.ts';

/** What user space writes to `trace_marker` stands under the name of the kernel's function. */
const MARK = 'tracing_mark_write';

/** Fields of the event `name` from its `text`. Throws E_IMPORT without a place. */
export function parseEventText(name: string, text: string): TraceEventFields {
  if (name === MARK) return { name: 'mark', text };
  // trace-cmd and perf name the event, the kernel the function that wrote it.
  if (name === 'print') return parsePrint(new Cursor(text));
  const parse = PARSERS.get(name);
  if (parse === undefined) return { name: 'other', event: name, text };
  const cursor = new Cursor(text);
  cursor.spaces();
  if (cursor.skip(UNPARSED)) return eventFromFields(name, new NamedValues(cursor));
  return parse(cursor);
}

/** `function: text`. Only a mark keeps its spaces. */
function parsePrint(cursor: Cursor): TraceEventFields {
  cursor.spaces();
  const writer = cursor.before(': ');
  const text = cursor.text.slice(cursor.at);
  return writer === MARK ? { name: 'mark', text } : { name: 'other', event: writer, text };
}

function big(cursor: Cursor, label: string): bigint {
  cursor.literal(label);
  return cursor.big();
}

function hex(cursor: Cursor, label: string): number {
  cursor.literal(label);
  return cursor.hex();
}

function decimal(cursor: Cursor, label: string): number {
  cursor.literal(label);
  return cursor.decimal();
}

/** Fields are read in the order in which they are written down here, which is that of the text. */
function parseExit(cursor: Cursor): ExitFields {
  const vcpu = decimal(cursor, 'vcpu ');
  cursor.literal(' reason ');
  return {
    vcpu,
    reason: cursor.before(' rip '),
    rip: cursor.big(),
    info1: big(cursor, ' info1 '),
    info2: big(cursor, ' info2 '),
    intrInfo: hex(cursor, ' intr_info '),
    errorCode: hex(cursor, ' error_code '),
  };
}

function parseSetSpte(cursor: Cursor): TraceEventFields {
  const gfn = big(cursor, 'gfn ');
  const spte = big(cursor, ' spte ');
  cursor.literal(' (');
  const at = cursor.at;
  const letters = cursor.before(')');
  for (let i = 0; i < letters.length; i++) {
    if (letters[i] !== '-' && letters[i] !== 'rwxu'[i]) throw cursor.problem('letters of access', at);
  }
  if (letters.length < 3 || letters.length > 4) throw cursor.problem('letters of access', at);
  return {
    name: 'kvm_mmu_set_spte',
    gfn,
    spte,
    r: letters[0] === 'r',
    x: letters[2] === 'x',
    u: letters.length === 4 ? letters[3] === 'u' : undefined,
    level: decimal(cursor, ' level '),
    sptep: big(cursor, ' at '),
  };
}

function parseFastPageFault(cursor: Cursor): TraceEventFields {
  const vcpu = decimal(cursor, 'vcpu ');
  const gva = big(cursor, ' gva ');
  cursor.literal(' error_code ');
  return {
    name: 'fast_page_fault',
    vcpu,
    gva,
    errorCode: parseFaultFlags(cursor.before(' sptep ')),
    sptep: cursor.big(),
    oldSpte: big(cursor, ' old '),
    newSpte: big(cursor, ' new '),
    spurious: decimal(cursor, ' spurious ') !== 0,
    fixed: decimal(cursor, ' fixed ') !== 0,
  };
}

function parseInjectedException(cursor: Cursor): TraceEventFields {
  const vector = parseException(cursor.word());
  let errorCode: number | undefined;
  if (cursor.skip(' (')) {
    errorCode = cursor.hex();
    cursor.literal(')');
  }
  return { name: 'kvm_inj_exception', vector, errorCode, reinjected: cursor.skip(' [reinjected]') };
}

function parseEmulatedInstruction(cursor: Cursor): TraceEventFields {
  const csbase = cursor.big();
  const rip = big(cursor, ':');
  cursor.literal(':');
  return {
    name: 'kvm_emulate_insn',
    csbase,
    rip,
    bytes: cursor.before(' ('),
    mode: cursor.before(')'),
    failed: cursor.skip(' failed'),
  };
}

function parseNestedEntry(cursor: Cursor): TraceEventFields {
  const rip = big(cursor, 'rip: ');
  // nested_npt or nested_ept, then nested_cr3, nested_eptp or guest_cr3.
  cursor.before('=');
  const tdp = cursor.oneOf('y ', 'n ') === 'y ';
  cursor.before(': ');
  return { name: 'kvm_nested_vmenter', rip, tdp, guestPgd: cursor.big() };
}

function range(name: 'kvm_unmap_hva_range' | 'kvm_age_hva', what: string): (cursor: Cursor) => TraceEventFields {
  return (cursor) => ({ name, start: big(cursor, `mmu notifier ${what}: `), end: big(cursor, ' -- ') });
}

function address(name: 'kvm_set_spte_hva' | 'kvm_test_age_hva', what: string): (cursor: Cursor) => TraceEventFields {
  return (cursor) => ({ name, hva: big(cursor, `mmu notifier ${what}: `) });
}

const PARSERS: ReadonlyMap<string, (cursor: Cursor) => TraceEventFields> = new Map<
  string,
  (cursor: Cursor) => TraceEventFields
>([
  ['kvm_entry', (c) => ({ name: 'kvm_entry', vcpu: decimal(c, 'vcpu '), rip: big(c, ', rip ') })],
  ['kvm_exit', (c) => ({ name: 'kvm_exit', ...parseExit(c) })],
  ['kvm_nested_vmexit', (c) => ({ name: 'kvm_nested_vmexit', ...parseExit(c) })],
  [
    'kvm_page_fault',
    (c) => ({
      name: 'kvm_page_fault',
      vcpu: decimal(c, 'vcpu '),
      rip: big(c, ' rip '),
      address: big(c, ' address '),
      errorCode: big(c, ' error_code '),
    }),
  ],
  [
    'kvm_mmu_pagetable_walk',
    (c) => ({ name: 'kvm_mmu_pagetable_walk', addr: big(c, 'addr '), pferr: hex(c, ' pferr ') }),
  ],
  [
    'kvm_mmu_paging_element',
    (c) => ({ name: 'kvm_mmu_paging_element', pte: big(c, 'pte '), level: decimal(c, ' level ') }),
  ],
  ['kvm_mmu_set_accessed_bit', (c) => ({ name: 'kvm_mmu_set_accessed_bit', gpa: big(c, 'gpa ') })],
  ['kvm_mmu_set_dirty_bit', (c) => ({ name: 'kvm_mmu_set_dirty_bit', gpa: big(c, 'gpa ') })],
  ['kvm_mmu_walker_error', (c) => ({ name: 'kvm_mmu_walker_error', pferr: hex(c, 'pferr ') })],
  [
    'kvm_mmu_get_page',
    (c) => ({ name: 'kvm_mmu_get_page', ...parseShadowPage(c), created: c.oneOf(' new', ' existing') === ' new' }),
  ],
  ['kvm_mmu_sync_page', (c) => ({ name: 'kvm_mmu_sync_page', ...parseShadowPage(c) })],
  ['kvm_mmu_unsync_page', (c) => ({ name: 'kvm_mmu_unsync_page', ...parseShadowPage(c) })],
  ['kvm_mmu_prepare_zap_page', (c) => ({ name: 'kvm_mmu_prepare_zap_page', ...parseShadowPage(c) })],
  [
    'mark_mmio_spte',
    (c) => ({
      name: 'mark_mmio_spte',
      sptep: big(c, 'sptep:'),
      gfn: big(c, ' gfn '),
      access: hex(c, ' access '),
      gen: hex(c, ' gen '),
    }),
  ],
  [
    'handle_mmio_page_fault',
    (c) => ({
      name: 'handle_mmio_page_fault',
      addr: big(c, 'addr:'),
      gfn: big(c, ' gfn '),
      access: hex(c, ' access '),
    }),
  ],
  ['fast_page_fault', parseFastPageFault],
  [
    'kvm_mmu_zap_all_fast',
    (c) => ({
      name: 'kvm_mmu_zap_all_fast',
      gen: decimal(c, 'kvm-mmu-valid-gen '),
      usedPages: hex(c, ' used_pages '),
    }),
  ],
  [
    'check_mmio_spte',
    (c) => ({
      name: 'check_mmio_spte',
      spte: big(c, 'spte '),
      kvmGen: hex(c, ' kvm_gen '),
      spteGen: hex(c, ' spte-gen '),
    }),
  ],
  ['kvm_mmu_set_spte', parseSetSpte],
  [
    'kvm_mmu_spte_requested',
    (c) => ({
      name: 'kvm_mmu_spte_requested',
      gfn: big(c, 'gfn '),
      pfn: big(c, ' pfn '),
      level: decimal(c, ' level '),
    }),
  ],
  [
    'kvm_tdp_mmu_spte_changed',
    (c) => ({
      name: 'kvm_tdp_mmu_spte_changed',
      asId: decimal(c, 'as id '),
      gfn: big(c, ' gfn '),
      level: decimal(c, ' level '),
      oldSpte: big(c, ' old_spte '),
      newSpte: big(c, ' new_spte '),
    }),
  ],
  [
    'kvm_mmu_split_huge_page',
    (c) => ({
      name: 'kvm_mmu_split_huge_page',
      gfn: big(c, 'gfn '),
      spte: big(c, ' spte '),
      level: decimal(c, ' level '),
      errno: decimal(c, ' errno '),
    }),
  ],
  [
    'kvm_cr',
    (c) => ({
      name: 'kvm_cr',
      write: c.oneOf('cr_write ', 'cr_read ') === 'cr_write ',
      cr: c.hex(),
      value: big(c, ' = '),
    }),
  ],
  [
    'kvm_msr',
    (c) => ({
      name: 'kvm_msr',
      write: c.oneOf('msr_write ', 'msr_read ') === 'msr_write ',
      msr: c.hex(),
      value: big(c, ' = '),
    }),
  ],
  ['kvm_inj_exception', parseInjectedException],
  [
    'kvm_mmio',
    (c) => {
      c.literal('mmio ');
      return { name: 'kvm_mmio', type: c.oneOf(...MMIO_TYPES), length: decimal(c, ' len '), gpa: big(c, ' gpa ') };
    },
  ],
  [
    'vcpu_match_mmio',
    (c) => ({
      name: 'vcpu_match_mmio',
      gva: big(c, 'gva '),
      gpa: big(c, ' gpa '),
      write: c.oneOf(' Write', ' Read') === ' Write',
      gpaMatch: c.oneOf(' GPA', ' GVA') === ' GPA',
    }),
  ],
  ['kvm_emulate_insn', parseEmulatedInstruction],
  ['kvm_unmap_hva_range', range('kvm_unmap_hva_range', 'unmap range')],
  ['kvm_age_hva', range('kvm_age_hva', 'age hva')],
  ['kvm_set_spte_hva', address('kvm_set_spte_hva', 'set pte hva')],
  ['kvm_test_age_hva', address('kvm_test_age_hva', 'test age hva')],
  [
    'kvm_userspace_exit',
    (c) => {
      c.literal('reason ');
      return { name: 'kvm_userspace_exit', reason: c.before(' ('), number: c.decimal() };
    },
  ],
  [
    'kvm_invlpga',
    (c) => ({
      name: 'kvm_invlpga',
      rip: big(c, 'rip: '),
      asid: decimal(c, ' asid: '),
      address: big(c, ' address: '),
    }),
  ],
  ['kvm_nested_vmenter', parseNestedEntry],
  [
    'kvm_nested_intercepts',
    (c) => {
      c.before(' excp: ');
      const exceptions = c.hex();
      return { name: 'kvm_nested_intercepts', exceptions };
    },
  ],
  [
    'kvm_nested_vmexit_inject',
    (c) => {
      c.literal('reason: ');
      return {
        name: 'kvm_nested_vmexit_inject',
        reason: c.before(' ext_inf1: '),
        info1: c.big(),
        info2: big(c, ' ext_inf2: '),
        intInfo: hex(c, ' ext_int: '),
        intInfoError: hex(c, ' ext_int_err: '),
      };
    },
  ],
  ['kvm_nested_vmenter_failed', () => ({ name: 'kvm_nested_vmenter_failed' })],
]);
