/** The page's style sheet. Light and dark by the reader's preference; narrow screens stack what wide ones put side by side. */

export const STYLE = `
:root { color-scheme: light dark; --back: #fff; --raised: #f6f7f9; --text: #1b1f24; --dim: #59636e; --line: #d5dae0;
  --good: #1a7f37; --good-back: #dcf3e3; --bad: #c0202c; --bad-back: #fde3e4; --warn: #8a5300; --warn-back: #fdeccb;
  --link: #0b5cc4; --ghost: #8b949e; --differs: #9a4dcc; --focus: #0b5cc4; }
@media (prefers-color-scheme: dark) { :root { --back: #111418; --raised: #1a1f25; --text: #e4e8ec; --dim: #9aa5b1;
  --line: #343c46; --good: #56c271; --good-back: #15321f; --bad: #ff7b81; --bad-back: #45191d; --warn: #e9ad4f;
  --warn-back: #3c2b0d; --link: #74b0ff; --ghost: #6b7580; --differs: #cd95f2; --focus: #74b0ff; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 7rem; }
body { margin: 0; overflow-wrap: anywhere; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 1160px; margin: 0 auto; padding: 0 16px; }
h1 { font-size: 1.5rem; margin: 1.2rem 0 .3rem; } h2 { font-size: 1.2rem; margin: 1.6rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; } h4 { font-size: .95rem; margin: 1rem 0 .2rem; }
p { margin: .35rem 0; } a { color: var(--link); }
.dim, .by, .mode, figcaption, footer { color: var(--dim); }
.by, .mode { font-size: .85em; }
pre, code, .line, .word, td, .tree, .actions { font-family: ui-monospace, "DejaVu Sans Mono", Consolas, monospace; font-size: 12.5px; }
pre { overflow-x: auto; background: var(--raised); border: 1px solid var(--line); border-radius: 6px; padding: 8px 10px; margin: .4rem 0; }
.scroll { overflow-x: auto; overflow-wrap: normal; }
table { border-collapse: collapse; margin: .3rem 0; } th, td { text-align: left; padding: 2px 12px 2px 0; vertical-align: top; }
th { font-weight: 600; font-size: 13px; } td.short { white-space: nowrap; } tr.unused { color: var(--dim); }
.badge { display: inline-block; border-radius: 10px; padding: 1px 9px; font-size: 12.5px; font-weight: 600; max-width: 100%; }
.badge.pass { color: var(--good); background: var(--good-back); } .badge.fail { color: var(--bad); background: var(--bad-back); }
.badge.error { color: var(--warn); background: var(--warn-back); } .badge.skip { color: var(--dim); background: var(--raised); }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: .8rem 0; padding: 0; list-style: none; }
.tiles li { border: 1px solid var(--line); border-radius: 8px; padding: 6px 14px; min-width: 96px; background: var(--raised); }
.tiles b { display: block; font-size: 1.35rem; line-height: 1.3; } .tiles .fail b { color: var(--bad); } .tiles .error b { color: var(--warn); } .tiles .pass b { color: var(--good); }
.bar { display: block; width: 100%; height: 10px; border-radius: 5px; overflow: hidden; background: var(--raised); }
.bar .pass { fill: var(--good); } .bar .fail { fill: var(--bad); } .bar .error { fill: var(--warn); } .bar .skip { fill: var(--ghost); }
.tools { position: sticky; top: 0; z-index: 5; background: var(--back); border-bottom: 1px solid var(--line); padding: 8px 0; display: flex; flex-wrap: wrap; gap: 6px 8px; align-items: center; }
.tools input { flex: 1 1 220px; min-width: 0; font: inherit; padding: 5px 10px; border: 1px solid var(--line); border-radius: 6px; background: var(--back); color: inherit; }
.tools button, .more { font: inherit; font-size: 13.5px; padding: 4px 10px; border: 1px solid var(--line); border-radius: 14px; background: var(--back); color: inherit; cursor: pointer; }
.tools button[aria-pressed=true] { background: var(--text); color: var(--back); border-color: var(--text); }
.firsts td, .firsts th { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); } .firsts { width: 100%; }
.firsts td:last-child { font-family: inherit; font-size: 13.5px; } .firsts td:nth-child(3), .firsts .badge { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; } .firsts .badge { max-width: 14em; }
.case { border: 1px solid var(--line); border-radius: 8px; margin: 8px 0; background: var(--back); }
.case > summary { padding: 7px 12px; cursor: pointer; display: flex; flex-wrap: wrap; gap: 2px 10px; align-items: baseline; }
.case > summary .file { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 13px; overflow-wrap: anywhere; font-weight: 600; }
.case > summary .dim { font-size: 13px; } .case[open] > summary { border-bottom: 1px solid var(--line); }
.case > .body { padding: 4px 14px 12px; }
summary { cursor: pointer; } details > summary { margin: .3rem 0; } .case > summary { margin: 0; }
.difference { border-top: 1px solid var(--line); margin-top: 12px; padding-top: 2px; } .difference:first-of-type { border-top: 0; }
.stimulus { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 12.5px; overflow-wrap: anywhere; }
.cause { border-left: 4px solid var(--bad); background: var(--bad-back); padding: 5px 10px; border-radius: 0 6px 6px 0; overflow-wrap: anywhere; }
.places { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; overflow: hidden; }
.place { display: grid; grid-template-columns: 20px 1fr 1fr; border-top: 1px solid var(--line); } .place:first-child { border-top: 0; }
.place.equal { color: var(--dim); border-top-color: transparent; } .place.head { font-weight: 600; font-size: 13px; background: var(--raised); }
.side { padding: 2px 8px; min-width: 0; } .side.both { grid-column: 2 / 4; } .side + .side { border-left: 1px solid var(--line); }
.sign { text-align: center; font-weight: 700; } .place.differs { background: var(--warn-back); } .place.only-a { background: var(--bad-back); } .place.only-b { background: var(--good-back); }
.line { white-space: pre-wrap; overflow-wrap: anywhere; } .line.nothing { color: var(--dim); font-style: italic; }
.word { padding: 0; border: 0; background: none; color: inherit; cursor: help; text-align: left; overflow-wrap: anywhere; text-decoration: underline dotted; text-underline-offset: 2px; }
.walks { display: flex; flex-wrap: wrap; gap: 8px 28px; align-items: flex-start; }
.picture { margin: .6rem 0; flex: 1 1 340px; max-width: 560px; min-width: 0; } figcaption { font-size: 13.5px; } figcaption b { color: var(--text); margin-right: .7em; } figcaption .word, figcaption .mode { margin-right: .7em; }
svg.walk { display: block; width: 100%; height: auto; max-width: 520px; } svg.walk.narrow { max-width: 250px; } svg.swatch { display: inline-block; width: 22px; margin-right: 5px; vertical-align: -3px; }
.walk text { font: 11.5px ui-monospace, "DejaVu Sans Mono", monospace; fill: var(--text); text-anchor: middle; }
.walk text.small { font-size: 10.5px; } .walk text.order { font-size: 8px; text-anchor: start; fill: var(--dim); }
.walk text.gpa, .walk text.head { text-anchor: start; font-size: 10.5px; fill: var(--dim); } .walk text.head { font-weight: 600; } .walk text.end { text-anchor: end; }
.cell rect { stroke-width: 1.4; } .cell { cursor: help; outline: none; } .cell:focus rect, .cell:hover rect { stroke-width: 3; stroke: var(--focus); }
.passed rect { fill: var(--good-back); stroke: var(--good); } .stopped rect { fill: var(--bad-back); stroke: var(--bad); stroke-width: 2.6; } .walk .stopped text { fill: var(--bad); font-weight: 700; }
.not-reached rect { fill: none; stroke: var(--ghost); stroke-dasharray: 3 3; } .walk .not-reached text { fill: var(--ghost); }
.none line { stroke: var(--ghost); stroke-width: 1.4; } .differs rect { stroke: var(--differs); stroke-width: 2.8; stroke-dasharray: 7 2.5; }
.written { fill: var(--differs); } .arrow { fill: none; stroke: var(--dim); stroke-width: 1.5; } .arrow.cut { stroke-dasharray: 2 3; stroke: var(--ghost); }
.result { font-size: 13px; font-family: ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; } .result.passed { color: var(--good); } .result.stopped { color: var(--bad); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; padding: 0; margin: .4rem 0; font-size: 13px; color: var(--dim); }
figure { margin: .6rem 0; } .timeline { outline-offset: 4px; cursor: crosshair; touch-action: pan-y; }
.timeline svg { display: block; width: 100%; height: 32px; border-bottom: 1px solid var(--line); } .band, .ends { font-size: 12px; color: var(--dim); } .band { margin-top: 5px; } .ends { display: flex; justify-content: space-between; }
.timeline .faults { fill: var(--bad); } .timeline .walks { fill: var(--link); } .timeline .flushes { fill: var(--warn); }
.mark, .cursor { vector-effect: non-scaling-stroke; fill: none; } .mark { stroke: var(--differs); stroke-width: 1.6px; stroke-dasharray: 5 3; } .cursor { stroke: var(--text); stroke-width: 1.5px; }
.tree { list-style: none; padding-left: 14px; border-left: 2px solid var(--line); margin: .2rem 0; } .tree li { margin: 3px 0; overflow-wrap: anywhere; } .tree .stopped > b { color: var(--bad); }
.checks { list-style: none; padding-left: 14px; color: var(--dim); font-family: system-ui, "DejaVu Sans", sans-serif; font-size: 12.5px; margin: 0; } .checks .fail { color: var(--bad); font-weight: 600; } .checks .contradicted { color: var(--warn); font-weight: 600; }
.actions li { margin: 2px 0; overflow-wrap: anywhere; }
#tip { position: absolute; left: 0; top: 0; z-index: 9; max-width: min(620px, calc(100vw - 16px)); max-height: 60vh; overflow: auto; background: var(--text); color: var(--back); border-radius: 6px; padding: 7px 10px; font: 12px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap; overflow-wrap: anywhere; box-shadow: 0 4px 18px rgb(0 0 0 / 35%); }
#tip[hidden] { display: none; } [hidden] { display: none !important; }
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; }
footer { padding: 1.5rem 16px; font-size: 13px; }
@media (max-width: 700px) {
  header, main, footer { padding-left: 10px; padding-right: 10px; } h1 { font-size: 1.25rem; }
  .tiles { gap: 6px; } .tiles li { flex: 1 1 40%; padding: 4px 10px; min-width: 0; } .tiles b { font-size: 1.1rem; }
  .case > .body { padding: 2px 8px 8px; } .place { grid-template-columns: 16px 1fr; } .side.both { grid-column: 2; } .side, .sign { grid-column: 2; } .sign { grid-column: 1; grid-row: 1 / 3; }
  .side + .side { border-left: 0; } .place.head { display: none; } .place:not(.equal) > .side::before { content: attr(data-label); display: block; font-size: 11px; color: var(--dim); }
  .firsts, .firsts tbody, .firsts tr, .firsts td { display: block; border: 0; padding: 1px 0; } .firsts tr { border-bottom: 1px solid var(--line); padding: 6px 0; } .firsts tr:first-child { display: none; }
  .place.only-a > .side:nth-child(3), .place.only-b > .side:nth-child(2) { display: none; } .picture { flex-basis: 100%; } html { scroll-padding-top: 9rem; }
  .tools { position: static; }
}
@media print { .tools { display: none; } }
`;
