import { describe, expect, it } from 'vitest';
import { readDump } from './tell.ts';

const DUMP = `
cr0=80010011 cr2=0 cr3=200000 cr4=20 cr8=0 efer=800 apic_base=fee00900
pdptrs 201001 206001 0 0
rip=10397a rsp=111fa8 rflags=46 rax=3 rbx=609000 rcx=7107 rdx=600
cs sel=18 base=0 limit=ffffffff type=b s=1 dpl=0 p=1 l=1 db=0 g=1
gdt 106000 3f idt 10b000 fff
nested flags=101 format=1 size=4224 vmcb_pa=11d000
vmcb12 np_ctl=1 nested_cr3=207000 asid=1 save_cr3=200000 save_cr0=80010011 save_cr4=20 save_efer=1d00
slot 0 gpa=0 size=800000 flags=0 hva=0x7fed60600000
page 7000
 000 4
 ff8 ffffffff00000001
`;

describe('a dump', () => {
  it('gives registers, PDPTEs, nested state, slots and pages', () => {
    const dump = readDump(DUMP);
    expect(dump.registers.get('cr3')).toBe(0x200000n);
    expect(dump.registers.get('efer')).toBe(0x800n);
    expect(dump.pdptes).toEqual([0x201001n, 0x206001n, 0n, 0n]);
    expect(dump.gdtBase).toBe(0x106000n);
    expect(dump.inL2).toBe(true);
    expect(dump.vmcb).toEqual({ nestedControl: 1n, ncr3: 0x207000n, asid: 1n });
    expect(dump.slots).toMatchObject([{ slot: 0, gpa: 0n, size: 0x800000n, flags: 0n }]);
    const page = dump.pages.get(7)!;
    expect([page[0], page[1], page[1022], page[1023]]).toEqual([4, 0, 1, 0xffff_ffff]);
  });

  it.each([
    ['a line that it does not know', 'cr0=0\nxmm0=1', 2],
    ['a word before any page', ' 000 1', 1],
    ['a word at no multiple of 8', 'page 7000\n 004 1', 2],
    ['a page without an address', 'page here', 1],
  ])('refuses %s', (_what, text, line) => {
    expect(() => readDump(text)).toThrowError(expect.objectContaining({ code: 'E_IMPORT', place: { line } }));
  });
});
