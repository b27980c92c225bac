"""The looks of the job page, and the little script that reads plots out under the pointer. Nothing is fetched from anywhere."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--card:#f6f7f9;--ink:#1b1f24;--quiet:#57606a;--edge:#d5dae1;--link:#0b57b0;
--ok:#17692b;--failed:#b1201c;--stopped:#8a5300;--running:#0b57b0;--grid:#e3e7ec;--limit:#b1201c;--code:#f1f3f5;
--tone1:#0b6bcb;--tone2:#b35900;--tone3:#6d3fc0;--tone4:#0f7a6c}
@media(prefers-color-scheme:dark){:root{--bg:#12161b;--card:#1b2128;--ink:#e7ebf0;--quiet:#a3adb9;--edge:#343d48;
--link:#7db4ff;--ok:#5fd07d;--failed:#ff8a80;--stopped:#f0b455;--running:#7db4ff;--grid:#28303a;--limit:#ff8a80;
--code:#0d1115;--tone1:#63acff;--tone2:#f2a65a;--tone3:#bd9bff;--tone4:#4fd1bd}}
@media print{:root{color-scheme:light;--bg:#fff;--card:#fff;--ink:#000;--quiet:#444;--edge:#bbb;--link:#000;--ok:#17692b;
--failed:#b1201c;--stopped:#8a5300;--running:#0b57b0;--grid:#ddd;--limit:#b1201c;--code:#fff;
--tone1:#0b6bcb;--tone2:#b35900;--tone3:#6d3fc0;--tone4:#0f7a6c}
body{max-width:none!important;padding:0!important;font-size:10pt!important}section,figure{break-inside:avoid}
.copy,.readout{display:none}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:70rem;padding:1.2rem clamp(.8rem,3vw,2rem) 3rem;background:var(--bg);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:.1rem 0 .4rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
h3{font-size:1rem;margin:1.2rem 0 .4rem}p{margin:.4rem 0}a{color:var(--link)}
a:focus-visible,summary:focus-visible,button:focus-visible,[tabindex]:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.quiet{color:var(--quiet)}.unseen{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
header .job{color:var(--quiet);margin:0}
.verdict{border:1px solid var(--edge);border-left:.5rem solid var(--kind);background:var(--card);border-radius:.4rem;
padding:.8rem 1.1rem;margin:.8rem 0}
.verdict h1{color:var(--kind)}
.ok{--kind:var(--ok)}.failed{--kind:var(--failed)}.stopped{--kind:var(--stopped)}.running{--kind:var(--running)}
.verdict dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem;margin:.7rem 0 0}
.verdict dt{color:var(--quiet)}.verdict dd{margin:0}.verdict .do{font-weight:600}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.6rem,1fr));gap:.6rem;margin:1rem 0;padding:0;list-style:none}
.figures li{border:1px solid var(--edge);border-radius:.4rem;padding:.55rem .8rem;background:var(--card)}
.figures b{display:block;white-space:nowrap;font-size:1.15rem;font-weight:650;line-height:1.3}.figures span{color:var(--quiet);font-size:.85rem}
.figures .name{display:block;color:var(--ink)}
.figures .over b{color:var(--failed)}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1.2rem;margin:0}
.facts dt{color:var(--quiet)}.facts dd{margin:0}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.82rem}
pre{background:var(--code);border:1px solid var(--edge);border-radius:.4rem;padding:.7rem .9rem;margin:.4rem 0;
white-space:pre-wrap;overflow-wrap:anywhere;tab-size:4}
pre.tail{max-height:26rem;overflow-y:auto}
details{margin:.5rem 0}summary{cursor:pointer;padding:.2rem 0}
.stages{list-style:none;margin:0;padding:0}
.stages li{display:grid;grid-template-columns:6rem 1fr 7.2rem;gap:.7rem;align-items:center;min-height:1.7rem}
.stages svg{width:100%;height:1.1rem;overflow:visible}.stages .took{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.track{fill:var(--card);stroke:var(--edge)}.bar{fill:var(--tone1);stroke:var(--tone1);stroke-width:2}
.bar.guilty{fill:var(--kind);stroke:var(--kind)}.bar.open{fill-opacity:.35}
.stages .axis svg{height:1.3rem}.axis text,.axis-x text,.axis-y text{fill:var(--quiet);font-size:.75rem}
.mark{stroke:var(--stopped);stroke-width:1.5;stroke-dasharray:2 3}
.plot{margin:1.4rem 0 1.8rem}figcaption{display:flex;flex-wrap:wrap;gap:.1rem 1.2rem;align-items:baseline;margin-bottom:.4rem}
.plot-title{font-weight:650}.legend{display:flex;flex-wrap:wrap;gap:0 1.1rem;color:var(--quiet);font-size:.85rem}
.key{display:inline-flex;align-items:center;gap:.4rem}.swatch{width:1.1rem;height:.25rem;border-radius:2px;background:currentColor}
.tone1{color:var(--tone1)}.tone2{color:var(--tone2)}.tone3{color:var(--tone3)}.tone4{color:var(--tone4)}
.plot-frame{display:grid;grid-template-columns:4.4rem minmax(0,1fr);position:relative}
.plot-frame svg{display:block;width:100%}.axis-y{overflow:visible;height:11rem}.axis-y text{text-anchor:end}
.area{height:11rem;border-left:1px solid var(--edge);border-bottom:1px solid var(--edge)}
.axis-x{grid-column:2;height:1.4rem;margin-top:.2rem;overflow:visible}
.grid{stroke:var(--grid);stroke-width:1}.line{fill:none;stroke:currentColor;stroke-width:1.6;vector-effect:non-scaling-stroke;stroke-linejoin:round}
.below{fill:currentColor;fill-opacity:.14;stroke:none}.peak{fill:currentColor;stroke:var(--bg);stroke-width:1.5}
.limit{stroke:var(--limit);stroke-width:2;stroke-dasharray:7 4}
.level{stroke:var(--quiet);stroke-width:1.5;stroke-dasharray:7 4}
.limit-label.limit{fill:var(--limit)}.limit-label.level{fill:var(--quiet)}.mark-label{fill:var(--stopped)}
.limit-label,.mark-label{font-size:.78rem;font-weight:600;paint-order:stroke;stroke:var(--bg);stroke-width:4px;stroke-linejoin:round;stroke-dasharray:none}
.limit-note,.plot-note{margin-left:4.4rem;color:var(--quiet);font-size:.85rem}.limit-note.limit{color:var(--limit)}
.readout{position:absolute;top:.3rem;left:5rem;pointer-events:none;background:var(--bg);border:1px solid var(--edge);
border-radius:.3rem;padding:.1rem .5rem;font-size:.8rem;font-variant-numeric:tabular-nums}
.readout[hidden]{display:none}.cursor{stroke:var(--ink);stroke-width:1;opacity:.5}
.scroll{overflow-x:auto}.scroll table{min-width:46rem}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:.35rem .8rem .35rem 0;border-bottom:1px solid var(--edge);vertical-align:top}
th{color:var(--quiet);font-weight:600}td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
th,td{overflow-wrap:normal}td.name{min-width:12rem;overflow-wrap:anywhere}td.url{overflow-wrap:anywhere}td.problem{color:var(--failed)}
.log-head{display:flex;flex-wrap:wrap;gap:.1rem 1rem;align-items:baseline}
button.copy{font:inherit;font-size:.85rem;padding:.15rem .7rem;border:1px solid var(--edge);border-radius:.3rem;background:var(--card);color:var(--ink);cursor:pointer}
footer{margin-top:3rem;padding-top:.8rem;border-top:1px solid var(--edge);color:var(--quiet);font-size:.85rem}
@media(max-width:36rem){body{font-size:15px}h1{font-size:1.25rem}.stages li{grid-template-columns:4.4rem 1fr 6rem;gap:.4rem;font-size:.88rem}
.plot-frame{grid-template-columns:3.6rem minmax(0,1fr)}.limit-note,.plot-note{margin-left:0}
.facts,.verdict dl{grid-template-columns:1fr;gap:0}.facts dd,.verdict dd{margin-bottom:.5rem}}
"""

# Comfort only: without it, everything can be read all the same. Texts go in through textContent.
SCRIPT = """
'use strict';
(() => {
const bytes = v => { let u = 0; while (Math.abs(v) >= 999.5 && u < 5) { v /= 1024; u++; }
  const d = u === 0 ? 0 : Math.abs(v) < 9.995 ? 2 : Math.abs(v) < 99.95 ? 1 : 0;
  return v.toFixed(d) + ' ' + ['B', 'kB', 'MB', 'GB', 'TB', 'PB'][u]; };
const clock = s => { s = Math.round(s); const p = n => String(n).padStart(2, '0');
  return Math.floor(s / 3600) + ':' + p(Math.floor(s / 60) % 60) + ':' + p(s % 60); };
for (const area of document.querySelectorAll('svg.area')) {
  const d = area.dataset, begin = +d.begin, end = +d.end, top = +d.top;
  const lines = [...area.querySelectorAll('polyline')].map(line => ({ name: line.dataset.name,
    points: line.getAttribute('points').split(' ').map(p => p.split(',').map(Number)) }));
  const out = document.createElement('div'); out.className = 'readout'; out.hidden = true; area.parentNode.append(out);
  const cursor = document.createElementNS('http://www.w3.org/2000/svg', 'line');
  cursor.setAttribute('class', 'cursor'); cursor.setAttribute('y1', '0'); cursor.setAttribute('y2', '100%');
  area.addEventListener('pointermove', event => {
    const box = area.getBoundingClientRect(), share = (event.clientX - box.left) / box.width, x = share * 1000;
    if (share < 0 || share > 1) return;
    const told = lines.map(line => {
      let low = 0, high = line.points.length - 1;
      while (low < high) { const mid = (low + high) >> 1; if (line.points[mid][0] < x) low = mid + 1; else high = mid; }
      if (low > 0 && x - line.points[low - 1][0] < line.points[low][0] - x) low--;
      const value = (1000 - line.points[low][1]) / 1000 * top;
      return line.name + ' ' + (d.unit === 'bytes' ? bytes(value) : value.toFixed(2));
    });
    out.textContent = [clock(begin + share * (end - begin)), ...told].join('  ·  '); out.hidden = false;
    for (const name of ['x1', 'x2']) cursor.setAttribute(name, (share * 100) + '%');
    area.append(cursor);
  });
  area.addEventListener('pointerleave', () => { out.hidden = true; cursor.remove(); });
}
for (const button of document.querySelectorAll('button.copy')) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener('click', () => navigator.clipboard.writeText(button.parentNode.querySelector('code').textContent)
    .then(() => { button.textContent = 'copied'; }, () => { button.textContent = 'not copied'; }));
}
for (const tail of document.querySelectorAll('pre.tail')) {
  const show = () => { tail.scrollTop = tail.scrollHeight; };
  show(); tail.closest('details')?.addEventListener('toggle', show);
}
})();
"""
