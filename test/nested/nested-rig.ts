/** A vCPU whose guest has guests of its own: what it asks of the hardware, its events, and what its hypervisor gets. */

import type { KvmConfig } from '../../src/formats/kvm-config.ts';
import { KVM_MORE_ROWS, KvmEvent, kvmEventOf } from '../../src/formats/kvm-event.ts';
import { GuestMode, NESTED_NP_ENABLE, Reg, SECONDARY_EPT, SECONDARY_VPID } from '../../src/formats/registers.ts';
import { FaultHandler } from '../../src/mmu/fault-handler.ts';
import { Inject } from '../../src/mmu/injection.ts';
import type { Root } from '../../src/mmu/root.ts';
import { Request, Vcpu } from '../../src/mmu/vcpu.ts';
import type { WiringName } from '../../src/mmu/wiring.ts';
import { Nested } from '../../src/nested/nested.ts';
import type { PagingFeatures } from '../../src/paging/configure.ts';
import { ROW, ROW_ADDRESS_HI, ROW_ADDRESS_LO, ROW_VALUE_HI, ROW_VALUE_LO } from '../../src/paging/row-log.ts';
import { ShadowRig } from '../mmu/shadow-rig.ts';

/** Everything that L1 may be told of EPT and VPIDs. */
export const ALL_CAPS = { lo: 0x0673_41c1, hi: 0x0f01 };
export const WB4 = 6 | (3 << 3);
export const EPTP_A = 0x10_0000 | WB4;
export const EPTP_B = 0x20_0000 | WB4;
export const NCR3_A = 0x10_0000;
export const NCR3_B = 0x20_0000;

export interface NestedRigOptions {
  readonly config?: Partial<KvmConfig>;
  readonly wiring?: WiringName;
  readonly features?: Partial<PagingFeatures>;
  readonly caps?: { readonly lo: number; readonly hi: number };
}

const INJECT_NAMES = Object.keys(Inject).map((name) => name.toLowerCase().replaceAll('_', ' '));

export class NestedRig {
  /** L1's memory and the tables of KVM; its own vCPU is not used. */
  readonly base: ShadowRig;
  readonly vcpu: Vcpu;
  readonly nested: Nested;
  readonly handler: FaultHandler;
  private readonly told: string[] = [];
  private l1 = new Uint32Array();

  constructor(options: NestedRigOptions = {}) {
    this.base = new ShadowRig({ config: { tdp: true, tdpMmu: false, ...options.config } });
    const { base } = this;
    const tell = (text: string) => void this.told.push(text);
    const hardware = {
      flushAll: () => tell('flush all'),
      flushCurrent: () => tell('flush current'),
      flushGuest: () => tell('flush guest'),
      flushAddress: (lo: number) => tell(`flush address ${(lo >>> 0).toString(16)}`),
      useRoot: (root: Root | null) => tell(root === null ? 'no root' : `root ${rootName(root)}`),
      useTag: (tag: number) => tell(`tag ${tag}`),
    };
    this.vcpu = new Vcpu({
      pages: base.pages,
      tdpMmu: base.tdpMmu,
      registers: base.registers,
      memory: base.host.guestMemory(0),
      features: {
        amd: base.config.vendor === 'amd',
        maxphyaddr: 40,
        pse36: true,
        page1g: true,
        eptExecuteOnly: true,
        ept2m: true,
        ept1g: true,
        eptAdvancedInfo: false,
        ...options.features,
      },
      hardware,
      ...(options.wiring === undefined ? {} : { wiring: options.wiring }),
    });
    this.nested = new Nested({ vcpu: this.vcpu, hardware, eptVpidCap: options.caps ?? ALL_CAPS });
    this.handler = new FaultHandler(this.vcpu, base.tdpMmu, this.nested);
    this.vcpu.resetContext();
    this.vcpu.requests = 0;
    this.takeTold();
  }

  set(register: number, lo: number, hi = 0): void {
    this.base.set(register, lo, hi);
  }

  // Transitions.

  /** VM entry with EPT (`eptp`) or without (0), and a VPID or 0; `change`: other registers of L2. */
  vmEntry(eptp: number, vpid: number, change: Readonly<Record<number, number>> = {}): boolean {
    const secondary = (eptp !== 0 ? SECONDARY_EPT : 0) | (vpid !== 0 ? SECONDARY_VPID : 0);
    return this.enter({
      [Reg.GUEST_MODE]: GuestMode.VMX,
      [Reg.SECONDARY_CONTROLS]: secondary,
      [Reg.EPTP]: eptp,
      [Reg.VPID]: vpid,
      ...change,
    });
  }

  /** VMRUN with nested paging (`ncr3`), or without (0). */
  vmrun(ncr3: number, change: Readonly<Record<number, number>> = {}): boolean {
    return this.enter({
      [Reg.GUEST_MODE]: GuestMode.SVM,
      [Reg.NESTED_CONTROL]: ncr3 !== 0 ? NESTED_NP_ENABLE : 0,
      [Reg.NCR3]: ncr3,
      ...change,
    });
  }

  private enter(change: Readonly<Record<number, number>>): boolean {
    this.l1 = this.base.registers.slice();
    for (const [register, value] of Object.entries(change)) this.set(Number(register), value);
    return this.nested.enter(this.l1);
  }

  leave(): void {
    this.base.registers.set(this.l1);
    this.nested.exit();
  }

  serve(): void {
    this.vcpu.serveRequests();
  }

  /** Names of the requests that wait, without underscores. */
  requests(): string[] {
    return Object.entries(Request)
      .filter(([, bit]) => (this.vcpu.requests & bit) !== 0)
      .map(([name]) => name);
  }

  /** What the hardware was told since the last call. */
  takeTold(): string[] {
    return this.told.splice(0);
  }

  /** Events since the last call, those of nested virtualisation with all fields. */
  take(walks = false): string[] {
    const { log } = this.base;
    const texts: string[] = [];
    const rows = log.count;
    const number = (row: number, lo: number, hi: number): string => {
      const at = log.rows;
      return ((at[row * ROW + hi]! >>> 0) * 2 ** 32 + (at[row * ROW + lo]! >>> 0)).toString(16);
    };
    let from = 0;
    const rest = this.base.take(walks);
    for (let row = 0; row < rows; row += 1 + KVM_MORE_ROWS[kvmEventOf(log.op(row))]!) {
      const event = kvmEventOf(log.op(row));
      if (!walks && event <= KvmEvent.SET_DIRTY_BIT) continue;
      const text = rest[from++]!;
      if (event !== KvmEvent.NESTED_VMEXIT_INJECT) {
        texts.push(text);
        continue;
      }
      const info1 = number(row, ROW_VALUE_LO, ROW_VALUE_HI);
      const info2 = number(row, ROW_ADDRESS_LO, ROW_ADDRESS_HI);
      const code = number(row + 1, ROW_ADDRESS_LO, ROW_ADDRESS_HI);
      const word = (at: number): string => (log.rows[(row + 1) * ROW + at]! >>> 0).toString(16);
      texts.push(`vmexit inject ${code} ${info1} ${info2} ${word(ROW_VALUE_LO)} ${word(ROW_VALUE_HI)}`);
    }
    return texts;
  }

  /** What L1 or L2 got: `npf 1234 info 1_00000006`. */
  injected(): string {
    const { injected } = this.handler;
    if (injected === null) return 'nothing';
    const hex = (hi: number, lo: number): string => ((hi >>> 0) * 2 ** 32 + (lo >>> 0)).toString(16);
    const { kind, lo, hi, infoLo, infoHi } = injected;
    return `${INJECT_NAMES[kind]} ${hex(hi, lo)} info ${hex(infoHi, infoLo)}`;
  }
}

function rootName(root: Root): string {
  if (root.page !== null) return root.page.gfn.toString(16);
  return root.pae!.map((sp) => (sp === null ? '-' : sp.gfn.toString(16))).join(',');
}
