"""The page's style sheet."""

STYLE = """
:root { color-scheme: light; --ink: #1a1a1a; --muted: #6b6b6b; --faint: #e4e4e4; }
* { box-sizing: border-box; }
html { scroll-padding-top: 12px; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", Verdana, sans-serif; color: var(--ink); background: #fff;
  max-width: 1240px; margin: 0 auto; padding: 24px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 8px; padding-top: 10px; border-top: 2px solid var(--ink); }
h3 { font-size: 15.5px; margin: 24px 0 6px; overflow-wrap: anywhere; }
p, li { max-width: 92ch; overflow-wrap: anywhere; }
p { margin: 6px 0 10px; }
ul { padding-left: 20px; margin: 8px 0; }
li { margin: 4px 0; }
small, .note { color: var(--muted); font-size: 12.5px; }
nav { margin: 14px 0 6px; font-size: 14px; line-height: 1.9; }
nav a { color: var(--ink); margin-right: 16px; }
a:focus-visible, button:focus-visible, input:focus-visible, summary:focus-visible, [tabindex]:focus-visible {
  outline: 2px solid #0072b2; outline-offset: 2px; }
svg { height: auto; display: block; font-family: "DejaVu Sans", Verdana, sans-serif; }
svg.key { display: inline-block; vertical-align: middle; margin-right: 6px; flex: none; }
.wide { overflow-x: auto; position: relative; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; margin: 6px 0; }
caption { text-align: left; font-weight: 600; padding: 4px 0; }
th, td { padding: 5px 9px; text-align: right; border-bottom: 1px solid var(--faint); white-space: nowrap; }
thead th { font-weight: 600; color: var(--muted); border-bottom-color: var(--muted); vertical-align: bottom; }
tbody th { font-weight: 400; }
tr > th:first-child, tr > td:first-child { text-align: left; padding-left: 0; }
td.prose, th.prose { text-align: left; white-space: normal; min-width: 32ch; }
td small { white-space: nowrap; }
td.text, th.text { text-align: left; }
.first { position: sticky; left: 0; background: #fff; z-index: 1; }
thead .first { text-align: left; padding-left: 0; }
.board thead tr:first-child th { border-bottom: none; text-align: left; color: var(--ink); padding-bottom: 0; }
.board tbody { border-top: 2px solid var(--muted); }
.board tr.kind th { color: var(--muted); font-size: 12.5px; border-bottom: none; padding-bottom: 0; }
.board .edge { border-left: 1px solid var(--faint); }
.board thead th { white-space: normal; min-width: 5.2em; }
.board th.first { min-width: 11em; }
.board th.first small { display: block; padding-left: 32px; line-height: 1.2; }
.board button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-align: inherit; }
.js .board th[aria-sort] button::after { content: " \\2195"; color: #b5b5b5; }
.js .board th[aria-sort=descending] button::after { content: " \\2193"; color: var(--ink); }
.js .board th[aria-sort=ascending] button::after { content: " \\2191"; color: var(--ink); }
.heat td, .board td { line-height: 1.3; }
.heat td small, .board td small { display: block; font-size: 11.5px; }
.heat .model { min-width: 12em; }
.heat .model small { white-space: normal; }
.square td, .square th { padding: 4px 7px; }
.square thead span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 15em; }
.tools { border: 0; margin: 8px 0; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: center;
  font-size: 13.5px; }
.tools[hidden] { display: none; }
.tools legend, .tools .title { color: var(--muted); padding: 0; float: left; min-width: 5.5em; }
.tools label { display: inline-flex; align-items: center; gap: 4px; cursor: pointer; max-width: 100%;
  overflow-wrap: anywhere; }
.tools button { font: inherit; padding: 1px 9px; border: 1px solid #b5b5b5; border-radius: 3px; background: #fff;
  color: inherit; cursor: pointer; }
.tools input { accent-color: #0072b2; margin: 0; }
#figure { position: relative; }
.plot svg { width: 100%; min-width: 860px; }
.plot[hidden] { display: none; }
.s.off .mark, .s.off .name { display: none; }
.s.off .line { stroke: #cdcdcd; stroke-width: 1.1; stroke-dasharray: none; }
.no-ghosts .s.off { display: none; }
#tip { position: absolute; display: none; pointer-events: none; background: #fff; border: 1px solid var(--muted);
  padding: 6px 10px; font-size: 13px; line-height: 1.4; white-space: pre; z-index: 2; max-width: 100%;
  overflow: hidden; box-shadow: 0 1px 4px rgba(0,0,0,.15); }
.grid { display: flex; flex-wrap: wrap; gap: 18px 28px; }
.grid figure, figure { margin: 0; max-width: 100%; }
figcaption { font-size: 13.5px; max-width: 320px; overflow-wrap: anywhere; }
.bars { display: grid; grid-template-columns: minmax(7em, max-content) 1fr; gap: 5px 12px; align-items: center;
  font-size: 13.5px; max-width: 1000px; }
.bars > span { overflow-wrap: anywhere; }
.bar { display: flex; height: 24px; }
.bar span { overflow: hidden; white-space: nowrap; font-size: 12px; line-height: 24px; padding-left: 4px;
  min-width: 0; border-right: 1px solid #fff; font-variant-numeric: tabular-nums; }
.swatches { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 13.5px; margin: 6px 0 10px; }
.swatches i { display: inline-block; width: 12px; height: 12px; margin-right: 6px; vertical-align: -1px; }
details { margin: 8px 0; } summary { cursor: pointer; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: minmax(8em, max-content) 1fr; gap: 2px 16px; }
dt { color: var(--muted); overflow-wrap: anywhere; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 700px) {
  body { padding: 14px; }
  h1 { font-size: 21px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; }
  .first { max-width: 38vw; overflow: hidden; text-overflow: ellipsis; }
  .bars { grid-template-columns: 1fr; gap: 1px; } .bar { margin-bottom: 8px; }
}
@media print { nav, .tools, #tip { display: none !important; } .wide { overflow: visible; } h2 { break-after: avoid; } }
"""
