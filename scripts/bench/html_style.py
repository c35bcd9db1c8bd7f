# SPDX-License-Identifier: Apache-2.0
"""
The report's style sheet. The colours of series are Okabe and Ito's, which people with any kind of
colour vision can tell apart; dark pages get the lighter ones of the same set. No character here
needs escaping in XML.
"""

STYLE = """
:root { --bg: #ffffff; --fg: #1c2024; --soft: #5a6570; --grid: #e2e6ea; --card: #f7f8fa;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #a8558a; --c4: #b37400; --c5: #2d8fc4;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171a; --fg: #e6e9ec; --soft: #9aa5b0;
  --grid: #2c3238; --card: #1b1f24; --c0: #56b4e9; --c1: #e69f00; --c2: #2bc49a; --c3: #cc79a7;
  --c4: #f0e442; --c5: #d9822b; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 90rem; background: var(--bg); color: var(--fg);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: 0.4rem 0; max-width: 70rem; }
.facts, figcaption, small { color: var(--soft); font-size: 0.85rem; }
.banner { border-left: 4px solid var(--bad); padding: 0.3rem 0.8rem; background: var(--card); }
.cards { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); }
.card, .cards figure { background: var(--card); border: 1px solid var(--grid); border-radius: 8px;
  padding: 0.8rem; min-width: 0; }
.card figure { border: 0; padding: 0; margin-top: 0.8rem; }
.columns { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 34rem; overflow: visible; }
.key { width: 14px; height: 14px; vertical-align: -2px; margin-right: 0.3rem; }
.legend span { margin-right: 1.2rem; white-space: nowrap; }
.w { font-size: 0.72rem; border: 1px solid var(--grid); border-radius: 4px; padding: 0 0.25rem;
  color: var(--soft); font-weight: normal; white-space: nowrap; }
details { margin-top: 0.5rem; }
summary, .data { cursor: pointer; color: var(--c0); font-size: 0.85rem; }
.scroll { overflow-x: auto; margin: 0.5rem 0; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 0.2rem 0.7rem 0.2rem 0;
  border-bottom: 1px solid var(--grid); }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
td small { white-space: nowrap; }
.o-failed { color: var(--bad); font-weight: 600; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg .h { fill: var(--fg); font-weight: 600; }
svg .u { font-style: italic; }
svg .grid { stroke: var(--grid); stroke-width: 1; }
svg .diagonal { stroke: var(--soft); stroke-dasharray: 2 4; }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .dash { stroke-dasharray: 5 4; stroke-width: 1.2; }
svg .pass { stroke-width: 1.4; }
svg .hollow { fill: none; stroke-width: 1.6; }
svg .dot { fill-opacity: 0.75; }
svg .c0 { stroke: var(--c0); } svg .c1 { stroke: var(--c1); } svg .c2 { stroke: var(--c2); }
svg .c3 { stroke: var(--c3); } svg .c4 { stroke: var(--c4); } svg .c5 { stroke: var(--c5); }
svg .c0.dot, svg .c0.bar { fill: var(--c0); } svg .c1.dot, svg .c1.bar { fill: var(--c1); }
svg .c2.dot, svg .c2.bar { fill: var(--c2); } svg .c3.dot, svg .c3.bar { fill: var(--c3); }
svg .c4.dot, svg .c4.bar { fill: var(--c4); } svg .c5.dot, svg .c5.bar { fill: var(--c5); }
@media (max-width: 32rem) { body { padding: 0.6rem; } svg text { font-size: 13px; } }
"""
