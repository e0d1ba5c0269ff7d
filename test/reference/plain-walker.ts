/**
 * The plain page walker: how a processor translates one linear address, one step of the manuals after the other, in
 * BigInt and without tables. It is slow on purpose and shares no code with `src/`: the fast walker is held against it
 * on random cases.
 *
 * "SDM" is the Intel SDM, chapter 4 of volume 3A (paging) and chapter 28 of volume 3C (EPT); "APM" the AMD APM volume
 * 2, chapter 5 (paging) and section 15.25 (NPT). Where the manuals leave the moment of an accessed or dirty write
 * open, this walker does what Bochs and QEMU do (policy below), so that its events can be compared with the walk logs
 * token by token.
 *
 * Policy of A/D writes: the guest tables' bits are written together, top-down, after the leaf was read and every
 * permission passed, before the final address's own nested translation; a walk that faults writes none. Each nested
 * translation writes its own bits when it ends well. What is written is the entry as this walk read it, plus the
 * bits. KVM's software orders it otherwise and is a policy of its own (`afterTranslation`): the final address's nested
 * translation first, then the guest tables' bits.
 *
 * Not modelled: TLB and paging-structure caches, memory types, PCID, LASS, LAM, HLAT, sub-page permissions,
 * guest-paging verification, PML, #VE, EPT and NPT supervisor shadow-stack control, SEV; #SS in place of #GP; loading
 * of the PDPTE registers. Registers are taken as a processor could hold them: CR0.PG with EFER.LMA implies CR4.PAE,
 * CR4.CET implies CR0.WP, `shadowStack` implies CR4.CET, `user` excludes `implicit`.
 *
 * One file beyond 400 lines: it is meant to be read beside the manuals, from top to bottom.
 */

/** Physical memory. Addresses are aligned to the size of the access. */
export interface PlainMemory {
  read32(address: bigint): bigint;
  read64(address: bigint): bigint;
  write32(address: bigint, value: bigint): void;
  write64(address: bigint, value: bigint): void;
}

export interface PlainMachine {
  vendor: 'intel' | 'amd';
  /** MAXPHYADDR, 32 to 52. One number for guest-physical and host-physical addresses. */
  maxphyaddr: number;
  /** CPUID. That PSE, PAE, NX, PKU … exist is said by the control bits that enable them; PAT is taken as present. */
  features: {
    /** 4 MB pages may lie above 4 GB. */
    pse36: boolean;
    /** 1 GB pages, in ordinary tables and in NPT. */
    pdpe1gb: boolean;
    /** SDM 4.8: a processor that supports CET never sets D in an entry whose R/W is 0. Seen only when CR0.WP = 0. */
    neverDirtyReadOnly: boolean;
  };
  /** The guest tables' A/D bits are written after the final address's nested translation, not before. */
  afterTranslation: boolean;
  cr0: bigint;
  cr3: bigint;
  cr4: bigint;
  efer: bigint;
  pkru: bigint;
  pkrs: bigint;
  /** RFLAGS.AC. */
  ac: boolean;
  /** The PDPTE registers; used by PAE paging unless the second stage is NPT. */
  pdptes: readonly [bigint, bigint, bigint, bigint];
  secondStage: PlainEpt | PlainNpt | undefined;
}

export interface PlainEpt {
  kind: 'ept';
  /** Bits 5:3 walk length - 1, bit 6 accessed and dirty flags, bits 51:12 root. */
  eptp: bigint;
  /** Mode-based execute control. */
  mbec: boolean;
  /** IA32_VMX_EPT_VPID_CAP bits 0, 16, 17 and 22. */
  executeOnly: boolean;
  page2m: boolean;
  page1g: boolean;
  advancedInfo: boolean;
}

/** The host's CR0 is not here: PG must be 1, and WP does not matter to nested walks. */
export interface PlainNpt {
  kind: 'npt';
  ncr3: bigint;
  hostCr4: bigint;
  hostEfer: bigint;
  /** Guest mode execute trap. */
  gmet: boolean;
}

export type AccessKind = 'read' | 'write' | 'fetch' | 'rmw';

export interface PlainAccess {
  address: bigint;
  /** `rmw` is checked and reported as a write. */
  kind: AccessKind;
  /** User-mode access: made at CPL 3 and not implicit supervisor; also WRUSS's. */
  user: boolean;
  /** Implicit supervisor access (descriptor tables, TSS): RFLAGS.AC does not override SMAP. */
  implicit: boolean;
  shadowStack: boolean;
}

export type Dimension = 'guest' | 'ept' | 'npt';

/** The rights of a linear address: the AND of U/S and R/W, the OR of XD. */
export interface PlainRights {
  user: boolean;
  writable: boolean;
  executeDisable: boolean;
}

/**
 * In the order performed. `address` is physical, after the nested translation; `bytes` is 4 in 32-bit paging,
 * otherwise 8.
 */
export type PlainEvent =
  | { type: 'pdpte-register'; dimension: 'guest'; level: 3; index: number; value: bigint }
  | { type: 'element'; dimension: Dimension; level: number; address: bigint; value: bigint; bytes: 4 | 8 }
  | { type: 'entry-write'; dimension: Dimension; level: number; address: bigint; value: bigint; bytes: 4 | 8 }
  | {
      type: 'nested-walk-start';
      dimension: 'ept' | 'npt';
      gpa: bigint;
      /** `table`: an entry of the guest's tables; `final`: what the linear address translates to. */
      purpose: 'table' | 'final';
      /**
       * As asked: `read` for a table under EPT (done as a write when EPT's A/D flags are on), `write` for the check
       * before an A/D write-back, `rmw` for a table under NPT, the access's own kind for `final`.
       */
      access: AccessKind;
      /** The guest tables' rights as far as combined by then; only those of `final` decide anything. */
      linear: PlainRights;
    };

export type PlainOutcome =
  /** `gpa` equals `address` without a second stage. `pageSize` is the guest leaf's, 4096 when paging is off. */
  | { kind: 'translated'; address: bigint; gpa: bigint; pageSize: bigint }
  /** #PF (14), or #GP(0) (13) for an address that is not canonical; #GP leaves CR2 alone: `cr2` is undefined. */
  | { kind: 'exception'; vector: 13 | 14; errorCode: bigint; cr2: bigint | undefined }
  | { kind: 'ept-violation'; qualification: bigint; gpa: bigint; linear: bigint }
  | { kind: 'ept-misconfig'; gpa: bigint; linear: bigint }
  | { kind: 'npf'; exitInfo1: bigint; exitInfo2: bigint };

export interface PlainWalk {
  events: PlainEvent[];
  outcome: PlainOutcome;
}

export function plainWalk(machine: PlainMachine, memory: PlainMemory, access: PlainAccess): PlainWalk {
  const walk: Walk = { machine, memory, access, linear: linearAddress(machine, access.address), events: [] };
  return { outcome: translateLinear(walk), events: walk.events };
}

// -------------------------------------------------------------------------------------------------------------- bits

function bit(value: bigint, position: number): boolean {
  return field(value, position, position) === 1n;
}

/** Bits high:low of `value`, moved down to bit 0. */
function field(value: bigint, high: number, low: number): bigint {
  return BigInt.asUintN(high - low + 1, value >> BigInt(low));
}

/** Bits high:low of `value`, left where they are. */
function inPlace(value: bigint, high: number, low: number): bigint {
  return field(value, high, low) << BigInt(low);
}

/** Whether any of the bits high:low is 1; an empty range (high < low) has none. */
function anySet(value: bigint, high: number, low: number): boolean {
  return high >= low && field(value, high, low) !== 0n;
}

function withBit(value: bigint, position: number, on = true): bigint {
  return on ? value | (1n << BigInt(position)) : value;
}

// ----------------------------------------------------------------------------------------------- from GVA to the end

interface Walk {
  machine: PlainMachine;
  memory: PlainMemory;
  access: PlainAccess;
  /** The linear address: 32 bits unless in 4- or 5-level paging. */
  linear: bigint;
  events: PlainEvent[];
}

type Format = '32-bit' | 'pae' | '4-level' | '5-level';

/** SDM 4.1.1, four paging modes; APM 15.25.3, nested tables have the format of the host's mode. */
function pagingFormat(cr4: bigint, efer: bigint): Format {
  if (!bit(cr4, 5)) return '32-bit'; // CR4.PAE
  if (!bit(efer, 10)) return 'pae'; // EFER.LMA
  return bit(cr4, 12) ? '5-level' : '4-level'; // CR4.LA57
}

function pagingOn(machine: PlainMachine): boolean {
  return bit(machine.cr0, 31);
}

/** Linear addresses have 32 bits in every mode but 4- and 5-level paging; what stands above is not part of them. */
function linearAddress(machine: PlainMachine, address: bigint): bigint {
  const format = pagingFormat(machine.cr4, machine.efer);
  const wide = pagingOn(machine) && (format === '4-level' || format === '5-level');
  return field(address, wide ? 63 : 31, 0);
}

function translateLinear(walk: Walk): PlainOutcome {
  const { machine, access, linear } = walk;

  // SDM 4.1.1, APM 15.25.5: with CR0.PG = 0 the linear address is the (guest-)physical address. SDM table 27-7, notes
  // on bits 9 to 11: every linear address then counts as user-mode, read/write and executable.
  if (!pagingOn(machine)) {
    return accessMemory(walk, linear, 4096n, { user: true, writable: true, executeDisable: false });
  }

  // SDM vol. 1 3.3.7.1, APM 5.3.1: bits 63:47 (5-level: 63:56) must all be equal; checked before anything is read.
  const format = pagingFormat(machine.cr4, machine.efer);
  if (format === '4-level' || format === '5-level') {
    const sign = format === '4-level' ? 47 : 56;
    const upper = field(linear, 63, sign);
    const allOnes = field(-1n, 63, sign);
    if (upper !== 0n && upper !== allOnes) return { kind: 'exception', vector: 13, errorCode: 0n, cr2: undefined };
  }

  const mapping = readTables(walk, guestTables(walk, format), linear);
  if ('kind' in mapping) return mapping;

  const verdict = judgeAccess(machine, access, format, mapping);
  if (verdict !== 'allowed')
    return pageFault(walk, { present: true, reserved: false, key: verdict === 'denied-by-key' });

  if (machine.afterTranslation) {
    const outcome = accessMemory(walk, mapping.address, mapping.pageSize, mapping.rights);
    if (outcome.kind !== 'translated') return outcome;
    return writeGuestAccessedDirty(walk, mapping) ?? outcome;
  }
  return (
    writeGuestAccessedDirty(walk, mapping) ?? accessMemory(walk, mapping.address, mapping.pageSize, mapping.rights)
  );
}

/** The last step: the page's (guest-)physical address is used to access memory. */
function accessMemory(walk: Walk, gpa: bigint, pageSize: bigint, linear: PlainRights): PlainOutcome {
  const address = translateGuestPhysical(walk, gpa, 'final', walk.access.kind, linear);
  if (typeof address !== 'bigint') return address;
  return { kind: 'translated', address, gpa, pageSize };
}

function isWrite(kind: AccessKind): boolean {
  return kind === 'write' || kind === 'rmw';
}

// ----------------------------------------------------------------------- ordinary tables: the guest's, and the NPT's

/** A set of ordinary paging structures: the guest's, or nested ones in the host's format. */
interface Tables {
  dimension: 'guest' | 'npt';
  format: Format;
  /** CR3 or nCR3. */
  root: bigint;
  /** CR4.PSE of whoever owns the tables; used by 32-bit paging only. */
  pse: boolean;
  /** EFER.NXE of whoever owns the tables. */
  nxe: boolean;
  /** PAE: the PDPTE registers, or undefined where PDPTEs are read from memory. */
  pdptes: readonly bigint[] | undefined;
  /** Where the entry at this (guest-)physical address is in memory, or what stopped its nested translation. */
  locate(address: bigint, rightsSoFar: PlainRights): bigint | PlainOutcome;
  /** The fault of an entry that ends the walk. */
  fault(because: { present: boolean; reserved: boolean }): PlainOutcome;
}

interface Entry {
  level: number;
  /** Before the nested translation. */
  gpa: bigint;
  /** Where it really is. */
  address: bigint;
  value: bigint;
  bytes: 4 | 8;
}

interface Mapping {
  /**
   * The entries whose rights and A/D bits count, top-down, the leaf last. PDPTEs of PAE paging are not among them.
   */
  entries: Entry[];
  leaf: Entry;
  rights: PlainRights;
  /** Whether R/W is 1 in every entry above the leaf. */
  writableAboveLeaf: boolean;
  address: bigint;
  pageSize: bigint;
}

function guestTables(walk: Walk, format: Format): Tables {
  const { machine } = walk;
  return {
    dimension: 'guest',
    format,
    root: machine.cr3,
    pse: bit(machine.cr4, 4),
    nxe: bit(machine.efer, 11),
    // SDM 4.4.1: registers loaded with CR3. APM 15.25.10: under nested paging the PDPEs are read in the course of
    // each walk.
    pdptes: machine.secondStage?.kind === 'npt' ? undefined : machine.pdptes,
    // SDM 28.3.1: tables are accessed with guest-physical addresses; APM 15.25.5: as writes.
    locate: (address, rights) =>
      translateGuestPhysical(walk, address, 'table', machine.secondStage?.kind === 'npt' ? 'rmw' : 'read', rights),
    fault: (because) => pageFault(walk, { ...because, key: false }),
  };
}

/** SDM 4.3 (32-bit), 4.4.2 (PAE), 4.5.4 (4- and 5-level paging); APM 5.2 and 5.3. */
function readTables(walk: Walk, tables: Tables, address: bigint): Mapping | PlainOutcome {
  const { format } = tables;
  const bytes = format === '32-bit' ? 4 : 8;
  const indexBits = format === '32-bit' ? 10 : 9;
  const entries: Entry[] = [];
  let rights: PlainRights = { user: true, writable: true, executeDisable: false };
  let level: number;
  let table: bigint;

  switch (format) {
    case '32-bit':
      level = 2;
      table = inPlace(tables.root, 31, 12);
      break;
    case '4-level':
    case '5-level':
      level = format === '5-level' ? 5 : 4;
      table = inPlace(tables.root, 51, 12);
      break;
    case 'pae': {
      const pdpte = selectPdpte(walk, tables, address, rights);
      if (typeof pdpte !== 'bigint') return pdpte;
      level = 2;
      table = inPlace(pdpte, 51, 12);
      break;
    }
  }

  for (;;) {
    const low = 12 + indexBits * (level - 1);
    const gpa = table + field(address, low + indexBits - 1, low) * BigInt(bytes);
    const where = tables.locate(gpa, rights);
    if (typeof where !== 'bigint') return where;
    const value = readEntry(walk, tables.dimension, level, where, bytes);

    // SDM 4.7: P = 0 ends the walk first; reserved bits are looked at in present entries only.
    if (!bit(value, 0)) return tables.fault({ present: false, reserved: false });
    if (reservedBitSet(walk.machine, tables, level, value)) return tables.fault({ present: true, reserved: true });

    const entry: Entry = { level, gpa, address: where, value, bytes };
    entries.push(entry);
    const writableAboveLeaf = rights.writable;
    rights = {
      user: rights.user && bit(value, 2),
      writable: rights.writable && bit(value, 1),
      executeDisable: rights.executeDisable || (bytes === 8 && bit(value, 63)),
    };

    if (level === 1 || mapsPage(tables, level, value)) {
      const offsetBits = low;
      const base = format === '32-bit' ? base32(level, value) : inPlace(value, 51, offsetBits);
      return {
        entries,
        leaf: entry,
        rights,
        writableAboveLeaf,
        address: base + field(address, offsetBits - 1, 0),
        pageSize: 1n << BigInt(offsetBits),
      };
    }

    table = inPlace(value, bytes === 4 ? 31 : 51, 12);
    level -= 1;
  }
}

/** PAE: the PDPTE that address bits 31:30 select. */
function selectPdpte(walk: Walk, tables: Tables, address: bigint, rights: PlainRights): bigint | PlainOutcome {
  const index = Number(field(address, 31, 30));

  // SDM 4.4.1: the registers were checked when they were loaded; a walk consults P only.
  if (tables.pdptes !== undefined) {
    const value = tables.pdptes[index]!;
    walk.events.push({ type: 'pdpte-register', dimension: 'guest', level: 3, index, value });
    return bit(value, 0) ? value : tables.fault({ present: false, reserved: false });
  }

  // APM 5.2.3, 15.25.10: read from the table at CR3[31:5]; illegal bits are noticed now, as a (nested) page fault.
  const where = tables.locate(inPlace(tables.root, 31, 5) + BigInt(index) * 8n, rights);
  if (typeof where !== 'bigint') return where;
  const value = readEntry(walk, tables.dimension, 3, where, 8);
  if (!bit(value, 0)) return tables.fault({ present: false, reserved: false });
  const reserved = anySet(value, 2, 1) || anySet(value, 8, 5) || anySet(value, 63, walk.machine.maxphyaddr);
  return reserved ? tables.fault({ present: true, reserved: true }) : value;
}

/** SDM tables 4-4, 4-9, 4-16, 4-18: whether PS (bit 7) of this entry makes it map a page. */
function mapsPage(tables: Tables, level: number, value: bigint): boolean {
  switch (tables.format) {
    case '32-bit':
      return level === 2 && tables.pse && bit(value, 7); // CR4.PSE = 0: bit 7 is ignored
    case 'pae':
      return level === 2 && bit(value, 7);
    default:
      return (level === 2 || level === 3) && bit(value, 7);
  }
}

/** SDM tables 4-4 and 4-6: a PDE of a 4 MB page holds address bits 31:22 in their place and 39:32 in bits 20:13. */
function base32(level: number, value: bigint): bigint {
  if (level === 1) return inPlace(value, 31, 12);
  return inPlace(value, 31, 22) + (field(value, 20, 13) << 32n);
}

function reservedBitSet(machine: PlainMachine, tables: Tables, level: number, value: bigint): boolean {
  const { maxphyaddr, features, vendor } = machine;
  switch (tables.format) {
    case '32-bit': {
      // SDM 4.3 and table 4-4: bits 21:(M-19) of a PDE that maps a page; M = min(40, MAXPHYADDR), 32 without PSE-36.
      if (!mapsPage(tables, level, value)) return false;
      const m = features.pse36 ? Math.min(40, maxphyaddr) : 32;
      return anySet(value, 21, m - 19);
    }
    case 'pae':
      // SDM 4.4.2: bits 62:MAXPHYADDR; bit 63 unless NXE; bits 20:13 of a PDE that maps a page.
      if (anySet(value, 62, maxphyaddr)) return true;
      if (bit(value, 63) && !tables.nxe) return true;
      return level === 2 && bit(value, 7) && anySet(value, 20, 13);
    default:
      // SDM 4.5.4: bits 51:MAXPHYADDR; bit 63 unless NXE; PS where it cannot map a page; the low address bits of
      // large pages.
      if (anySet(value, 51, maxphyaddr)) return true;
      if (bit(value, 63) && !tables.nxe) return true;
      if (level >= 4 && bit(value, 7)) return true;
      // APM 5.3.3, figures of PML5E and PML4E: bit 8 must be zero too; Intel ignores it.
      if (level >= 4 && vendor === 'amd' && bit(value, 8)) return true;
      if (level === 3 && bit(value, 7)) return !features.pdpe1gb || anySet(value, 29, 13);
      return level === 2 && bit(value, 7) && anySet(value, 20, 13);
  }
}

/** SDM 4.6.1 (access rights) and 4.6.2 (protection keys); APM 5.6. */
function judgeAccess(
  machine: PlainMachine,
  access: PlainAccess,
  format: Format,
  mapping: Mapping,
): 'allowed' | 'denied' | 'denied-by-key' {
  const { rights, leaf, writableAboveLeaf } = mapping;
  const writeProtect = bit(machine.cr0, 16);
  const smep = bit(machine.cr4, 20);
  const smap = bit(machine.cr4, 21);
  const fetch = access.kind === 'fetch';
  const write = isWrite(access.kind);
  let denied = false;

  // User-mode accesses reach user-mode addresses only.
  if (access.user && !rights.user) denied = true;

  if (access.shadowStack) {
    // A shadow-stack address: R/W = 1 in every entry but the last, which has R/W = 0 and D = 1. User-mode
    // shadow-stack accesses reach user-mode ones, supervisor-mode shadow-stack accesses supervisor-mode ones.
    const shadowStackAddress = writableAboveLeaf && !bit(leaf.value, 1) && bit(leaf.value, 6);
    if (!shadowStackAddress) denied = true;
    if (access.user !== rights.user) denied = true;
  } else if (write && !rights.writable) {
    // CR0.WP = 0 lets supervisor-mode accesses write to any address.
    if (access.user || writeProtect) denied = true;
  }

  if (fetch) {
    // XD with EFER.NXE = 0 is a reserved bit and has faulted before.
    if (rights.executeDisable) denied = true;
    if (!access.user && rights.user && smep) denied = true;
  } else if (!access.user && rights.user && smap) {
    // RFLAGS.AC = 1 lets explicit supervisor-mode data accesses through, never implicit ones.
    if (access.implicit || !machine.ac) denied = true;
  }

  // Protection keys: 4- and 5-level paging, data accesses. User-mode addresses answer to PKRU, supervisor-mode
  // addresses to IA32_PKRS, whoever accesses them. The PK flag says that the key forbids, whether or not something
  // else does too (SDM 4.7).
  if (!fetch && (format === '4-level' || format === '5-level')) {
    const enabled = rights.user ? bit(machine.cr4, 22) : bit(machine.cr4, 24); // CR4.PKE, CR4.PKS
    const register = rights.user ? machine.pkru : machine.pkrs;
    const key = Number(field(leaf.value, 62, 59));
    const accessDisable = bit(register, 2 * key);
    const writeDisable = bit(register, 2 * key + 1);
    // WD stops user-mode writes to user-mode addresses, and with CR0.WP = 1 every write.
    const obeysWriteDisable = writeProtect || (rights.user && access.user);
    if (enabled && (accessDisable || (writeDisable && write && obeysWriteDisable))) return 'denied-by-key';
  }

  return denied ? 'denied' : 'allowed';
}

/** SDM 4.7, APM 8.4.2: the error code of a page fault. */
function pageFault(walk: Walk, cause: { present: boolean; reserved: boolean; key: boolean }): PlainOutcome {
  const { machine, access } = walk;
  const nxe = bit(machine.efer, 11) && bit(machine.cr4, 5);
  const smep = bit(machine.cr4, 20);
  let errorCode = 0n;
  errorCode = withBit(errorCode, 0, cause.present);
  errorCode = withBit(errorCode, 1, isWrite(access.kind));
  errorCode = withBit(errorCode, 2, access.user);
  errorCode = withBit(errorCode, 3, cause.reserved);
  errorCode = withBit(errorCode, 4, access.kind === 'fetch' && (nxe || smep));
  errorCode = withBit(errorCode, 5, cause.key);
  errorCode = withBit(errorCode, 6, access.shadowStack);
  return { kind: 'exception', vector: 14, errorCode, cr2: walk.linear };
}

/** SDM 4.8, APM 5.4.2: A in every entry that was used, D in the leaf of a write. Returns the entries that change. */
function withAccessedDirty(entries: Entry[], write: boolean, neverDirtyReadOnly: boolean): Entry[] {
  const leaf = entries.at(-1);
  return entries
    .map((entry) => {
      const dirty = entry === leaf && write && (bit(entry.value, 1) || !neverDirtyReadOnly);
      return { ...entry, value: withBit(withBit(entry.value, 5), 6, dirty) };
    })
    .filter((updated, i) => updated.value !== entries[i]!.value);
}

function writeGuestAccessedDirty(walk: Walk, mapping: Mapping): PlainOutcome | undefined {
  const { machine, access } = walk;
  const updates = withAccessedDirty(mapping.entries, isWrite(access.kind), machine.features.neverDirtyReadOnly);

  // SDM 28.3.3.2: with EPT's own flags off, the tables were read as data reads, and writing A/D needs write
  // permission. All are checked before the first is written. With the flags on they were accessed as writes already,
  // and so under NPT.
  if (machine.secondStage?.kind === 'ept' && !eptAccessedDirty(machine.secondStage)) {
    for (const update of updates) {
      const where = translateGuestPhysical(walk, update.gpa, 'table', 'write', mapping.rights);
      if (typeof where !== 'bigint') return where;
    }
  }

  for (const update of updates) writeEntry(walk, 'guest', update);
  return undefined;
}

// ------------------------------------------------------------------------------------------------------ second stage

function translateGuestPhysical(
  walk: Walk,
  gpa: bigint,
  purpose: 'table' | 'final',
  access: AccessKind,
  linear: PlainRights,
): bigint | PlainOutcome {
  const stage = walk.machine.secondStage;
  if (stage === undefined) return gpa;
  walk.events.push({ type: 'nested-walk-start', dimension: stage.kind, gpa, purpose, access, linear });
  if (stage.kind === 'npt') return translateNpt(walk, stage, gpa, purpose, access);
  return translateEpt(walk, stage, gpa, purpose, access, linear);
}

/** APM 15.25.5 and 15.25.6. */
function translateNpt(
  walk: Walk,
  npt: PlainNpt,
  gpa: bigint,
  purpose: 'table' | 'final',
  access: AccessKind,
): bigint | PlainOutcome {
  const write = isWrite(access);
  const fetch = access === 'fetch';
  const nxe = bit(npt.hostEfer, 11);

  // 15.25.5: every nested walk is a user access. Only with GMET does the final access keep the guest's own mode.
  const user = purpose === 'table' || !npt.gmet || walk.access.user;

  const fault = (because: { present: boolean; reserved: boolean }): PlainOutcome => {
    // 15.25.6: EXITINFO1 is a page-fault error code under the host's EFER.NXE, CR4.PAE and CR4.SMEP, with bit 32 or
    // 33 added.
    let exitInfo1 = 0n;
    exitInfo1 = withBit(exitInfo1, 0, because.present);
    exitInfo1 = withBit(exitInfo1, 1, write);
    exitInfo1 = withBit(exitInfo1, 2, user);
    exitInfo1 = withBit(exitInfo1, 3, because.reserved);
    exitInfo1 = withBit(exitInfo1, 4, fetch && ((nxe && bit(npt.hostCr4, 5)) || bit(npt.hostCr4, 20)));
    exitInfo1 = withBit(exitInfo1, 6, purpose === 'final' && walk.access.shadowStack);
    exitInfo1 = withBit(exitInfo1, purpose === 'final' ? 32 : 33);
    return { kind: 'npf', exitInfo1, exitInfo2: gpa };
  };

  const tables: Tables = {
    dimension: 'npt',
    format: pagingFormat(npt.hostCr4, npt.hostEfer),
    root: npt.ncr3,
    pse: bit(npt.hostCr4, 4),
    nxe,
    pdptes: undefined,
    locate: (address) => address,
    fault,
  };

  // Nested tables have no canonical check: gpa bits that the host's format cannot index are not looked at.
  const mapping = readTables(walk, tables, gpa);
  if ('kind' in mapping) return mapping;

  const { rights } = mapping;
  const denied =
    // 15.25.13, GMET: U/S = 0 no longer stops anything; instead supervisor fetches from pages with U/S = 1 are
    // stopped.
    (!rights.user && !npt.gmet) ||
    (write && !rights.writable) ||
    (fetch && rights.executeDisable) ||
    (fetch && npt.gmet && !user && rights.user);
  if (denied) return fault({ present: true, reserved: false });

  for (const update of withAccessedDirty(mapping.entries, write, false)) writeEntry(walk, 'npt', update);
  return mapping.address;
}

/** EPTP bit 6. */
function eptAccessedDirty(ept: PlainEpt): boolean {
  return bit(ept.eptp, 6);
}

/**
 * SDM 28.3.2 (the walk), 28.3.3 (misconfigurations, violations and their priority), 28.3.5 (accessed and dirty
 * flags).
 */
function translateEpt(
  walk: Walk,
  ept: PlainEpt,
  gpa: bigint,
  purpose: 'table' | 'final',
  access: AccessKind,
  linear: PlainRights,
): bigint | PlainOutcome {
  const accessedDirty = eptAccessedDirty(ept);
  // 28.3.3.2: with the flags on, accesses to guest paging-structure entries are treated as writes.
  const write = isWrite(access) || (purpose === 'table' && accessedDirty);
  const fetch = access === 'fetch';
  const entries: Entry[] = [];

  // The AND of bits 0, 1, 2 and 10 of all entries used.
  let readable = true;
  let writable = true;
  let executable = true;
  let userExecutable = true;

  const violation = (): PlainOutcome => {
    // SDM table 27-7.
    let qualification = 0n;
    // Accesses to the guest's tables that are writes set bits 0 and 1; a read-modify-write of the program sets bit 1
    // only (both as the walk logs have it; the manual demands the former only with the A/D flags on and is silent on
    // the latter).
    qualification = withBit(qualification, 0, purpose === 'table' || access === 'read');
    qualification = withBit(qualification, 1, write);
    qualification = withBit(qualification, 2, fetch);
    qualification = withBit(qualification, 3, readable);
    qualification = withBit(qualification, 4, writable);
    qualification = withBit(qualification, 5, executable);
    qualification = withBit(qualification, 6, ept.mbec && userExecutable);
    qualification = withBit(qualification, 7); // the linear address is valid
    if (purpose === 'final') {
      qualification = withBit(qualification, 8);
      qualification = withBit(qualification, 9, ept.advancedInfo && linear.user);
      qualification = withBit(qualification, 10, ept.advancedInfo && linear.writable);
      qualification = withBit(qualification, 11, ept.advancedInfo && linear.executeDisable);
      qualification = withBit(qualification, 13, walk.access.shadowStack);
    }
    return { kind: 'ept-violation', qualification, gpa, linear: walk.linear };
  };

  // Bits 5:3 of EPTP: 3 is a walk of four levels, 4 of five. Four levels use bits 47:0 of the gpa only.
  let level = Number(field(ept.eptp, 5, 3)) + 1;
  let table = inPlace(ept.eptp, 51, 12);

  for (;;) {
    const low = 12 + 9 * (level - 1);
    const address = table + field(gpa, low + 8, low) * 8n;
    const value = readEntry(walk, 'ept', level, address, 8);
    readable = readable && bit(value, 0);
    writable = writable && bit(value, 1);
    executable = executable && bit(value, 2);
    userExecutable = userExecutable && bit(value, 10);

    // 28.3.3.3 step 1a: not present, an EPT violation. With MBEC bit 10 counts as a permission.
    const present = anySet(value, 2, 0) || (ept.mbec && bit(value, 10));
    if (!present) return violation();
    // Step 1b: not configured properly.
    if (eptMisconfigured(walk.machine, ept, level, value)) return { kind: 'ept-misconfig', gpa, linear: walk.linear };

    entries.push({ level, gpa: address, address, value, bytes: 8 });

    if (level > 1 && !eptMapsPage(level, value)) {
      table = inPlace(value, 51, 12);
      level -= 1;
      continue;
    }

    // Step 2: the privileges, 28.3.3.2.
    const denied =
      (!write && !fetch && !readable) ||
      (write && !(readable && writable)) ||
      // MBEC tells user-mode from supervisor-mode linear addresses: the page's U/S, not the CPL.
      (fetch && !(ept.mbec && linear.user ? userExecutable : executable));
    if (denied) return violation();

    // 28.3.5: bit 8 accessed, bit 9 dirty.
    if (accessedDirty) {
      for (const entry of entries) {
        const dirty = write && entry === entries.at(-1);
        const updated = withBit(withBit(entry.value, 8), 9, dirty);
        if (updated !== entry.value) writeEntry(walk, 'ept', { ...entry, value: updated });
      }
    }
    return inPlace(value, 51, low) + field(gpa, low - 1, 0);
  }
}

/** Bit 7 of an EPT PDPTE or PDE. */
function eptMapsPage(level: number, value: bigint): boolean {
  return (level === 3 || level === 2) && bit(value, 7);
}

/** SDM 28.3.3.1 and tables 28-1 to 28-7, of an entry that is present. */
function eptMisconfigured(machine: PlainMachine, ept: PlainEpt, level: number, value: bigint): boolean {
  const readable = bit(value, 0);
  const executable = bit(value, 2) || (ept.mbec && bit(value, 10));
  if (!readable && bit(value, 1)) return true;
  if (!readable && executable && !ept.executeOnly) return true;

  // Reserved bits.
  if (anySet(value, 51, machine.maxphyaddr)) return true;
  if (level >= 4) return anySet(value, 7, 3);
  if (level === 3 && bit(value, 7) && !ept.page1g) return true;
  if (level === 2 && bit(value, 7) && !ept.page2m) return true;
  const leaf = level === 1 || eptMapsPage(level, value);
  if (!leaf) return anySet(value, 6, 3);
  if (level === 3 && anySet(value, 29, 12)) return true;
  if (level === 2 && anySet(value, 20, 12)) return true;

  // The memory types 2, 3 and 7.
  const memoryType = field(value, 5, 3);
  return memoryType === 2n || memoryType === 3n || memoryType === 7n;
}

// ------------------------------------------------------------------------------------------------------------ memory

function readEntry(walk: Walk, dimension: Dimension, level: number, address: bigint, bytes: 4 | 8): bigint {
  const value = bytes === 4 ? walk.memory.read32(address) : walk.memory.read64(address);
  walk.events.push({ type: 'element', dimension, level, address, value, bytes });
  return value;
}

function writeEntry(walk: Walk, dimension: Dimension, entry: Entry): void {
  const { level, address, value, bytes } = entry;
  if (bytes === 4) walk.memory.write32(address, value);
  else walk.memory.write64(address, value);
  walk.events.push({ type: 'entry-write', dimension, level, address, value, bytes });
}
