/** For every historical bug: where the machine with it parts from a clean one, and a sentence that names the mechanism. */

import { describe, expect, test } from 'vitest';
import type { Explanation } from '../../src/replay/explanation.ts';
import { rewalk } from '../cli/cli.ts';
import { MUTANT_ROWS } from '../corpus/mutant-table.ts';

/** What the cause has to speak of. No word of it comes from the list of mutants. */
const MECHANISM: Readonly<Record<string, RegExp>> = {
  'm01-inherited-permissions':
    /another role of a shadow page: .* access .*rights inherited from the levels above: wux on clean/,
  'm01-m06-cve-2021-38198': /another role of a shadow page: .* access /,
  'm02-ad-elsewhere': /guest memory gets an entry written at gpa 0x104028: .* gpa 0x4028/,
  'm05-child-of-other-gfn': /a child table is reused: .*it is of another guest frame/,
  'm06-child-of-other-role': /a child table is reused: .* although its role differs: direct/,
  'm08-npf-always-final': /an exit given to L1: EXITINFO1 differs in bits 33, 32: .*table\) on clean, .*final\)/,
  'm09-qualification-of-other-exit': /an exit given to L1: the exit qualification differs in bit 8/,
  'm10-misconfig-keeps-qualification': /an exit given to L1: the exit qualification differs in bits 8, 7, 0/,
  'm11-sync-before-link': /on clean rootMmu empties SPTE 5 at level 1 .* goes on with: kvm get-page .* unsync existing/,
  'm12-keeps-mmu-writable': /on clean rootMmu sets the SPTE of gfn 0x8 at level 1: leaf r-xu .*mmu-writable/,
  'm13-protect-without-flush':
    /a TLB flush is missing: on clean tlb drops every cached translation.*\(after rootMmu sets SPTE .*leaf r-xu/,
  'm14-old-wp': /cpuWalk judges as if CR0\.WP were 1, the register has 0/,
  'm15-wp-toggle-without-init':
    /MOV CR0.*a set-up of the MMU is missing: on clean cpuWalk walks from here on by the role/,
  'm16-l2-old-wp': /nestedCpuWalk judges as if CR0\.WP were 1, the register has 0/,
  'm17-smap-not-in-role': /MOV CR4, .*SMAP.*a set-up of the MMU is missing: on clean kvm resets the MMU context/,
  'm18-ac-excuses-implicit': /cpuWalk is wrong: the machine let it through.*CR4\.SMAP forbids/,
  'm19-wp0-keeps-execute': /nx \(bit 63\): not executable on clean, executable/,
  'm20-fetch-in-rights-fault': /error code 0x15 was reported, by the rule it is 0x5: F/,
  'm22-nx-shared': /EFER.*NXE.*a set-up of the MMU is missing: on clean kvm resets the MMU context/,
  'm23-ept-read-implied': /r \(bit 0\): not readable on clean, readable/,
  'm24-qualification-acc-order': /bits 5:3 of the qualification are 100, the entries give 001/,
  'm25-key-mask-grows': /cpuWalk walks from here on, judging protection keys/,
  'm27-l2-tables-only-read': /tdpWalk is asked to translate a page of the guest's tables for a read only/,
  'm28-eptp-switch-keeps-ad': /VMFUNC EPTP switch.*a set-up of the MMU is missing: on clean tdpWalk walks/,
  'm29-transition-keeps-previous-roots':
    /another request: on clean kvm asks for KVM_REQ_TLB_FLUSH_GUEST; .* KVM_REQ_MMU_SYNC and KVM_REQ_TLB_FLUSH_CURRENT/,
  'm30-invvpid-frees-l1-roots': /INVVPID.*a change of roots is missing: on clean rootMmu lets go of a previous root/,
  'm31-new-vpid-not-flushed': /a request is missing: on clean kvm asks for KVM_REQ_TLB_FLUSH_GUEST/,
  'm32-flushes-vpid01-in-l2':
    /a TLB flush is missing: on clean tlb drops the linear mappings of vpid02 .* goes on with: kvm enters the guest with vpid01/,
  'm32b-flushes-vpid02-without-vpid':
    /a TLB flush is missing: on clean tlb drops the linear mappings of vpid01 .* goes on with: kvm enters the guest with vpid02/,
  'm33-flushes-after-switch':
    /a TLB flush is missing: on clean tlb drops the linear mappings of vpid01 .* goes on with: kvm enters the guest with vpid02/,
  'm34-npt-root-level-of-l1':
    /guestMmu is to build paging tables with the root role.*level \(bits 3:0\): level 5 on clean, level 4/,
  'm35-no-passthrough': /passthrough \(bit 18\): extra top level over a 4-level NPT on clean, no extra level/,
  'm36-pdptes-unchecked': /on clean rootMmu finds no memslot for a table of the root/,
  'm37-pdptes-keep-root':
    /a change of roots (is missing|comes too late): on clean rootMmu lets go of its current root, a PAE root/,
  'm38-guest-mode-not-in-role': /on clean cpuWalk walks from here on by the role: .* guest-mode; .* does not/,
  'm39-nested-mmio-cache':
    /MMIO cache: on clean kvm remembers gfn 0xe0000 as MMIO, with no linear page; .* linear page 0x5000/,
  'm40-keeps-empty-spte': /on clean guestMmu empties SPTE .* guestMmu sets SPTE .*: leaf ---/,
  'm43-tdp-pcid-not-flushed': /CR3.*a request is missing: on clean kvm asks for KVM_REQ_TLB_FLUSH_GUEST/,
  'm44-pcide-keeps-roots': /MOV CR4.*PCIDE.*a change of roots is missing: on clean kvm lets go of all roots/,
  'm47-unmap-without-flush':
    /a TLB flush is missing: on clean tlb drops every cached translation.*\(after rootMmu empties the SPTE/,
  'm48-tdp-fault-rebuilds': /one SPTE too many/,
  'm51-invvpid-any-address': /INVVPID type 0 .*0x800000000000\).* too many/,
  'm54-pfec-mask-ignored': /on clean kvm inj-exception #PF .* kvm nested-vmexit-inject/,
  'm55-nx-huge-replaces-table':
    /on clean rootMmu sets the SPTE of gfn 0x206 at level 1.* rootMmu sets the SPTE of gfn 0x200 at level 2/,
  'm56-huge-page-stays': /on clean rootMmu sets SPTE 2 at level 2 .*: leaf r-xu A D 2M .* does not/,
  'm57-accessed-before-rights': /an accessed bit was set before the rights were judged/,
  'm58-fetch-always': /error code 0x10 was reported, by the rule it is 0x0: F/,
  'm59-l2-walk-after-exit': /cpuWalk walks tables of 2 levels, by the registers they have 4/,
  'm60-translates-in-guest-mode': /one set-up of the MMU too many: on m60-translates-in-guest-mode tdpWalk walks/,
  'm61-early-return-before-flush': /a TLB flush is missing: on clean tlb drops the address 0x5000/,
  'm62-xu-presence': /the walk counts the entry as present, and as misconfigured; the rule: .*bit 10 does not count/,
};

test('every bug of the corpus has its mechanism here', () => {
  expect(MUTANT_ROWS.map(({ name }) => name).sort()).toEqual(Object.keys(MECHANISM).sort());
});

describe.each(MUTANT_ROWS)('$name', ({ name, trace, options, mutants, step }) => {
  test('is explained', async () => {
    const { status, stdout, stderr } = await rewalk(
      'explain',
      `${trace}@first`,
      '--mutant',
      mutants,
      '--json',
      ...options,
    );
    expect([status, stderr]).toEqual([1, '']);
    const { step: explained, cause, parting } = JSON.parse(stdout) as Explanation;
    expect(explained.ordinal).toBe(step);
    expect(parting?.step).toBeLessThanOrEqual(step);
    expect(cause).toMatch(MECHANISM[name]!);
  });
});
