/** The list of active shadow pages, newest first: recycling and zapping go along it (facts/kvm-6.1.md §2.1). */

import type { ShadowPage } from './shadow-page.ts';

export class ActivePages {
  newest: ShadowPage | null = null;
  oldest: ShadowPage | null = null;

  add(sp: ShadowPage): void {
    sp.older = this.newest;
    sp.newer = null;
    if (this.newest === null) this.oldest = sp;
    else this.newest.newer = sp;
    this.newest = sp;
    sp.listed = true;
  }

  remove(sp: ShadowPage): void {
    if (!sp.listed) return;
    if (sp.newer === null) this.newest = sp.older;
    else sp.newer.older = sp.older;
    if (sp.older === null) this.oldest = sp.newer;
    else sp.older.newer = sp.newer;
    sp.newer = null;
    sp.older = null;
    sp.listed = false;
  }

  *all(): Generator<ShadowPage> {
    for (let sp = this.newest; sp !== null; sp = sp.older) yield sp;
  }
}
