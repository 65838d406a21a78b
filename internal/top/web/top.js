// The page for people. What it shows is /top.json's, which has the level, the filter and the order as parameters; the
// page's own URL has the same ones. Names come from the cluster and may be anything: they become text nodes and
// attributes, never markup.

const $ = (id) => document.getElementById(id);

const up = { nodes: "namespaces", workloads: "namespaces", pods: "workloads", containers: "pods" };
const into = { nodes: "pods", namespaces: "workloads", workloads: "pods", pods: "containers" };
// What the row that was chosen at a level is called in the levels below it.
const scope = { nodes: "node", namespaces: "namespace", workloads: "workload", pods: "pod" };
const titles = {
  nodes: "Nodes", namespaces: "Namespaces", workloads: "Workloads", pods: "Pods", containers: "Containers",
};
const fewNodes = 6; // above the table
const someRows = 100;
const manyRows = 500;

// ---- the view, which the URL has ----

const defaults = {
  cluster: "", level: "namespaces", namespace: "", workload: "", pod: "", node: "", q: "", sort: "cpu", desc: "true",
  limit: "",
};

function parse(search) {
  const view = { ...defaults };
  for (const [name, value] of new URLSearchParams(search)) {
    if (name in defaults && value !== "") view[name] = value;
  }
  if (!(view.level in titles)) view.level = defaults.level;
  return view;
}

// query leaves out what is as it would be without.
function query(view) {
  const parameters = new URLSearchParams();
  for (const name in defaults) {
    if (view[name] !== defaults[name]) parameters.set(name, view[name]);
  }
  return parameters.toString();
}

const address = (view) => location.pathname + (query(view) && "?" + query(view));

// inside is the view of what a row consists of; there is nothing below containers.
function inside(view, row) {
  if (!into[view.level]) return null;
  const next = { ...view, level: into[view.level], [scope[view.level]]: nameOf(view, row), q: "", limit: "" };
  if (row.namespace) next.namespace = row.namespace;
  if (row.cluster) next.cluster = row.cluster;
  return next;
}

// outside is the view that this one is a part of, or null at the top.
function outside(view) {
  if (!up[view.level]) return view.cluster ? { ...view, cluster: "", q: "", limit: "" } : null;
  const level = view.level === "pods" && view.node ? "nodes" : up[view.level];
  return { ...view, level, [scope[level]]: "", q: "", limit: "" };
}

function nameOf(view, row) {
  return view.level === "workloads" ? row.workload ?? row.name : row.name;
}

let view = parse(location.search);

// go shows another view, and tells whether it is another; how says what becomes of the browser's history: push,
// replace, or nothing. Once the rows are there, the first gets the focus if that is wanted.
function go(next, how = "push", first = false) {
  if (query(next) === query(view)) return false;
  const moved = ["level", "cluster", ...Object.values(scope)].some((name) => next[name] !== view[name]);
  const from = moved && view;
  view = next;
  if (how) history[how + "State"](null, "", address(view));
  showView();
  load({ from, first });
  return true;
}

// ---- units: as kubectl top has them, which rounds CPU up to m, cuts memory to Mi and per cent to whole ones ----

// The API counts in billionths; a float of cores is off by less, but would round up to the next m.
const billionths = (x) => Math.round(x * 1e9);
const units = {
  cpu: (cores) => Math.ceil(billionths(cores) / 1e6) + "m",
  memory: (bytes) => Math.floor(bytes / 1048576) + "Mi",
};

// percent of used in whole is undefined where one of both is unknown or whole is none.
function percent(used, whole) {
  if (used === undefined || !(whole > 0)) return undefined;
  return Math.floor((100 * billionths(used)) / billionths(whole));
}

const or = (text) => text ?? "–";
const count = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();

// ---- what the page is made of ----

function text(element, string) {
  if (element.textContent !== string) element.textContent = string;
}

function element(name, properties, ...children) {
  const e = Object.assign(document.createElement(name), properties);
  e.append(...children);
  return e;
}

// fill makes the parent's children those of the items. It keeps each child that is there, and the focus: where that was
// on one that is gone, it is on the one in its place.
function fill(parent, template, items, keyOf, update) {
  const before = Array.from(parent.children);
  const old = new Map(before.map((child) => [child.dataset.key, child]));
  const focused = document.activeElement;
  const at = before.findIndex((child) => child.contains(focused));
  const next = items.map((item) => {
    const key = keyOf(item);
    const child = old.get(key) ?? template.content.firstElementChild.cloneNode(true);
    child.dataset.key = key;
    update(child, item);
    return child;
  });
  if (next.length === before.length && next.every((child, i) => child === before[i])) return;
  parent.replaceChildren(...next);
  if (at < 0) return;
  const link = parent.contains(focused) ? focused : next[Math.min(at, next.length - 1)]?.querySelector("a");
  link?.focus({ preventScroll: true });
}

// showShare writes a share and marks one that is close to its whole.
function showShare(cell, share) {
  text(cell, or(share === undefined ? undefined : share + "%"));
  cell.classList.toggle("high", share >= 90);
}

function showBar(svg, share) {
  svg.toggleAttribute("hidden", share === undefined);
  svg.firstElementChild.setAttribute("width", Math.min(share ?? 0, 100) + "%");
}

// path draws the values of the last 15 minutes, the newest at the right; it has a gap where one is null.
function path(values, step, peak) {
  let d = "";
  let pen = false;
  values.forEach((value, i) => {
    const x = Math.round(600 - ((values.length - 1 - i) * step * 600) / 900);
    if (value === null || x < 0) {
      pen = false;
      return;
    }
    const y = Math.round(95 - (peak > 0 ? (90 * value) / peak : 0));
    d += pen ? `L${x} ${y}` : `M${x} ${y}h0`;
    pen = true;
  });
  return d;
}

// ---- the answer ----

// clocks are both that there are, in ms: the first stands still while the machine sleeps, the second may be set.
function clocks() {
  return [performance.now(), Date.now()];
}

// since is how long ago a moment was, by each clock.
const since = (moment) => clocks().map((now, i) => now - moment[i]);

let answer = null;
let answered = clocks(); // when
let unreachable = ""; // why, and since when, as long as it is

function showAnswer() {
  const { data, totals, rows, level, found, history: past } = answer;
  text($("version"), answer.version);

  $("totals").replaceChildren(...["nodes", "namespaces", "workloads", "pods", "containers"]
    .filter((name) => totals[name] !== undefined)
    .map((name) => element("div", {}, element("dt", {}, titles[name]), element("dd", {}, String(totals[name])))),
    ...Object.entries(units).filter(([resource]) => totals[resource] !== undefined).map(([resource, unit]) => {
      const more = ["Allocatable", "Request", "Limit"].filter((kind) => totals[resource + kind] !== undefined)
        .map((kind) => `, ${percent(totals[resource], totals[resource + kind]) ?? "–"}% of ` +
          `${unit(totals[resource + kind])} ${{ Request: "requested", Limit: "limit" }[kind] ?? "allocatable"}`);
      return element("div", {}, element("dt", {}, resource === "cpu" ? "CPU" : "Memory"),
        element("dd", {}, unit(totals[resource]) + more.join("")));
    }));

  const shown = { ...view, level };
  const key = (row) => [level, row.cluster, row.namespace, row.workload, row.pod, row.name].join(" ");
  fill($("rows"), $("row"), rows, key, (tr, row) => showRow(tr, row, shown, past));
  $("table").dataset.level = level;
  const all = rows.length >= found;
  text($("found"), all ? count(found, "row") : `The first ${rows.length} of ${count(found, "row")}`);
  $("more").hidden = all || rows.length >= manyRows;
  const notes = [...(answer.missing ?? [])];
  if (!past || past.since === undefined) notes.push("No history yet: it begins when the page is opened.");
  else if (answer.time - past.since < 900) notes.push(`History since ${clock(past.since)}.`);
  $("notes").replaceChildren(...notes.map((note) => element("li", {}, note)));
  if (level === "namespaces" && all && !view.q && !view.namespace) showNamespaces(rows);
}

function showRow(tr, row, shown, past) {
  const [name, namespace] = tr.cells;
  const next = inside(shown, row);
  const link = name.firstElementChild;
  text(link, nameOf(shown, row));
  if (next) link.href = address(next);
  else link.tabIndex = -1; // for the arrows
  const about = {
    nodes: () => [row.pods === undefined ? "" : count(row.pods, "pod")],
    namespaces: () => [count(row.pods, "pod")],
    workloads: () => [count(row.pods, "pod")],
    pods: () => [shown.workload ? "" : row.workload, shown.node ? "" : row.node],
    containers: () => [shown.pod ? "" : row.pod, shown.node ? "" : row.node],
  }[shown.level]();
  if (!shown.cluster) about.push(row.cluster);
  text(name.lastElementChild, about.filter(Boolean).join(" · "));
  text(namespace, row.namespace ?? "");
  let i = 2;
  for (const [resource, unit] of Object.entries(units)) {
    const value = row[resource];
    const [used, request, limit, peak] = [...tr.cells].slice(i, (i += 4));
    const [number, share, bar] = used.children;
    text(number, or(value === undefined ? undefined : unit(value)));
    const allocated = percent(value, row[resource + "Allocatable"]);
    if (allocated === undefined) text(share, "");
    else showShare(share, allocated);
    showBar(bar, allocated);
    showShare(request, percent(value, row[resource + "Request"]));
    request.classList.remove("high"); // a request may be exceeded
    showShare(limit, percent(value, row[resource + "Limit"]));
    const [svg, top] = peak.children;
    const values = past && row[resource + "History"];
    const most = row[resource + "Peak"];
    svg.firstElementChild.setAttribute("d", values ? path(values, row.historyStep ?? past.step, most) : "");
    text(top, or(most === undefined ? undefined : unit(most)));
  }
}

// showNodes shows those with most CPU, where they are not in the table.
function showNodes(nodes) {
  $("nodes-section").hidden = !nodes?.found;
  if (!nodes?.found) return;
  const all = nodes.rows.length >= nodes.found;
  text($("all-nodes"), all ? "" : `the ${nodes.rows.length} with most CPU of ${nodes.found}`);
  $("all-nodes").hidden = all;
  $("all-nodes").href = address({ ...defaults, cluster: view.cluster, level: "nodes" });
  fill($("nodes"), $("node"), nodes.rows, (row) => [row.cluster, row.name].join(" "), (li, row) => {
    const [link, ...lines] = li.children;
    text(link, view.cluster || !row.cluster ? row.name : `${row.name} · ${row.cluster}`);
    link.href = address(inside({ ...defaults, level: "nodes" }, row));
    Object.entries(units).forEach(([resource, unit], i) => {
      const [words, bar] = lines[i].children;
      const whole = row[resource + "Allocatable"];
      const share = percent(row[resource], whole);
      text(words, or(row[resource] === undefined ? undefined : unit(row[resource])) +
        (share === undefined ? "" : ` of ${unit(whole)}, ${share}%`));
      words.classList.toggle("high", share >= 90);
      showBar(bar, share);
    });
  });
}

function showNamespaces(rows) {
  const names = new Set(rows.map((row) => row.name));
  if (view.namespace) names.add(view.namespace);
  const all = ["", ...[...names].sort()];
  const select = $("namespace");
  if (all.join() === Array.from(select.options, (option) => option.value).join()) return; // it may be open
  select.replaceChildren(...all.map((name) => element("option", { value: name }, name || "all")));
  select.value = view.namespace;
}

// showView shows what the URL says, before the rows are there.
function showView() {
  const where = [view.cluster, view.namespace, view.workload, view.pod].filter(Boolean);
  text($("title"), titles[view.level] + (view.node ? " on " + view.node : "") +
    (where.length ? " of " + where.join(" / ") : ""));
  document.title = `${$("title").textContent} – metrics-server-prom`;
  const steps = [];
  const narrowed = view.cluster || Object.values(scope).some((name) => view[name]);
  for (let above = narrowed && outside(view); above; above = outside(above)) steps.unshift(above);
  $("path").replaceChildren(...steps.map((above) => element("a", { href: address(above) },
    view.cluster && !above.cluster ? "All clusters" :
      above[scope[up[above.level]]] || above.node || above.cluster || titles[above.level])));
  for (const link of $("levels").children) {
    const { level } = link.dataset;
    link.href = address({ ...view, level, workload: "", pod: "", node: "", q: "", limit: "",
      namespace: level === "nodes" || level === "namespaces" ? "" : view.namespace });
    if (level === view.level) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (document.activeElement !== $("filter")) $("filter").value = view.q;
  if (![...$("namespace").options].some((option) => option.value === view.namespace)) {
    $("namespace").append(element("option", { value: view.namespace }, view.namespace));
  }
  $("namespace").value = view.namespace;
  for (const button of $("table").querySelectorAll("button[name=sort]")) {
    const header = button.closest("th");
    if (button.value !== view.sort) header.removeAttribute("aria-sort");
    else header.setAttribute("aria-sort", view.desc === "true" ? "descending" : "ascending");
  }
}

// showState says whether what is shown is to be believed; before the first answer that is the server's. It runs every
// second, for the age; what a screen reader is told changes only with the state.
function showState() {
  let state, says;
  if (answer) {
    const { newest, period = 15 } = answer.data;
    let age = 0;
    [state, says] = ["ok", "✔ Works"];
    if (newest === undefined) [state, says] = ["old", "… No data yet"];
    else {
      age = Math.max(0, Math.round(answer.time - newest + Math.max(...since(answered)) / 1000));
      if (age > 2 * period + 30) [state, says] = ["old", "⚠ The data are old"];
    }
    if (!answer.state.ok) [state, says] = ["failed", "✖ Something does not work"];
    text($("age"), newest === undefined ? "" : `Data ${age < 120 ? age + " s" : Math.round(age / 60) + " min"} old`);
    const { failures, notices } = answer.state;
    const lines = [...failures, ...notices];
    if (lines.join("\n") !== Array.from($("failures").children, (li) => li.textContent).join("\n")) {
      $("failures").replaceChildren(...lines.map((line, i) =>
        element("li", { className: i < failures.length ? "failure" : "notice" }, line)));
    }
  }
  if (unreachable) [state, says] = ["unreachable", "✖ " + unreachable];
  if (!state) return;
  text($("state"), says);
  document.body.className = $("state").className = state;
}

// ---- asking ----

let timer = 0;
let asked = null; // the AbortController of the requests under way
let late = 0; // how often in a row there was nothing new

async function ask(parameters) {
  let response, body;
  try {
    const signal = AbortSignal.any([asked.signal, AbortSignal.timeout(20000)]);
    response = await fetch("top.json?" + parameters, { signal });
    body = await response.text();
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? "The server does not answer" : "The server cannot be reached");
  }
  if (!response.ok) throw new Error(`The server answers ${response.status}: ${body.trim().slice(0, 200)}`);
  return JSON.parse(body);
}

// load asks for the view, shows it, and sees to it that it is asked for again. It ends the load before it.
// change is what the user has changed: where the view was moved from, if it was.
async function load(change) {
  clearTimeout(timer);
  asked?.abort();
  const mine = (asked = new AbortController());
  let rows, nodes, trouble;
  try {
    [rows, nodes] = await Promise.all([
      ask(query({ ...view, limit: view.limit || String(someRows) })),
      view.level === "nodes" ? undefined :
        ask(query({ ...defaults, cluster: view.cluster, level: "nodes", limit: String(fewNodes) })),
    ]);
  } catch (error) {
    trouble = error.message;
  }
  if (asked !== mine) return;
  if (!document.hidden) timer = setTimeout(load, 1000 * (rows ? untilNext(rows.data) : 5));
  if (rows) {
    [answer, answered, unreachable] = [rows, clocks(), ""];
    showAnswer();
    showNodes(nodes);
    if (change?.from) arrive(change.from);
    if (change?.first) links()[0]?.focus();
    if (change) text($("said"), `${$("title").textContent}: ${$("found").textContent}`);
  } else if (!unreachable) {
    unreachable = `${trouble}, since ${clock(Date.now() / 1000)}` + (answer ? "; what is below is older" : "");
  }
  showState();
}

// untilNext is the seconds until there is something new: a period if this has just come, else less.
function untilNext({ newest, period = 15 }) {
  late = answer && newest !== undefined && newest !== answer.data.newest ? 0 : late + 1;
  return late === 0 ? period : Math.min(period, (period / 16) * 2 ** late);
}

// arrive puts the focus, where it was on something that is gone now, on the row that the user comes from, or else on
// the title, which a screen reader then reads.
function arrive(from) {
  if ($("form").contains(document.activeElement)) return;
  const name = from[scope[view.level]];
  const back = name && links().find((link) => link.textContent === name);
  (back || $("title")).focus();
}

// ---- what the user does ----

const links = () => Array.from($("rows").children, (tr) => tr.cells[0].firstElementChild);

// Links of this page are followed here, unless the user wants them in another tab.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  if (link.origin !== location.origin || link.pathname !== location.pathname || link.hash) return;
  event.preventDefault();
  go(parse(link.search));
});

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const sort = event.submitter?.value;
  if (!sort) {
    if (!applyFilter(true)) links()[0]?.focus();
  } else if (sort === view.sort) go({ ...view, desc: String(view.desc !== "true") });
  else go({ ...view, sort, desc: String(sort !== "name" && sort !== "namespace") });
});

let typing = 0;
$("filter").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => applyFilter(), 150);
});

// applyFilter leaves one entry in the history for a filter, however many letters it has.
function applyFilter(first) {
  clearTimeout(typing);
  const q = $("filter").value;
  return go({ ...view, q, limit: "" }, view.q && q ? "replace" : "push", first);
}

$("namespace").addEventListener("change", (event) => {
  const namespace = event.target.value;
  const level = view.level === "nodes" || view.level === "namespaces" ? "workloads" : view.level;
  go({ ...view, level, namespace, workload: "", pod: "", node: "", limit: "" });
});

// The namespaces are asked for when the chooser is about to be opened.
for (const event of ["focus", "pointerenter"]) {
  $("namespace").addEventListener(event, async () => {
    const { cluster } = view;
    const names = { ...defaults, cluster, level: "namespaces", sort: "name", desc: "false", limit: String(manyRows) };
    try {
      showNamespaces((await ask(query(names))).rows);
    } catch {
      // What is there stays; the next load says that the server cannot be reached.
    }
  });
}

$("more").addEventListener("click", () => go({ ...view, limit: String(manyRows) }, "replace"));

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || target === $("namespace")) return;
  const filtering = target === $("filter");
  if (key === "/" && !filtering) {
    $("filter").focus();
    $("filter").select();
  } else if (key === "ArrowDown" || key === "ArrowUp") {
    const all = links();
    const at = all.findIndex((link) => link.closest("tr").contains(target));
    all[at < 0 ? 0 : at + (key === "ArrowDown" ? 1 : -1)]?.focus();
  } else if (key === "Escape" && filtering && target.value) {
    target.value = "";
    applyFilter();
  } else if (key === "Escape") {
    const above = outside(view);
    if (above) go(above);
  } else return;
  event.preventDefault();
});

addEventListener("popstate", () => go(parse(location.search), ""));

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden) load();
});

// After a sleep what is shown is as old as that was long, and the timer of the next load has stood still as well.
let ticked = clocks();
setInterval(() => {
  const [awake, all] = since(ticked);
  ticked = clocks();
  showState();
  if (Math.abs(all - awake) > 5000 && !document.hidden) load();
}, 1000);
$("chooser").hidden = $("keys").hidden = false;
$("show").hidden = true; // Enter still presses it
showView();
showState();
load();
