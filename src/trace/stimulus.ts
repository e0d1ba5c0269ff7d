/** The rare stimuli: those that travel as messages, not in columns. */

import type { Word64 } from '../bits/word64.ts';

/** A page of physical memory as it was found. */
export interface PageImage {
  readonly kind: 'page-image';
  /** Physical address, 4 KiB aligned. */
  readonly address: Word64;
  /** 1024 elements: 512 words of 64 bits, low half first. */
  readonly words: Uint32Array;
}

/** A run of `count` entries of `size` bytes at `address`; entry i holds `first + i * increment`, modulo its size. */
export interface EntryFill {
  readonly kind: 'entry-fill';
  readonly address: Word64;
  readonly count: number;
  readonly first: Word64;
  readonly increment: Word64;
  readonly size: 4 | 8;
}

/** A label: a test's name, a configuration. */
export interface Note {
  readonly kind: 'note';
  readonly text: string;
}

/** KVM_SET_USER_MEMORY_REGION. */
export interface Memslot {
  readonly kind: 'memslot';
  readonly what: 'create' | 'delete' | 'move' | 'flags';
  readonly slot: number;
  /** 0, or 1 for SMM. */
  readonly addressSpace: number;
  /** Guest-physical address and size in bytes, 4 KiB aligned; of a deleted slot 0. */
  readonly address: Word64;
  readonly size: Word64;
  readonly readOnly: boolean;
  readonly dirtyLog: boolean;
  /** Host-virtual address that backs it. */
  readonly userspace: Word64;
}

/** KVM_GET_DIRTY_LOG (which clears what it reports), or a part of it by KVM_CLEAR_DIRTY_LOG. */
export interface DirtyLog {
  readonly kind: 'dirty-log';
  readonly slot: number;
}

/** The MMU notifier outside a fault: the host unmaps, ages or tests a range of its own addresses. */
export interface Notifier {
  readonly kind: 'notifier';
  readonly what: 'unmap' | 'set-pte' | 'age' | 'test-age';
  readonly start: Word64;
  /** Exclusive. */
  readonly end: Word64;
}

/** A change of the hypervisor's state without operands worth a kind of its own. */
export interface HypervisorCall {
  readonly kind: 'hypervisor';
  /** `zap-all`: nx_huge_pages is toggled or the like. `destroy`: the VM goes. `set-cpuid`, `set-sregs`: the ioctls. */
  readonly what: 'zap-all' | 'destroy' | 'set-cpuid' | 'set-sregs';
}

export type Stimulus = PageImage | EntryFill | Note | Memslot | DirtyLog | Notifier | HypervisorCall;
