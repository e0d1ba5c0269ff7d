/** What trees of walks tell as a whole: which contexts took part, and what the machine made of the words against the rules. */

import type { ContextName, ExplainedWalk, WalkNode } from './explanation.ts';

/** Contexts that walked, or whose entries were read. */
export function contextsIn(walks: readonly ExplainedWalk[]): Set<ContextName> {
  const used = new Set<ContextName>();
  const visit = (nodes: readonly WalkNode[]): void => {
    for (const node of nodes) {
      used.add(node.context);
      visit(node.inner);
    }
  };
  for (const walk of walks) {
    used.add(walk.by);
    visit(walk.nodes);
  }
  return used;
}

/** What the machine made of the words against the rules, in sentences: nothing for a machine that is right. */
export function contradictionsIn(walks: readonly ExplainedWalk[]): string[] {
  const found: string[] = [];
  const visit = (by: ContextName, nodes: readonly WalkNode[]): void => {
    for (const node of nodes) {
      for (const { contradicted, rule, citation } of node.checks) {
        if (contradicted === undefined) continue;
        const place = node.kind === 'entry' ? ` (${node.name} at ${node.address})` : '';
        found.push(`the walk of ${node.context}${place} is wrong: ${contradicted}; the rule: ${rule} (${citation})`);
      }
      visit(by, node.inner);
    }
  };
  for (const walk of walks) {
    // What the processor made of KVM's tables is no software's verdict.
    if (walk.by === 'processor') continue;
    visit(walk.by, walk.nodes);
    for (const { contradicted, rule, citation } of walk.checks) {
      if (contradicted !== undefined)
        found.push(`the walk of ${walk.by} is wrong: ${contradicted}; the rule: ${rule} (${citation})`);
    }
  }
  return [...new Set(found)];
}
