'use strict';
(() => {
const POLL_MS = 1000, SLOW_POLL_MS = 5000, MOST_NODES = 400;
const KINDS = [
  ['waiting', ['defined', 'waiting', 'pending', 'assigned', 'activated']], ['starting', ['sent', 'starting', 'throttled']],
  ['running', ['running']], ['storing', ['holding', 'transferring', 'merging']], ['finished', ['finished']],
  ['failed', ['failed', 'cancelled', 'closed']]];
const OVER = new Set(['finished', 'failed', 'cancelled', 'closed']);
const $ = id => document.getElementById(id);
const kindOf = state => (KINDS.find(([, states]) => states.includes(state)) || KINDS[0])[0];

// --- small tools: nothing is written to the page that is already there, so nothing flickers ---------------------------

const set = (element, text) => { if (element.textContent !== text) element.textContent = text; };
const setClass = (element, name) => { if (element.getAttribute('class') !== name) element.setAttribute('class', name); };
const make = (name, text = '', attributes = {}) => {
  const element = document.createElement(name);
  element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const draw = (name, attributes, text = '') => {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
};
// Children of `parent` become one element a key, in this order; `update` gets each.
const keyed = (parent, items, key, create, update) => {
  const old = parent.keyed || new Map(), now = new Map();
  items.forEach((item, position) => {
    const name = String(key(item)), element = old.get(name) || create(item);
    update(element, item);
    if (parent.children[position] !== element) parent.insertBefore(element, parent.children[position] || null);
    now.set(name, element);
  });
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  parent.keyed = now;
};
const size = v => { let u = 0; while (v >= 999.5 && u < 4) { v /= 1024; u++; }
  return (u ? v.toFixed(v < 9.995 ? 2 : v < 99.95 ? 1 : 0) : v) + ' ' + ['B', 'kB', 'MB', 'GB', 'TB'][u]; };
const span = s => s < 120 ? Math.max(0, s).toFixed(0) + ' s' : s < 7200 ? (s / 60).toFixed(0) + ' min' : (s / 3600).toFixed(1) + ' h';
const clock = s => new Date(s * 1000).toISOString().slice(11, 19);
const patient = (url, headers = {}) => fetch(url, { headers, cache: 'no-store', signal: AbortSignal.timeout(10000) });
const known = new Map();  // URL -> [etag, value]
const ask = async url => {
  const [tag, old] = known.get(url) || ['', null];
  const answer = await patient(url, tag ? { 'If-None-Match': tag } : {});
  if (answer.status === 304) return [old, false];
  if (!answer.ok) throw new Error(answer.status);
  const value = await answer.json();
  known.set(url, [answer.headers.get('ETag') || '', value]);
  return [value, true];
};
const objectUrl = (id, name, kind = 'file') => `monitor/job/${id}/${kind}/${encodeURIComponent(name)}`;

// --- what is shown ----------------------------------------------------------------------------------------------------

let jobs = [], chosen = null, only = new Set(), words = [];
let ahead = 0;  // the server's clock less ours

const isShown = job => (!only.size || only.has(job.status)) && words.every(word => job.text.includes(word));

const showProgress = () => {
  const counts = new Map();
  for (const job of jobs) counts.set(job.status, (counts.get(job.status) || 0) + 1);
  const order = ['finished', 'failed', 'cancelled', 'closed', ...KINDS.flatMap(([, states]) => states).reverse()];
  const states = [...counts].sort((a, b) => order.indexOf(a[0]) - order.indexOf(b[0]));
  $('progress').hidden = !jobs.length;
  keyed($('bar'), states, ([state]) => state, () => make('span'), (element, [state, count]) => {
    setClass(element, 's-' + kindOf(state)); element.style.flexGrow = count; });
  const over = jobs.filter(job => OVER.has(job.status)).length;
  const told = `${over} of ${jobs.length} jobs over, ${counts.get('finished') || 0} finished`;
  if ($('bar').getAttribute('aria-label') !== told) $('bar').setAttribute('aria-label', told);
  for (const state of [...only]) if (!counts.has(state)) only.delete(state);
  keyed($('chips'), states, ([state]) => state, ([state]) => {
    const chip = make('button', '', { type: 'button' });
    chip.addEventListener('click', () => { if (!only.delete(state)) only.add(state); showAll(); });
    return chip;
  }, (chip, [state, count]) => {
    set(chip, `${count} ${state}`); setClass(chip, 's-' + kindOf(state)); chip.setAttribute('aria-pressed', only.has(state)); });
  set($('pulse'), told);
};

const links = job => {
  if (!job.log) return [];
  const found = [['log', 'pilotlog.txt'], ['stdout', 'payload.stdout'], ['stderr', 'payload.stderr']];
  return job.page ? [['page', 'job.html'], ...found] : found;
};

const showTable = () => {
  const shown = jobs.filter(isShown).reverse();
  $('empty').hidden = jobs.length > 0; $('jobs').hidden = !jobs.length;
  keyed($('jobs').tBodies[0], shown, job => job.id, job => {
    const row = make('tr');
    for (let n = 0; n < 7; n++) row.append(make('td', '', n === 4 ? { class: 'n' } : {}));
    const button = make('button', job.id, { type: 'button' });
    row.cells[0].append(button);
    row.addEventListener('click', event => { if (!event.target.closest('a')) choose(job.id); });
    return row;
  }, (row, job) => {
    setClass(row, (job.id === chosen ? 'chosen ' : '') + 's-' + kindOf(job.status));
    const texts = [job.label, job.queue, job.sub ? `${job.status} (${job.sub})` : job.status,
      span(Date.now() / 1000 + ahead - job.since), job.diagnosis];
    texts.forEach((text, n) => set(row.cells[n + 1], text));
    setClass(row.cells[3], 'state');
    keyed(row.cells[6], links(job), ([name]) => name,
      ([name, file]) => make('a', name, { href: objectUrl(job.id, file), target: '_blank', rel: 'noopener' }), () => {});
  });
};

// Columns by depth; in a column, jobs stand near their parents.
const showGraph = () => {
  const isParent = new Set(jobs.flatMap(job => job.parents));
  const nodes = jobs.filter(job => job.parents.length || isParent.has(job.id)).slice(-MOST_NODES);
  $('graph').hidden = !nodes.length;
  if (!nodes.length) return;
  const box = $('graph-box'), shape = nodes.map(job => `${job.id}:${job.depth}`).join();
  if (box.shape !== shape) { box.shape = shape; layOut(box, nodes); }
  for (const job of nodes) {
    const node = box.nodes.get(job.id);
    setClass(node, `node s-${kindOf(job.status)}${job.id === chosen ? ' chosen' : ''}`);
    node.setAttribute('aria-label', `${job.id} ${job.label}: ${job.status}`);
    set(node.querySelector('.what'), job.status);
  }
  const done = new Set(jobs.filter(job => job.status === 'finished').map(job => job.id));
  for (const [edge, parent] of box.edges) setClass(edge, done.has(parent) ? 'edge done' : 'edge');
};

const layOut = (box, nodes) => {
  const WIDTH = 150, HEIGHT = 40, COLUMN = 210, ROW = 52, places = new Map(), columns = [];
  for (const job of nodes) (columns[job.depth] ||= []).push(job);
  columns.forEach(column => {
    const wish = job => {
      const rows = job.parents.filter(id => places.has(id)).map(id => places.get(id)[1]);
      return rows.length ? rows.reduce((a, b) => a + b) / rows.length : column.indexOf(job);
    };
    const wishes = new Map(column.map(job => [job, wish(job)]));
    column.sort((a, b) => wishes.get(a) - wishes.get(b) || a.id - b.id);
    column.forEach((job, row) => places.set(job.id, [job.depth, row]));
  });
  const tallest = Math.max(...columns.map(column => (column || []).length));
  const corner = id => { const [depth, row] = places.get(id);
    return [depth * COLUMN + 4, (row + (tallest - columns[depth].length) / 2) * ROW + 4]; };
  const width = columns.length * COLUMN - (COLUMN - WIDTH) + 8, height = tallest * ROW;
  const svg = draw('svg', { width, height, role: 'group', 'aria-label': 'jobs and what they wait for' });
  box.edges = []; box.nodes = new Map();
  for (const job of nodes) for (const parent of job.parents.filter(id => places.has(id))) {
    const [x1, y1] = corner(parent), [x2, y2] = corner(job.id), a = x1 + WIDTH, y = y1 + HEIGHT / 2, z = y2 + HEIGHT / 2;
    const edge = draw('path', { d: `M${a},${y} C${a + 30},${y} ${x2 - 30},${z} ${x2},${z}` });
    svg.append(edge); box.edges.push([edge, parent]);
  }
  for (const job of nodes) {
    const [x, y] = corner(job.id), node = draw('g', { transform: `translate(${x},${y})`, tabindex: 0, role: 'button' });
    const label = job.label.length > 16 ? job.label.slice(0, 15) + '…' : job.label;
    node.append(draw('rect', { width: WIDTH, height: HEIGHT, rx: 6 }), draw('circle', { class: 'dot', cx: 14, cy: 20, r: 5 }),
      draw('text', { x: 26, y: 17 }, label), draw('text', { x: 26, y: 33, class: 'what' }), draw('title', {}, `${job.id} ${job.label}`));
    node.addEventListener('click', () => choose(job.id));
    node.addEventListener('keydown', event => { if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); choose(job.id); } });
    svg.append(node); box.nodes.set(job.id, node);
  }
  box.replaceChildren(svg);
};

const showAll = () => { showProgress(); showTable(); showGraph(); };

// --- one job ----------------------------------------------------------------------------------------------------------

const choose = id => {
  if (id === chosen) return;
  chosen = id;
  history.replaceState(null, '', id === null ? location.pathname : `#${id}`);
  $('job').hidden = id === null; setClass($('both'), id === null ? '' : 'with-job');
  for (const place of ['tail', 'plots', 'objects', 'tail-size', 'job-diagnosis']) { $(place).replaceChildren(); $(place).keyed = null; }
  for (const place of [$('updates').tBodies[0], $('tail-name'), $('definition')]) { place.replaceChildren(); place.keyed = null; }
  $('plots').drawnFor = null; $('tail-name').picked = false; $('tail-name').shown = '';
  showAll();
  if (id === null) return;
  set($('job-title'), `Job ${id}`);
  if ($('job').getBoundingClientRect().top > innerHeight) $('job').scrollIntoView();
  refreshJob();
};

const showJob = job => {
  const about = jobs.find(other => other.id === job.id);
  set($('job-title'), `Job ${job.id}${about ? ' ' + about.label : ''}: ${job.status}, attempt ${job.attempt}`);
  set($('job-diagnosis'), about ? about.diagnosis : '');
  const page = job.objects.filter(object => object.name === 'job.html'), rest = job.objects.filter(object => object.name !== 'job.html');
  keyed($('objects'), [...page, ...rest], object => object.name, object =>
    make('a', '', { href: objectUrl(job.id, object.name), target: '_blank', rel: 'noopener', class: object.name === 'job.html' ? 'page' : '' }),
    (link, object) => set(link, object.name === 'job.html' ? 'job page' : `${object.name} (${size(object.size)})`));
  keyed($('updates').tBodies[0], job.updates, update => job.updates.indexOf(update), () => {
    const row = make('tr');
    for (let n = 0; n < 4; n++) row.append(make('td'));
    row.cells[2].append(make('ul'));
    return row;
  }, (row, update) => {
    set(row.cells[0], clock(update.at)); set(row.cells[1], update.state); setClass(row, 's-' + kindOf(update.state));
    setClass(row.cells[1], 'state'); set(row.cells[3], [update.answer, update.fault && `fault: ${update.fault}`].filter(Boolean).join(', '));
    keyed(row.cells[2].firstChild, update.news, ([name]) => name, ([name, text]) => {
      const line = make('li'); line.append(make('b', name), ` ${text}`); return line; }, () => {});
  });
  const names = rest.map(object => object.name).filter(name => !/\.(tgz|gz|html)$/.test(name)), pick = $('tail-name');
  keyed(pick, names, name => name, name => make('option', name, { value: name }), () => {});
  if (!pick.picked && names.length) {
    pick.value = ['payload.stdout', 'pilotlog.txt', names[0]].find(name => names.includes(name)); }
  keyed($('definition'), Object.entries(job.definition).flatMap(([name, text]) => [['dt', name, name], ['dd', name, text]]),
    ([tag, name]) => tag + name, ([tag]) => make(tag), (element, [, , text]) => set(element, text));
};

const showTail = async (id, job) => {
  const name = $('tail-name').value, object = job.objects.find(other => other.name === name);
  if (!object) return;
  const answer = await patient(objectUrl(id, name, 'tail'));
  if (!answer.ok || id !== chosen) return;
  const text = await answer.text(), place = $('tail'), fresh = $('tail-name').shown !== name;
  if (text === place.textContent && !fresh) return;
  const atEnd = fresh || place.scrollTop + place.clientHeight >= place.scrollHeight - 20;
  place.textContent = text; $('tail-name').shown = name;
  if (atEnd) place.scrollTop = place.scrollHeight;
  set($('tail-size'), `${size(object.size)}, changed ${clock(Date.now() / 1000)} UTC`);
};

const showPlots = async (id, job) => {
  const table = job.objects.find(object => object.name === 'memory_monitor_output.txt'), place = $('plots');
  const wanted = table ? `${id} ${table.size}` : null;
  if (!wanted || place.drawnFor === wanted) return;
  place.drawnFor = wanted;
  const answer = await patient(`monitor/job/${id}/plots.html`);
  if (!answer.ok || id !== chosen) return;
  // Our own server's drawing, every text in it escaped; the policy of this page would run nothing in it anyway.
  place.replaceChildren(...new DOMParser().parseFromString(await answer.text(), 'text/html').body.children);
};

let asking = false, again = false;
const refreshJob = async () => {
  if (chosen === null) return;
  if (asking) { again = true; return; }
  asking = true;
  const id = chosen;
  try {
    const [job] = await ask(`monitor/job/${id}.json`);
    if (id === chosen) { showJob(job); await showTail(id, job); await showPlots(id, job); }
  } catch { /* the next round tries again; the list tells when the sandbox is gone */ }
  finally { asking = false; if (again || id !== chosen) { again = false; refreshJob(); } }
};

// --- the rounds -------------------------------------------------------------------------------------------------------

const refresh = async () => {
  try {
    const [answer, fresh] = await ask('monitor/jobs.json');
    if (fresh) {
      ahead = answer.now - Date.now() / 1000; jobs = answer.jobs;
      for (const job of jobs) job.text = [job.id, job.label, job.queue, job.status, job.sub, job.diagnosis].join(' ').toLowerCase();
      showGraph();
    }
    setClass($('pulse'), 'quiet'); showProgress(); showTable();
  } catch { set($('pulse'), 'the sandbox does not answer'); setClass($('pulse'), 'lost'); }
};
const round = async () => {
  if (!document.hidden) { await refresh(); await refreshJob(); }
  const busy = !jobs.length || jobs.some(job => !OVER.has(job.status));
  setTimeout(round, busy || chosen !== null ? POLL_MS : SLOW_POLL_MS);
};

$('search').addEventListener('input', () => { words = $('search').value.toLowerCase().split(/\s+/).filter(Boolean); showTable(); });
$('close').addEventListener('click', () => choose(null));
$('tail-name').addEventListener('change', () => { $('tail-name').picked = true; refreshJob(); });
addEventListener('visibilitychange', () => { if (!document.hidden) refresh(); });
const asked = Number(location.hash.slice(1));
round().then(() => { if (asked) choose(asked); });
})();
