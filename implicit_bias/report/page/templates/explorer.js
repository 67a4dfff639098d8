"use strict";
(() => {
  const BAND = 0.13;
  // What a sheet of paper has room for.
  const PRINTED = { width: 640, height: 280 };
  // A horizontal line, as it is drawn and as the legend shows it.
  const GREY = { color: "#6b6b6b", dash: [1, 1.3] };
  const LEVEL = { stroke: GREY.color, width: 1.5, dash: GREY.dash.map((d) => d * 2.5) };

  // A number as short as it can be said.
  const say = (v) => {
    if (v === null || v === undefined) return "–";
    const size = Math.abs(v);
    if (v !== 0 && (size < 1e-3 || size >= 1e6)) return v.toExponential(2).replace(/\.?0*e\+?/, "e");
    return Number.isInteger(v) ? v.toLocaleString("en") : String(+v.toPrecision(3));
  };

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  const swatch = (curve) => {
    const dash = curve.dash.map((d) => d * 2).join(" ");
    const box = make("span");
    box.innerHTML = `<svg width="26" height="8" aria-hidden="true"><line x1="0" y1="4" x2="26" y2="4" stroke="${curve.color}"
      stroke-width="2.2" stroke-dasharray="${dash}"/></svg>`;
    return box.firstChild;
  };

  class Explorer {
    constructor(host, data) {
      this.host = host;
      this.data = data;
      this.at = data.choose.map(() => 0);
      this.axis = { x: 0, y: 0 };
      this.log = { x: data.x[0].log, y: data.y[0].log };
      this.off = new Set();
      this.wanted = () => true;
      this.controls = make("div", { className: "controls" });
      this.box = make("div", { className: "plot" });
      this.legend = make("div", { className: "legend" });
      this.hint = make("p", { className: "hint" });
      host.append(this.controls, this.box, this.legend, this.hint);
      data.choose.forEach((choice, i) => this.choose(choice.label, choice.names, (place) => (this.at[i] = place)));
      this.choose("quantity", data.y.map((q) => q.label), (place) => {
        this.axis.y = place;
        this.log.y = data.y[place].log;
      });
      this.choose("against", data.x.map((q) => q.label), (place) => {
        this.axis.x = place;
        this.log.x = data.x[place].log;
      });
      this.scales = ["x", "y"].map((axis) => this.toggle(axis));
      this.printed = false;
      new ResizeObserver(() => this.plot && this.plot.setSize(this.size())).observe(this.box);
      this.draw();
    }

    choose(label, names, act) {
      if (names.length < 2) return;
      const select = make("select", {}, ...names.map((name, i) => make("option", { value: i, textContent: name })));
      select.dataset.choice = label;
      select.addEventListener("change", () => {
        act(Number(select.value));
        this.draw();
      });
      this.controls.append(make("label", {}, label, select));
    }

    toggle(axis) {
      const button = make("button", { type: "button", });
      button.dataset.axis = axis;
      button.addEventListener("click", () => {
        this.log[axis] = !this.log[axis];
        this.draw();
      });
      this.controls.append(button);
      return button;
    }

    size() {
      if (this.printed) return PRINTED;
      return { width: Math.max(240, this.box.clientWidth), height: this.box.clientWidth < 500 ? 270 : 330 };
    }

    // [x, mean, least, largest] of a curve, in ascending x; null where a log axis has no place for it.
    points(curve) {
      const arrays = this.data.arrays;
      const x = curve.x[this.axis.x];
      const y = curve.y[this.axis.y];
      if (x === null || y === null) return null;
      const values = (place) => (place === null ? null : arrays[place]);
      const [mean, least, largest] = y.map(values);
      const fits = (v, axis) => v !== null && (!this.log[axis] || v > 0);
      const order = arrays[x].map((_, i) => i).filter((i) => fits(arrays[x][i], "x") && fits(mean[i], "y"));
      order.sort((a, b) => arrays[x][a] - arrays[x][b]);
      const kept = order.filter((i, k) => k === 0 || arrays[x][i] > arrays[x][order[k - 1]]);
      const pick = (list) => kept.map((i) => (fits(list[i], "y") ? list[i] : mean[i]));
      return kept.length ? [kept.map((i) => arrays[x][i]), pick(mean), pick(least || mean), pick(largest || mean)] : null;
    }

    // Choose as a reader does in one of the lists.
    pick(choice, place) {
      const select = [...this.controls.querySelectorAll("select")].find((one) => one.dataset.choice === choice);
      if (!select) return;
      select.value = place;
      select.dispatchEvent(new Event("change"));
    }

    // Fit the paper's width, and the window's again.
    paper(printed) {
      this.printed = printed;
      if (this.plot) this.plot.setSize(this.size());
    }

    // Draw only the curves whose names fit.
    filter(wanted) {
      this.wanted = wanted;
      this.draw();
    }

    // The horizontal lines of this picture that have a place on its axis.
    levels() {
      const here = (level) => JSON.stringify(level.at) === JSON.stringify(this.at) && level.y === this.axis.y;
      return this.data.levels.filter((level) => here(level) && !(this.log.y && level.value <= 0));
    }

    draw() {
      const chosen = JSON.stringify(this.at);
      this.shown = this.data.curves.filter((curve) => JSON.stringify(curve.at) === chosen && this.wanted(curve.label));
      this.shown = this.shown.map((curve) => ({ curve, points: this.points(curve) })).filter((one) => one.points);
      if (this.plot) this.plot.destroy();
      this.plot = null;
      this.box.replaceChildren();
      this.legend.replaceChildren();
      for (const button of this.scales) {
        const { axis } = button.dataset;
        button.textContent = `${axis}: ${this.log[axis] ? "log" : "linear"}`;
        button.setAttribute("aria-pressed", this.log[axis]);
      }
      if (!this.shown.length) {
        this.hint.textContent = this.data.curves.some((curve) => this.wanted(curve.label))
          ? "Nothing was measured here, or nothing of it is positive."
          : "No name has these words.";
        return;
      }
      const levels = this.levels();
      const xs = this.shown.flatMap(({ points }) => [points[0][0], points[0].at(-1)]);
      const [first, last] = [Math.min(...xs), Math.max(...xs)];
      const ends = first < last ? [first, last] : [first];
      const lines = levels.map(({ value }) => [ends, ends.map(() => value)]);
      const joined = uPlot.join([...this.shown.map((one) => one.points), ...lines]);
      const series = [{}];
      const bands = [];
      this.shown.forEach(({ curve, points }) => {
        const place = series.length;
        const show = !this.off.has(curve.label);
        const still = { stroke: "transparent", width: 0, points: { show: false }, spanGaps: true, show };
        const line = { label: curve.label, stroke: curve.color, width: 2, dash: curve.dash.map((d) => d * 2.5) };
        series.push({ ...line, spanGaps: true, show, points: { show: points[0].length < 2 } }, still, { ...still });
        const shade = curve.color + Math.round(BAND * 255).toString(16).padStart(2, "0");
        bands.push({ series: [place + 2, place + 1], fill: shade });
      });
      levels.forEach(({ label }) => series.push({ label, ...LEVEL, spanGaps: true, points: { show: false } }));
      this.plot = new uPlot(this.options(series, bands, joined), joined, this.box);
      this.shown.forEach((one, i) => this.legend.append(this.entry(one.curve, 1 + 3 * i)));
      levels.forEach(({ label, value }) => this.legend.append(make("span", {}, swatch(GREY), `${label} ${say(value)}`)));
      this.legend.classList.toggle("banded", this.banded());
      this.idle();
    }

    options(series, bands, joined) {
      const axis = (name) => ({
        label: this.data[name][this.axis[name]].label,
        labelSize: 22,
        labelFont: "12px system-ui, sans-serif",
        font: "11px system-ui, sans-serif",
        stroke: "#5b6470",
        grid: { stroke: "#ececec", width: 1 },
        ticks: { stroke: "#d5d5d5", width: 1, size: 4 },
        size: name === "y" ? 58 : 34,
        values: (_, splits) => splits.map((v) => (v === null ? "" : this.log[name] && !this.round(v) ? "" : say(v))),
      });
      const scale = (name) => (this.log[name] ? { distr: 3, log: 10 } : { distr: 1 });
      return {
        ...this.size(),
        legend: { show: false },
        series,
        bands,
        axes: [axis("x"), axis("y")],
        scales: { x: { time: false, ...scale("x"), ...this.limits(joined[0]) }, y: scale("y") },
        cursor: {
          dataIdx: (plot, place, hovered) => nearest(plot.data, place, hovered),
          points: { size: (_, place) => (place % 3 === 1 && place <= 3 * this.shown.length ? 7 : 0) },
          drag: { x: true, y: false },
        },
        hooks: { setCursor: [(plot) => this.read(plot)] },
      };
    }

    // A log axis ends where the data do, not at the next power of ten.
    limits(x) {
      return this.log.x ? { range: (_, low, high) => (low === high ? [low / 2, high * 2] : [low, high]) } : {};
    }

    round(v) {
      const exponent = Math.log10(Math.abs(v));
      return Math.abs(exponent - Math.round(exponent)) < 1e-6 || this.narrow();
    }

    // Within two decades every mark has room for its number.
    narrow() {
      const y = this.plot && this.plot.scales.y;
      return Boolean(y && y.min > 0 && y.max / y.min < 30);
    }

    entry(curve, place) {
      const value = make("span", { className: "value" });
      const button = make("button", { type: "button" }, swatch(curve), curve.label, value);
      button.dataset.place = place;
      button.setAttribute("aria-pressed", !this.off.has(curve.label));
      button.addEventListener("click", () => {
        const show = this.off.delete(curve.label);
        if (!show) this.off.add(curve.label);
        button.setAttribute("aria-pressed", show);
        this.plot.batch(() => [0, 1, 2].forEach((i) => this.plot.setSeries(place + i, { show })));
      });
      return button;
    }

    read(plot) {
      const { left, idx, idxs } = plot.cursor;
      if (left < 0 || idx === null || idx === undefined) return this.idle();
      this.hint.textContent = `${this.data.x[this.axis.x].label} ${say(plot.data[0][idx])}`;
      for (const button of this.legend.querySelectorAll("button")) {
        const place = Number(button.dataset.place);
        const [at, low, high] = [0, 1, 2].map((i) => plot.data[place + i][idxs[place]]);
        const spread = low !== high && low !== undefined ? `\n${say(low)} to ${say(high)}` : "";
        button.querySelector(".value").textContent = say(at) + spread;
      }
    }

    banded() {
      return this.shown.some(({ points }) => points[2].some((v, i) => v !== points[3][i]));
    }

    idle() {
      this.hint.textContent =
        (this.banded() ? "Mean over seeds, and their range as a band. " : "") +
        "Point at the picture for values; drag to zoom, double-click for all; click a name to hide its curve.";
      for (const value of this.legend.querySelectorAll(".value")) value.textContent = "";
    }
  }

  // The place of the value of a series nearest to a place of the shared axis where it may have none; curves end where they end.
  const nearest = (data, place, hovered) => {
    const values = data[place];
    if (place === 0 || (values[hovered] !== null && values[hovered] !== undefined)) return hovered;
    let [before, after] = [hovered, hovered];
    while (before >= 0 && (values[before] === null || values[before] === undefined)) before--;
    while (after < values.length && (values[after] === null || values[after] === undefined)) after++;
    if (before < 0 || after >= values.length) return null;
    const x = data[0];
    return x[hovered] - x[before] <= x[after] - x[hovered] ? before : after;
  };

  // The numbers are JSON, deflated, in base64.
  const unpacked = async (host) => {
    if (host.data) return host.data;
    const text = document.getElementById(`curves-${host.dataset.figure}`).textContent;
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    host.data = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
    return host.data;
  };

  const explorers = document.querySelectorAll(".explorer");
  const explore = (host, data) => {
    if (host.explorer) return;
    near.unobserve(host);
    host.explorer = new Explorer(host, data);
    if (host.first) host.explorer.pick(...host.first);
    host.dispatchEvent(new Event("explored"));
  };
  const near = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        near.unobserve(target);
        unpacked(target).then((data) => explore(target, data));
      }
    },
    { rootMargin: "300px" },
  );
  explorers.forEach((host) => {
    host.hidden = false;
    near.observe(host);
  });

  // On paper every plot is drawn and every list unfolded. Printing does not wait: the numbers are unpacked before, at leisure.
  const idly = window.requestIdleCallback || ((work) => setTimeout(work, 50));
  const prepare = ([host, ...others]) => host && idly(() => unpacked(host).then(() => prepare(others)));
  addEventListener("load", () => prepare([...explorers]));
  let folded = [];
  addEventListener("beforeprint", () => {
    explorers.forEach((host) => host.data && explore(host, host.data));
    explorers.forEach(({ explorer }) => explorer && explorer.paper(true));
    folded = [...document.querySelectorAll("main details:not([open])")];
    folded.forEach((part) => (part.open = true));
  });
  addEventListener("afterprint", () => {
    folded.forEach((part) => (part.open = false));
    explorers.forEach(({ explorer }) => explorer && explorer.paper(false));
  });

  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        getSelection().selectAllChildren(code); // not allowed here: it is at least selected
        document.execCommand("copy");
      }
      button.textContent = "copied";
      setTimeout(() => (button.textContent = "copy"), 1500);
    });
  }

  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const reading = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) links.get(target.id)?.classList.toggle("here", isIntersecting);
    },
    { rootMargin: "-10% 0px -80% 0px" },
  );
  document.querySelectorAll("article, #top, #failed, #findings, #glossary, #ledger").forEach((part) => reading.observe(part));

  // Words that a name must have, all of them, to be drawn and to stand in the table.
  for (const input of document.querySelectorAll("[data-filters]")) {
    const rows = [...document.querySelectorAll("tr[data-label]")];
    input.parentElement.hidden = false;
    const narrow = () => {
      const words = input.value.toLowerCase().split(/\s+/);
      const wanted = (label) => words.every((word) => label.toLowerCase().includes(word));
      rows.forEach((row) => (row.hidden = !wanted(row.dataset.label)));
      const left = rows.filter((row) => !row.hidden).length;
      input.nextElementSibling.textContent = left < rows.length ? `${left} of ${rows.length}` : "";
      explorers.forEach(({ explorer }) => explorer && explorer.filter(wanted));
    };
    input.addEventListener("input", narrow);
    explorers.forEach((host) => host.addEventListener("explored", narrow)); // the words may be there before the curves
  }
})();
