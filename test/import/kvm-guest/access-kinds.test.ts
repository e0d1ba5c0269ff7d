import { describe, expect, it } from 'vitest';
import { ACCESS_CPL_SHIFT, ACCESS_USER, AccessType } from '../../../src/formats/step.ts';
import { accessFlags, componentsOf } from '../../../src/import/kvm-guest/access-kinds.ts';

const CONTEXT = { wordLength: 8, splitsRmw: false, gdtBase: 0x106000n } as const;
const VA = 0x4000_1040n;

function told(kind: string, va: bigint, context: Parameters<typeof componentsOf>[2] = CONTEXT): string[] | undefined {
  const names = Object.keys(AccessType);
  return componentsOf(kind, va, context)?.map(
    (c) => `${names[c.type]!.toLowerCase()} ${c.address.toString(16)}+${c.length}${c.software ? ' software' : ''}`,
  );
}

describe('kinds of access', () => {
  it('are the accesses that the instruction makes, in order', () => {
    expect(told('r', VA)).toEqual(['read 40001040+1']);
    expect(told('x', 0x4000_1000n)).toEqual(['fetch 40001000+1']);
    expect(told('movs', VA)).toEqual(['read 40001040+4', 'write 40001140+4']);
    expect(told('fep-movs', VA)).toEqual(['read 40001040+1 software', 'write 40001140+1 software']);
  });

  it('of an emulated fetch begin with the prefix, which the processor fetches', () => {
    expect(told('fep-x', 0x4000_1000n)).toEqual(['fetch 40000ffb+5', 'fetch 40001000+1 software']);
  });

  it('of string I/O are made by the emulator', () => {
    expect(told('outs', VA)).toEqual(['read 40001040+4 software']);
    expect(told('ins', VA)).toEqual(['write 40001040+4 software']);
  });

  it('are split where the operand crosses a page', () => {
    expect(told('r8', 0x4000_0ffcn)).toEqual(['read 40000ffc+4', 'read 40001000+4']);
    expect(told('r8', 0x4000_0ffcn, { ...CONTEXT, wordLength: 4 })).toEqual(['read 40000ffc+4']);
    expect(told('r8', 0x4000_0ffen, { ...CONTEXT, wordLength: 4 })).toEqual(['read 40000ffe+2', 'read 40001000+2']);
  });

  it('of a locked instruction are one access, or two where the recorded processor makes two', () => {
    expect(told('rmw', VA)).toEqual(['rmw 40001040+1']);
    expect(told('rmw', VA, { ...CONTEXT, splitsRmw: true })).toEqual(['read 40001040+1', 'write 40001040+1']);
    expect(told('fep-rmw', VA, { ...CONTEXT, splitsRmw: true })).toEqual(['rmw 40001040+1 software']);
  });

  it('of a segment load read the descriptor, implicitly, and nothing while the GDT is not known', () => {
    expect(told('fep-seg', VA)).toEqual(['read 106028+8 software']);
    const [descriptor] = componentsOf('fep-seg', VA, CONTEXT)!;
    const flags = accessFlags(descriptor!, true, false);
    expect(flags & ACCESS_USER).toBe(0);
    expect((flags >>> ACCESS_CPL_SHIFT) & 3).toBe(3);
    expect(told('fep-seg', VA, { ...CONTEXT, gdtBase: undefined })).toEqual([]);
  });

  it('without memory have none, and unknown ones are told apart from them', () => {
    expect(told('ud2', 0n)).toEqual([]);
    expect(told('clflush', VA)).toBeUndefined();
  });
});
