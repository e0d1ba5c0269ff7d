/** The digest of a segment: SHA-256 over the length and CRC of each of its chunks before the index. */

import { createHash } from 'node:crypto';

export class SegmentDigest {
  private readonly hash = createHash('sha256');
  private readonly row = new DataView(new ArrayBuffer(12));

  /** `length` and `crc` as the chunk's frame gives them. */
  add(length: number, crc: number): void {
    this.row.setUint32(0, length, true);
    this.row.setUint32(4, Math.floor(length / 0x1_0000_0000), true);
    this.row.setUint32(8, crc, true);
    this.hash.update(this.row);
  }

  /** 64 lower-case hexadecimal digits, over what was added so far. */
  get hex(): string {
    return this.hash.copy().digest('hex');
  }
}
