"""The style sheet of the pages, after the one that all pages share (`inference/page/theme.css`): print too; and the
script that sorts tables."""

STYLE = """
header .score { display: flex; flex-wrap: wrap; align-items: center; gap: .4em 1.2em; margin: .6em 0; }
header .score > b {
  font-size: clamp(3.2rem, 10vw, 5.2rem); line-height: 1; letter-spacing: -.04em; font-weight: 700;
  color: rgb(var(--a));
}
header .score p { margin: 0; }
header .score p + p, header > p { color: var(--soft); }
header dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(135px, 1fr)); gap: 10px;
  margin: 1.2em 0 1em; }
header dl div { padding: .7em .9em; background: var(--card); border: 1px solid var(--edge); border-radius: 10px; }
header dd { margin: 0; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.banner {
  margin-bottom: 1.3em; padding: .7em 1em; max-width: none; border-left: 4px solid rgb(var(--b));
    background: rgb(var(--b) / .12);
  border-radius: 6px; color: var(--ink) !important;
}

nav { display: flex; flex-wrap: wrap; gap: .2em 1em; margin: 0 0 1.2em; font-size: .88rem; }

.commands { margin: .8em 0 0; display: grid; gap: .2em 1em; }
.commands dt { margin-top: .4em; }
.commands dd { margin: 0; min-width: 0; }
.commands pre { user-select: all; }
@media (min-width: 760px) { .commands { grid-template-columns: 13rem 1fr; align-items: center; }
.commands dt { margin: 0; } }

.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 22px 28px;
  margin: 1em 0 .4em; }
figure { margin: 0; min-width: 0; }
.charts figcaption { display: flex; flex-wrap: wrap; gap: 0 .8em; font-size: .88rem; margin-bottom: .2em; }
.charts figcaption > span:last-child { color: var(--soft); margin-left: auto; font-variant-numeric: tabular-nums; }
.charts svg { display: block; width: 100%; height: auto; max-width: 460px; overflow: visible; }
svg text { font-size: 11px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.grid { stroke: var(--edge); stroke-width: 1; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line.s0 { stroke: rgb(var(--a)); } .line.s1 { stroke: rgb(var(--b)); } .line.s2 { stroke: var(--good); }
.line.s3, .dot.s3 { stroke: #8a5bd0; } .line.s4, .dot.s4 { stroke: #b08a00; } .line.s5, .dot.s5 { stroke: #1f9c8f; }
.dot.s0 { fill: rgb(var(--a)); } .dot.s1 { fill: rgb(var(--b)); } .dot.s2 { fill: var(--good); }
.key::before {
  content: ""; display: inline-block; width: .7em; height: .7em; margin-right: .35em; border-radius: 50%;
  background: rgb(var(--a));
}
.key.s1::before { background: rgb(var(--b)); } .key.s2::before { background: var(--good); }
.key.s3::before { background: #8a5bd0; } .key.s4::before { background: #b08a00; }
.key.s5::before { background: #1f9c8f; }
.column { fill: rgb(var(--a) / .3); } .count { fill: rgb(var(--a) / .55); }
.ideal { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 4 4; }

.scroll { overflow-x: auto; max-width: 100%; margin: .6em 0; container-type: inline-size; }
.scroll:focus-visible { outline: 2px solid rgb(var(--a) / .6); outline-offset: 3px; border-radius: 4px; }
.scroll.sortable { max-height: 36rem; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .34em .6em; text-align: left; border-bottom: 1px solid var(--edge); vertical-align: baseline; }
tbody tr:last-child > * { border-bottom: 0; }
th { font-weight: 500; }
thead th { position: sticky; top: 0; background: var(--card); color: var(--soft); font-size: .82rem;
  white-space: nowrap; z-index: 1; }
thead th button { all: unset; cursor: pointer; } thead th button:focus-visible { text-decoration: underline; }
thead th[aria-sort] button { color: var(--ink); }
thead th[aria-sort=ascending] button::after { content: " ↑"; }
thead th[aria-sort=descending] button::after { content: " ↓"; }
table.sortable tbody th { min-width: 5.2rem; }
@media (max-width: 600px) {
  table.sortable { font-size: .8rem; } .sortable th, .sortable td { padding: .3em .15em; }
  .sortable .bar { min-width: 3em; }
}
table.facts th { color: var(--soft); width: 12rem; }
@media (max-width: 600px) { table.facts th { width: 8.6rem; } }
table.facts td { overflow-wrap: anywhere; }
.bar { display: block; position: relative; padding: 0 .3em; border-radius: 3px; min-width: 3.4em;
  white-space: nowrap; z-index: 0; }
.bar::before {
  content: ""; position: absolute; z-index: -1; inset: .1em auto .1em 0; width: calc(var(--v) * 100%);
  background: rgb(var(--a) / .24); border-radius: 3px;
}
.bar.quiet::before { background: var(--edge); }

.legend { color: var(--soft); font-size: .85rem; }
.swatch { display: inline-block; width: .9em; height: .9em; border-radius: 3px; vertical-align: -.1em;
  margin: 0 .3em 0 .2em; }
.swatch.hit { background: rgb(var(--a)); } .swatch.miss { background: rgb(var(--b)); }
.matrix {
  --names: 5.6rem; --cell: clamp(var(--least), calc((100cqw - var(--names)) / var(--n)), var(--most)); width: auto;
  table-layout: fixed; border-collapse: separate; border-spacing: 0; font-size: 10px;
}
@media (min-width: 600px) { .matrix { --names: 9rem; font-size: 12px; } }
.matrix th, .matrix td { border: 0; padding: 0; }
.matrix td {
  width: var(--cell); min-width: var(--cell); height: var(--cell); text-align: center; vertical-align: middle;
  background: var(--fill); border: 1px solid var(--card); border-radius: 4px;
}
.matrix thead td { background: none; height: auto; width: var(--names); min-width: var(--names); }
.matrix thead th { position: static; vertical-align: bottom; color: inherit; font-size: inherit; }
.matrix thead span {
  display: inline-block; writing-mode: vertical-rl; transform: rotate(180deg); max-height: 9rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; padding-top: 4px; width: var(--cell); line-height: var(--cell);
}
.matrix tbody th {
  position: sticky; left: 0; background: var(--card); width: var(--names); max-width: var(--names);
  vertical-align: middle; z-index: 1;
}
.matrix tbody th span {
  display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; text-align: right;
  padding-right: .6em;
}
.matrix td.hit { background: rgb(var(--a) / var(--v)); } .matrix td.miss { background: rgb(var(--b) / var(--v)); }
.matrix td.deep { color: var(--deep); }

.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(88px, 1fr)); gap: 16px 12px;
  margin-top: .8em; }
@media (min-width: 700px) { .images { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); } }
.images figure { font-size: .8rem; line-height: 1.35; }
.scene { margin: .8rem 0; } .scene div { display: flex; gap: .4rem; flex-wrap: wrap; } .scene img { max-width: 32%;
  height: auto; }
.images img {
  display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--fill); border-radius: 8px;
  margin-bottom: .3em;
}
.pairs { grid-template-columns: repeat(auto-fill, minmax(196px, 1fr)) !important; }
.pairs figure { display: grid; grid-template-columns: 1fr 1fr; gap: 0 4px; }
.pairs figcaption { grid-column: 1 / -1; }
.generated, .snapshots img { display: block; max-width: 100%; height: auto; margin: .6em 0; }
.generated { width: min(100%, 420px); }
.snapshots figure { display: grid; grid-template-columns: 5.2rem minmax(0, 560px); align-items: center;
  font-size: .85rem; }
.snapshots figcaption { color: var(--soft); } .snapshots img { width: 100%; margin: .1em 0; }
.copies { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 12px 32px;
  margin: .4em 0 1.2em; }
.copies figure { display: grid; grid-template-columns: 1.15fr 1fr 1fr 1fr; gap: 6px; font-size: .8rem;
  color: var(--soft); }
.copies figure > div:first-child { padding-right: .5em; border-right: 2px solid var(--edge); color: var(--ink); }
.copies img { display: block; width: 100%; border-radius: 6px; margin-bottom: .2em; }
.generated.pixels, .snapshots .pixels, .copies .pixels { image-rendering: pixelated; }
.charts img { max-width: 460px; width: 100%; image-rendering: pixelated; }
.images .pixels { image-rendering: pixelated; }
.mark { font-weight: 700; } .right .mark { color: var(--good); } .wrong .mark { color: var(--bad); }

.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 0 36px;
  align-items: start; }
.columns > *, .boxes > * { min-width: 0; }
.boxes { columns: 2 440px; column-gap: 36px; } .boxes > div { break-inside: avoid; padding-top: 1px; }
.boxes h3 { margin-top: .8em; }
.why { color: var(--soft); margin-left: .5em; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; max-height: 16rem; overflow-y: auto; margin-top: .6em; }
.chip { padding: .1em .65em; background: var(--fill); border-radius: 99px; font-size: .85rem; }
ul { margin: .6em 0; padding-left: 1.2em; color: var(--soft); font-size: .9rem; }

@media print {
  :root {
    color-scheme: light; --ground: #fff; --card: #fff; --ink: #000; --soft: #444; --edge: #ccc; --fill: #f2f2f2;
    --a: 43 92 196; --b: 201 93 20; --good: #1d7a4c; --bad: #b3361e; --deep: #fff;
  }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 11pt; } main { padding: 0; } nav, body::before { display: none; }
  section { border: 0; padding: 0; margin: 0 0 14pt; } .scroll, .scroll.sortable, .chips { overflow: visible;
    max-height: none; }
  figure, tr, header { break-inside: avoid; } h2 { break-after: avoid; }
}
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, i) => row.cells[i].textContent.replaceAll(",", "");
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(h => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = (a, b) => i ? key(a, i) - key(b, i) : key(a, i).localeCompare(key(b, i), undefined,
        { numeric: true });
      body.append(...[...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)));
    };
  });
}
"""
