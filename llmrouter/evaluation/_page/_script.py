"""The page's script: hover and keys on the plot, the legend, the cost axis, sorting and folding of the leaderboard.

It writes text nodes, attributes and styles only, never HTML, and everything it needs is in the page.
"""

SCRIPT = """
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("points").textContent);
  const figure = document.getElementById("figure"), tip = document.getElementById("tip");
  const plots = [...figure.querySelectorAll(".plot")];
  const boxes = [...figure.querySelectorAll("input[data-s]")]
    .sort((a, b) => a.dataset.s - b.dataset.s);
  document.documentElement.classList.add("js");
  for (const tools of document.querySelectorAll(".tools")) tools.hidden = false;

  const plot = () => plots.find((candidate) => !candidate.hidden);
  const groups = (series, place) => place.querySelector(`.s[data-s="${series}"]`);
  const shown = (series) => boxes[series].checked;

  // names beside the plot: near the ends of their curves, but apart
  const arrange = (place) => {
    const names = [...place.querySelectorAll(".s:not(.off) > .name")]
      .sort((a, b) => Math.round(a.dataset.y) - Math.round(b.dataset.y)
        || a.parentNode.dataset.s - b.parentNode.dataset.s);
    const { low, high, step } = data.names;
    const distance = Math.min(step, (high - low) / Math.max(1, names.length - 1));
    const places = [];
    for (const name of names) {
      const y = Number(name.dataset.y), last = places[places.length - 1];
      places.push(places.length ? Math.max(y, last + distance) : Math.max(y, low));
    }
    for (let i = places.length - 1; i >= 0; i--) {
      places[i] = Math.min(places[i], i === places.length - 1 ? high : places[i + 1] - distance);
    }
    names.forEach((name, i) => {
      name.querySelector("line").setAttribute("y2", places[i].toFixed(1));
      for (const text of name.querySelectorAll("text")) text.setAttribute("y", places[i].toFixed(1));
    });
  };
  const apply = () => {
    for (const place of plots) {
      boxes.forEach((box, series) => {
        const group = groups(series, place);
        if (!group) return;
        const was = group.classList.contains("off");
        group.classList.toggle("off", !box.checked);
        if (was && box.checked) group.parentNode.appendChild(group);
      });
      arrange(place);
    }
    hide();
  };

  // the operating point under the pointer or the keys
  let current = null;
  const hide = () => {
    current = null;
    tip.style.display = "none";
    for (const place of plots) place.querySelector(".ring").setAttribute("visibility", "hidden");
  };
  const describe = (series, point) => {
    const router = data.routers[series], [weight, quality, cost, shares] = router.points[point];
    const lines = [router.name, weight, `quality  ${quality}`, `cost     ${cost}`];
    for (const [model, part] of shares) lines.push(`${part.padStart(6)}  ${data.models[model]}`);
    return lines.join("\\n");
  };
  const show = (series, point) => {
    const place = plot(), svg = place.querySelector("svg"), ring = place.querySelector(".ring");
    const [x, y] = data.axes[place.dataset.axis][series][point];
    const area = svg.getBoundingClientRect(), view = svg.viewBox.baseVal, scale = view.width / area.width;
    ring.setAttribute("cx", x); ring.setAttribute("cy", y);
    ring.setAttribute("stroke", data.routers[series].colour); ring.setAttribute("visibility", "visible");
    ring.parentNode.appendChild(ring);
    tip.textContent = describe(series, point);
    tip.style.display = "block";
    const base = figure.getBoundingClientRect();
    const left = area.left - base.left + (x - view.x) / scale + 14;
    const top = area.top - base.top + (y - view.y) / scale + 14;
    tip.style.left = Math.max(0, Math.min(left, base.width - tip.offsetWidth)) + "px";
    tip.style.top = top + "px";
    current = [series, point];
  };
  const nearest = (place, x, y, reach) => {
    let best = null, least = reach * reach;
    data.axes[place.dataset.axis].forEach((points, series) => {
      if (!shown(series)) return;
      points.forEach(([px, py], point) => {
        const distance = (px - x) ** 2 + (py - y) ** 2;
        if (distance < least) { least = distance; best = [series, point]; }
      });
    });
    return best;
  };
  const move = (event, place) => {
    const svg = place.querySelector("svg"), area = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
    const scale = view.width / area.width;
    const found = nearest(place, view.x + (event.clientX - area.left) * scale,
      view.y + (event.clientY - area.top) * scale, 30);
    if (found) show(...found); else hide();
  };
  const step = (event, place) => {
    const axis = data.axes[place.dataset.axis];
    const series = axis.map((_, i) => i).filter((i) => shown(i) && axis[i].length);
    if (event.key === "Escape") { hide(); return; }
    if (!series.length || !event.key.startsWith("Arrow")) return;
    event.preventDefault();
    if (!current) { show(series[0], 0); return; }
    const [s, p] = current, order = axis[s].map((_, i) => i).sort((a, b) => axis[s][a][0] - axis[s][b][0]);
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const at = order.indexOf(p) + (event.key === "ArrowRight" ? 1 : -1);
      show(s, order[Math.max(0, Math.min(order.length - 1, at))]);
      return;
    }
    const count = series.length, turn = event.key === "ArrowDown" ? 1 : -1;
    const next = series[(series.indexOf(s) + turn + count) % count];
    const x = axis[s][p][0];
    let closest = 0;
    axis[next].forEach(([px], i) => { if (Math.abs(px - x) < Math.abs(axis[next][closest][0] - x)) closest = i; });
    show(next, closest);
  };
  for (const place of plots) {
    place.addEventListener("pointermove", (event) => move(event, place));
    place.addEventListener("pointerdown", (event) => move(event, place));
    place.addEventListener("pointerleave", hide);
    place.addEventListener("keydown", (event) => step(event, place));
    place.addEventListener("blur", hide);
  }
  boxes.forEach((box) => box.addEventListener("change", apply));
  for (const button of figure.querySelectorAll("button[data-show]")) {
    button.addEventListener("click", () => {
      const wanted = button.dataset.show;
      for (const box of boxes) {
        if (box.dataset.kind === "reference") continue;
        box.checked = wanted === "all" || (wanted === "few" && box.hasAttribute("data-few"));
      }
      apply();
    });
  }
  for (const radio of figure.querySelectorAll("input[name=axis]")) {
    radio.addEventListener("change", () => {
      for (const place of plots) place.hidden = place.dataset.axis !== radio.value;
      apply();
    });
  }
  const ghosts = figure.querySelector("input[data-ghosts]");
  if (ghosts) ghosts.addEventListener("change", () => figure.classList.toggle("no-ghosts", !ghosts.checked));
  apply();

  // the leaderboard
  const board = document.getElementById("board");
  if (!board) return;
  const value = (row, column) => {
    const raw = row.cells[column].dataset.v;
    return raw === undefined || raw === "" ? NaN : Number(raw);
  };
  const sort = (head, column) => {
    const down = head.getAttribute("aria-sort") === "none"
      ? head.dataset.first !== "ascending" : head.getAttribute("aria-sort") === "ascending";
    for (const other of board.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    for (const body of board.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("kind"));
      rows.sort((a, b) => {
        if (column === 0) {
          return a.cells[0].dataset.name.localeCompare(b.cells[0].dataset.name) * (down ? -1 : 1);
        }
        const x = value(a, column), y = value(b, column);
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return x === y ? 0 : (x < y ? -1 : 1) * (down ? -1 : 1);
      });
      for (const row of rows) body.appendChild(row);
    }
  };
  for (const head of board.querySelectorAll("th[aria-sort]")) {
    head.querySelector("button").addEventListener("click", () => sort(head, Number(head.dataset.column)));
  }
  for (const box of document.querySelectorAll("input[data-group]")) {
    const fold = () => board.classList.toggle("off-" + box.dataset.group, !box.checked);
    box.addEventListener("change", fold);
    fold();
  }
})();
"""
