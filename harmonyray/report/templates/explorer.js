// The consensus explorer. What models wrote reaches the page through textContent alone.
(() => {
  const PAGE = 40; // problems shown at first, and more at a time
  const SHORT = 280; // characters of a response that is shown without opening it
  const byId = (id) => document.getElementById(id);
  const NAMES = { right: "right", wrong: "wrong", none: "no label", label: "some label", differs: "not the other's label" };
  const SIGNS = { right: "✓", wrong: "✗", none: "–", label: "•" };

  /** An element with properties and children; strings become text nodes. */
  function el(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in node) node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  /** A piece of the page's data: base64, gzip, JSON. Its text is given up once it is read. */
  async function unpack(name) {
    const source = byId(`data-${name}`);
    const binary = atob(source.textContent);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }
  const kept = new Map(); // the few pieces of text that were read last
  async function unpackKept(name) {
    if (!kept.has(name)) {
      if (kept.size >= 6) kept.delete(kept.keys().next().value);
      kept.set(name, unpack(name));
    }
    return kept.get(name);
  }

  let index; // views, selectors, steps, ids, questions, texts
  const votes = []; // by place of the step
  const cells = []; // by problem: [place of the step, row there]
  let matching = []; // by problem: places in `cells[problem]` that the filter lets through, none if empty
  let shown = []; // problems
  let open = null; // {problem, place}: place in cells[problem]
  let only = null; // the cluster whose responses are shown

  // --- votes -----------------------------------------------------------------------------------------------------------

  const labelOf = (cell, selector) => {
    const label = votes[cell[0]].l[selector][cell[1]];
    return Array.isArray(label) ? label[0] : label; // where views are judged apart, the first view's
  };
  function outcome(cell, selector) {
    const label = labelOf(cell, selector);
    if (label < 0) return "none";
    const right = votes[cell[0]].r[cell[1]];
    return right === null ? "label" : right[label] ? "right" : "wrong";
  }
  function meets(cell, selector, is, other) {
    if (is === "") return true;
    if (is === "differs") {
      const { l } = votes[cell[0]];
      return String(l[selector][cell[1]]) !== String(l[other][cell[1]]);
    }
    const got = outcome(cell, selector);
    return is === "label" ? got !== "none" : got === is;
  }

  // --- filter ----------------------------------------------------------------------------------------------------------

  function filter() {
    const words = byId("query").value.trim().toLowerCase();
    const step = byId("step").value;
    const [a, aIs, b, bIs] = ["a-name", "a-is", "b-name", "b-is"].map((id) => byId(id).value);
    let found = 0;
    matching = cells.map((own, problem) => {
      const named = words === "" || index.ids[problem].toLowerCase().includes(words) || index.questions[problem].toLowerCase().includes(words);
      const places = [];
      own.forEach((cell, place) => {
        if (step !== "" && String(index.steps[cell[0]]) !== step) return;
        if (!meets(cell, a, aIs, b) || !meets(cell, b, bIs, a)) return;
        const table = votes[cell[0]];
        const said = () => table.a[cell[1]].some((answer) => answer.toLowerCase().includes(words)) || (table.g[cell[1]] ?? "").toLowerCase() === words;
        if (named || said()) places.push(place);
      });
      found += places.length;
      return places;
    });
    shown = matching.flatMap((places, problem) => (places.length ? [problem] : []));
    const total = cells.reduce((sum, own) => sum + own.length, 0);
    byId("count").textContent =
      found === total
        ? `${plural(cells.length, "problem")}, ${plural(total, "vote")}.`
        : `${plural(shown.length, "problem")} of ${cells.length}, ${plural(found, "vote")} of ${total}.`;
    for (const chip of document.querySelectorAll(".chips button")) {
      chip.setAttribute("aria-pressed", String(sameFilter(chip, a, aIs, b, bIs)));
    }
    byId("list").replaceChildren();
    more();
  }
  function sameFilter(chip, a, aIs, b, bIs) {
    if (!chip.dataset.a) return aIs === "" && bIs === "";
    const [name, is] = chip.dataset.a.split(":");
    const [other, otherIs] = chip.dataset.b ? chip.dataset.b.split(":") : [b, ""];
    return a === name && aIs === is && b === other && bIs === otherIs;
  }
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

  function setUpFilters() {
    const hasGold = votes.some((table) => table.r.some((right) => right !== null));
    for (const [id, first] of [["a-name", "harmonic"], ["b-name", "majority"]]) {
      byId(id).append(...index.selectors.map((name) => el("option", { value: name }, name === "used" ? "used by the method" : name)));
      byId(id).value = index.selectors.includes(first) ? first : "used";
    }
    const kinds = hasGold ? ["right", "wrong", "none", "differs"] : ["label", "none", "differs"];
    for (const id of ["a-is", "b-is"]) {
      byId(id).append(el("option", { value: "" }, "any"), ...kinds.map((kind) => el("option", { value: kind }, NAMES[kind])));
    }
    byId("step").append(...index.steps.map((step) => el("option", { value: step }, String(step))));
    for (const chip of document.querySelectorAll(".chips button")) {
      chip.addEventListener("click", () => {
        const [a, aIs] = chip.dataset.a ? chip.dataset.a.split(":") : [byId("a-name").value, ""];
        const [b, bIs] = chip.dataset.b ? chip.dataset.b.split(":") : [byId("b-name").value, ""];
        for (const [id, value] of [["a-name", a], ["a-is", aIs], ["b-name", b], ["b-is", bIs]]) byId(id).value = value;
        filter();
      });
    }
    let waiting;
    byId("query").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(filter, 120);
    });
    byId("filters").addEventListener("change", filter);
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("more").addEventListener("click", () => more());
  }

  // --- list ------------------------------------------------------------------------------------------------------------

  function more() {
    const list = byId("list");
    const begin = list.children.length;
    list.append(...shown.slice(begin, begin + PAGE).map((problem) => el("li", {}, item(problem))));
    const left = shown.length - list.children.length;
    byId("more").hidden = left <= 0;
    byId("more").textContent = `Show ${Math.min(left, PAGE)} more of ${left}`;
  }
  function item(problem) {
    const last = cells[problem][matching[problem].at(-1)];
    const text = index.questions[problem] || index.ids[problem];
    const how = SIGNS[outcome(last, "used")];
    const button = el(
      "button",
      { type: "button", className: "item" },
      el("span", { className: "q" }, text.slice(0, 200)),
      el("span", { className: "id" }, index.questions[problem] === index.ids[problem] ? "" : index.ids[problem]),
      strip(problem),
    );
    button.dataset.problem = problem;
    button.setAttribute("aria-label", `Problem ${index.ids[problem]}: ${text.slice(0, 120)}. ${plural(matching[problem].length, "step")} found, at the last the label is ${NAMES[outcome(last, "used")]} ${how}`);
    button.setAttribute("aria-current", String(open !== null && open.problem === problem));
    button.addEventListener("click", () => show(problem, matching[problem].at(-1), true));
    return button;
  }
  /** A problem's steps along the run: tall for a right label, low for a wrong one, a dash for none. */
  function strip(problem) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    const count = index.steps.length;
    for (const [name, value] of [["class", "strip"], ["viewBox", `0 0 ${count * 10} 14`], ["preserveAspectRatio", "none"], ["aria-hidden", "true"]]) svg.setAttribute(name, value);
    const draw = (tag, attributes) => {
      const node = document.createElementNS(space, tag);
      for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
      svg.append(node);
    };
    draw("line", { class: "axis", x1: 0, x2: count * 10, y1: 13.5, y2: 13.5 });
    const visible = new Set(matching[problem]);
    cells[problem].forEach((cell, place) => {
      const kind = outcome(cell, "used");
      const height = { right: 12, label: 12, wrong: 6, none: 2 }[kind];
      draw("rect", { class: `o-${kind}${visible.has(place) ? "" : " faint"}`, x: cell[0] * 10 + 1, y: 13 - height, width: 8, height });
    });
    return svg;
  }

  // --- one problem -----------------------------------------------------------------------------------------------------

  function show(problem, place, takesFocus) {
    if (open === null || open.problem !== problem) only = null;
    open = { problem, place };
    const cell = cells[problem][place];
    const step = index.steps[cell[0]];
    for (const button of byId("list").querySelectorAll(".item")) {
      button.setAttribute("aria-current", String(Number(button.dataset.problem) === problem));
    }
    const heading = el("h3", { tabIndex: -1 }, `${index.ids[problem]}, step ${step}`);
    const close = el("button", { type: "button", className: "close" }, "Close");
    close.addEventListener("click", hide);
    const gold = votes[cell[0]].g[cell[1]];
    const detail = byId("detail");
    const parts = [
      el("header", {}, heading, close),
      el("pre", { className: "question" }, index.questions[problem] || "(the question was not recorded)"),
      el("p", { className: "gold" }, gold === null ? "No gold answer recorded." : "Gold answer: ", gold === null ? null : el("bdi", {}, el("b", {}, gold))),
      el("h4", {}, plural(cells[problem].length, "step")),
      stepButtons(problem, place),
      el("h4", {}, "Answers"),
      el("div", { className: "scroll" }, answers(cell)),
      abstained(cell),
      el("h4", {}, "Responses"),
      el("div", { className: "rollouts", id: "rollouts" }, el("p", { className: "muted" }, "Reading …")),
    ];
    detail.replaceChildren(...parts.filter((part) => part !== null));
    detail.hidden = false;
    detail.scrollTop = 0;
    document.documentElement.classList.add("reading");
    history.replaceState(null, "", `#problem=${encodeURIComponent(index.ids[problem])}&step=${step}`);
    if (takesFocus) heading.focus({ preventScroll: true });
    rollouts(problem, cell);
  }
  function hide() {
    const from = open;
    open = null;
    byId("detail").hidden = true;
    document.documentElement.classList.remove("reading");
    history.replaceState(null, "", "#explorer");
    const back = from && byId("list").querySelector(`.item[data-problem="${from.problem}"]`);
    for (const button of byId("list").querySelectorAll(".item")) button.setAttribute("aria-current", "false");
    if (back) back.focus();
  }
  function stepButtons(problem, place) {
    const buttons = cells[problem].map((cell, other) => {
      const kind = outcome(cell, "used");
      const button = el("button", { type: "button", className: kind }, String(index.steps[cell[0]]));
      button.setAttribute("aria-label", `step ${index.steps[cell[0]]}: ${NAMES[kind]}`);
      button.setAttribute("aria-current", String(other === place));
      button.addEventListener("click", () => show(problem, other, true));
      return button;
    });
    return el("div", { className: "steps" }, ...buttons);
  }
  /** By cluster the selectors that chose it; one that judges views apart says for which view. */
  function choosers(cell) {
    const table = votes[cell[0]];
    const out = new Map();
    const add = (label, name) => out.set(label, [...(out.get(label) ?? []), name]);
    for (const name of index.selectors) {
      const label = table.l[name][cell[1]];
      if (name === "used") continue;
      if (Array.isArray(label)) label.forEach((one, v) => add(one, `${name} (${index.views[v]})`));
      else add(label, name);
    }
    return out;
  }
  function answers(cell) {
    const table = votes[cell[0]];
    const [counts, samples, right, scores] = [table.k, table.n, table.r, table.s].map((column) => column[cell[1]]);
    const used = [table.l.used[cell[1]]].flat();
    const chosen = choosers(cell);
    const order = counts.map((_, c) => c);
    const total = (c) => counts[c].reduce((sum, count) => sum + count, 0);
    order.sort((x, y) => total(y) - total(x) || x - y);
    const frequency = (count, of, v) => {
      const bar = el("i", { className: "frequency" });
      bar.style.width = `${(100 * count) / Math.max(of, 1)}%`;
      bar.style.background = `var(--c${v % 8})`;
      return el("td", { className: "freq" }, `${count}/${of}`, bar);
    };
    const rows = order.flatMap((c) => {
      const is = right === null ? null : right[c] ? "right" : "wrong";
      const pick = el("button", { type: "button" }, table.a[cell[1]][c]);
      pick.setAttribute("aria-pressed", String(only === c));
      pick.title = "show only the responses with this answer";
      pick.addEventListener("click", () => {
        only = only === c ? null : c;
        show(open.problem, open.place, false);
      });
      const marks = is === null ? null : el("span", { className: `is-${is}` }, ` ${SIGNS[is]}`);
      if (marks !== null) {
        marks.setAttribute("role", "img");
        marks.setAttribute("aria-label", is);
      }
      const names = (chosen.get(c) ?? []).join(", ");
      const kind = used.includes(c) ? "label-row" : "";
      const row = el(
        "tr",
        { className: names ? `${kind} open` : kind },
        el("th", { scope: "row" }, pick, marks, " ", used.includes(c) ? el("span", { className: "tag" }, "label") : null),
        ...counts[c].map((count, v) => frequency(count, samples[v], v)),
        el("td", {}, scores === null || scores[c] === null ? "" : scores[c].toFixed(3)),
      );
      if (!names) return [row];
      return [row, el("tr", { className: kind }, el("td", { className: "who", colSpan: counts[c].length + 2 }, names))];
    });
    const silent = samples.map((of, v) => of - counts.reduce((sum, row) => sum + row[v], 0));
    if (silent.some((count) => count > 0)) {
      const none = el("th", { scope: "row", className: "muted" }, "no answer");
      rows.push(el("tr", {}, none, ...silent.map((count, v) => frequency(count, samples[v], v)), el("td")));
    }
    const heads = ["answer, and who chose it", ...index.views, "score"].map((name) => el("th", { scope: "col" }, name));
    return el("table", { className: "answers" }, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows));
  }
  function abstained(cell) {
    const names = choosers(cell).get(-1);
    return names ? el("p", { className: "small" }, `No label: ${names.join(", ")}.`) : null;
  }

  // --- responses -------------------------------------------------------------------------------------------------------

  async function rollouts(problem, cell) {
    const step = index.steps[cell[0]];
    const pieces = (index.texts[step] ?? []).filter(([, problems]) => problems.includes(problem));
    const parts = await Promise.all(pieces.map(([name]) => unpackKept(name)));
    if (open === null || cells[open.problem][open.place] !== cell) return; // somebody went on meanwhile
    const rows = parts.flatMap((part) => part[problem]);
    rows.sort((x, y) => x[0] - y[0] || x[1] - y[1]);
    const visible = rows.filter((row) => only === null || row[2] === only);
    const of = votes[cell[0]].n[cell[1]].reduce((sum, count) => sum + count, 0);
    const file = `rollouts/step-${String(step).padStart(6, "0")}.parquet`;
    const note =
      rows.length === of ? null : el("p", { className: "small" }, rows.length === 0 ? `Not in this file: see ${file} in the run's directory.` : `${rows.length} of ${of} are in this file; all of them are in ${file} of the run's directory.`);
    const back = only === null ? null : el("button", { type: "button" }, `show all ${rows.length}`);
    if (back !== null) {
      back.addEventListener("click", () => {
        only = null;
        show(open.problem, open.place, true);
      });
    }
    byId("rollouts").replaceChildren(...[note, back, ...visible.map((row) => response(row, cell))].filter((node) => node !== null));
  }
  function response([view, sample, cluster, answer, reward, tokens, cutOff, text, draft, rewritten], cell) {
    const right = votes[cell[0]].r[cell[1]];
    const is = right === null || cluster < 0 ? null : right[cluster] ? "right" : "wrong";
    const facts = [reward === null ? null : `reward ${reward.toFixed(2)}`, `${tokens} tokens${cutOff ? ", cut off" : ""}`];
    const summary = el(
      "summary",
      {},
      `${index.views[view]} #${sample} · `,
      el("b", {}, answer ?? "no answer"),
      is === null ? "" : el("span", { className: `is-${is}` }, ` ${SIGNS[is]}`),
      ` · ${facts.filter((fact) => fact !== null).join(" · ")}`,
    );
    const parts = [["draft", draft], ["", text], ["rewording", rewritten]].filter(([, part]) => part !== null);
    const body = parts.flatMap(([name, [content, whole]]) => [
      name ? el("p", { className: "small" }, name) : null,
      el("pre", { className: "response" }, content),
      whole ? el("p", { className: "small" }, `Cut here; the whole text has ${whole.toLocaleString("en")} characters.`) : null,
    ]);
    return el("details", { open: text[0].length <= SHORT }, summary, ...body);
  }

  // --- keys ------------------------------------------------------------------------------------------------------------

  function move(by) {
    const items = [...byId("list").querySelectorAll(".item")];
    const at = items.indexOf(document.activeElement);
    if (at < 0) return false;
    if (at + by >= items.length && !byId("more").hidden) {
      more();
      return move(by);
    }
    items[Math.max(0, Math.min(items.length - 1, at + by))].focus();
    return true;
  }
  function turn(by) {
    if (open === null || !byId("detail").contains(document.activeElement)) return false;
    const place = open.place + by;
    if (place < 0 || place >= cells[open.problem].length) return false;
    show(open.problem, place, true);
    return true;
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches?.("input, select, textarea");
    const keys = { ArrowDown: () => move(1), ArrowUp: () => move(-1), ArrowRight: () => turn(1), ArrowLeft: () => turn(-1) };
    if (event.key === "Escape" && open !== null) hide();
    else if (event.key === "/" && !typing) byId("query").focus();
    else if (typing || !keys[event.key]?.()) return;
    event.preventDefault();
  });

  // --- start -----------------------------------------------------------------------------------------------------------

  function openNamed() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    const problem = index.ids.indexOf(wanted.get("problem"));
    if (problem < 0) return;
    const place = cells[problem].findIndex((cell) => String(index.steps[cell[0]]) === wanted.get("step"));
    show(problem, place < 0 ? cells[problem].length - 1 : place, false);
    byId("explorer").scrollIntoView();
  }
  async function start() {
    index = await unpack("index");
    index.ids.forEach(() => cells.push([]));
    votes.push(...(await Promise.all(index.steps.map((step) => unpack(`votes-${step}`)))));
    votes.forEach((table, place) => table.p.forEach((problem, row) => cells[problem].push([place, row])));
    setUpFilters();
    filter();
    openNamed();
    document.documentElement.dataset.ready = "yes";
  }
  start().catch((error) => {
    byId("count").textContent = `The votes cannot be read: ${error}. A browser of 2023 or newer is needed.`;
  });
})();
