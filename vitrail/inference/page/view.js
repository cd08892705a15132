// What the page shows of an answer: the image with what lies over it, rows of classes, sliders.

const byId = id => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on") || key in node && key !== "style") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

const named = text => element("bdi", {}, text); // a name from data, whatever the direction of its script
const percent = (share, digits = 1) => {
  const least = 10 ** -digits;
  if (share > 0 && share < least / 200) return `< ${least} %`;
  if (share < 1 && share > 1 - least / 200) return `> ${100 - least} %`;
  return `${(100 * share).toFixed(digits)} %`;
};

function slider(label, value, change) {
  const shown = element("output", {}, percent(value, 0));
  const input = element("input", { type: "range", min: 0, max: 100, step: 1, value: Math.round(100 * value) });
  input.oninput = () => {
    shown.value = percent(input.value / 100, 0);
    change(input.value / 100);
  };
  return element("label", {}, label, input, shown);
}

function classRow(label, share, best, color, text = percent(share)) {
  const bar = element("i", { "aria-hidden": "true" });
  bar.style.setProperty("--v", share.toFixed(4));
  const row = element("li", { className: best ? "best" : "" }, label, element("output", {}, text), bar);
  if (color) row.style.setProperty("--colour", color);
  return row;
}

class Stage {
  constructor() {
    this.canvas = byId("canvas");
    this.strength = { attention: 0.6, masks: 0.5, score: 0.5 }; // shares, set by the sliders
    this.hidden = new Set();
    new ResizeObserver(() => this.draw()).observe(byId("stage"));
  }

  show(bitmap) {
    [this.image, this.answer, this.layers] = [{ width: bitmap.width, height: bitmap.height }, null, {}];
    this.copy = shownCopy(bitmap);
    byId("empty").hidden = true;
    this.draw();
  }

  lay(answer, about) {
    [this.answer, this.about, this.layers] = [answer, about, {}];
    if (answer.attention) this.layers.attention = attentionCanvas(answer.attention);
    this.paintMasks();
  }

  paintMasks() {
    if (this.answer?.map) this.layers.masks = maskCanvas(this.answer.map, this.about.classes.length, this.hidden);
    this.draw();
  }

  shownBoxes() {
    return this.answer.boxes.filter(box => box[4] >= this.strength.score && !this.hidden.has(box[5]));
  }

  draw() {
    if (!this.image) return;
    const { clientWidth, clientHeight } = byId("stage"), { image, canvas, strength } = this, edge = 12;
    const scale = Math.min((clientWidth - 2 * edge) / image.width, (clientHeight - 2 * edge) / image.height);
    const width = Math.max(1, image.width * scale), height = Math.max(1, image.height * scale);
    canvas.width = Math.round(width * devicePixelRatio);
    canvas.height = Math.round(height * devicePixelRatio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const brush = canvas.getContext("2d");
    brush.scale(canvas.width / width, canvas.height / height);
    brush.imageSmoothingQuality = "high";
    brush.imageSmoothingEnabled = image.width > 64 || image.height > 64;
    brush.drawImage(this.copy, 0, 0, width, height);
    const { attention, masks } = this.layers, area = this.answer?.attention?.area;
    if (masks && strength.masks) {
      brush.globalAlpha = strength.masks;
      brush.imageSmoothingEnabled = false;
      brush.drawImage(masks, 0, 0, width, height);
    }
    brush.imageSmoothingEnabled = true;
    if (attention && strength.attention) {
      const [rows, columns] = area.canvas;
      brush.globalAlpha = strength.attention;
      brush.drawImage(attention, 0, 0, columns, rows, area.left * scale, area.top * scale, area.columns * scale,
        area.rows * scale);
    }
    brush.globalAlpha = 1;
    if (this.answer?.boxes) drawBoxes(brush, this.shownBoxes(), this.about.classes, scale, 0);
  }
}

// By the output of the task: the heading, what it is beside a known label, and the rows of the answer.
const SHOW = {
  classes(view, { probabilities }, { classes, multi_label: several }, label) {
    const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
    const chosen = several ? order.filter(i => probabilities[i] >= 0.5) : order.slice(0, 1);
    const heading = chosen.flatMap((i, n) => [n ? ", " : "", named(classes[i])]);
    if (!several) heading.push(" ", element("span", {}, percent(probabilities[order[0]])));
    view.verdict(heading.length ? heading : ["none of the classes"]);
    view.compare(label, chosen.map(i => classes[i]).join("|"));
    const rows = order.map(i => classRow(named(classes[i]), probabilities[i], chosen.includes(i)));
    view.rows(rows, order.length > 10 ? 5 : 10, "classes");
  },
  masks(view, { map }, { classes }) {
    const counts = new Array(256).fill(0);
    for (const index of map.data) counts[index]++;
    const present = classes.map((_, i) => i).filter(i => counts[i]).sort((a, b) => counts[b] - counts[a]);
    const front = present.filter(i => i);
    view.verdict(front.length ? front.slice(0, 3).flatMap((i, n) => [n ? ", " : "", named(classes[i])])
      : [named(classes[0] ?? "nothing")]);
    view.remark(`${present.length} of ${classes.length} classes in this image, by their share of its pixels`);
    view.rows(present.map(i => classRow(i ? view.toggle(i, classes[i]) : view.swatch(classes[i]),
      counts[i] / map.data.length, true, cssColor(maskColor(i)))), 12, "classes");
  },
  boxes(view, { boxes }, { classes }) {
    const shown = boxes.filter(box => box[4] >= view.stage.strength.score), counts = new Map();
    for (const box of shown) counts.set(box[5], [...counts.get(box[5]) ?? [], box[4]]);
    view.verdict([shown.length ? `${shown.length} ${shown.length === 1 ? "object" : "objects"}` : "Nothing found"]);
    const best = boxes.length ? `the best score is ${percent(boxes[0][4], 0)}` : "";
    view.remark(shown.length ? "with at least the score of the slider" : `with at least that score; ${best}`);
    const order = [...counts].sort((a, b) => b[1].length - a[1].length || b[1][0] - a[1][0]);
    view.rows(order.map(([i, scores]) => classRow(view.toggle(i, classes[i] ?? i), scores[0], true,
      cssColor(boxColor(i)), `${scores.length} × up to ${percent(scores[0], 0)}`)), 12, "classes");
  },
  features(view, { features }) {
    view.verdict([`${features.length} features`]);
    view.remark("numbers that are compared with those of other images; the server's answer has them");
    view.rows([], 1, "features");
  },
};

class View {
  constructor() {
    this.stage = new Stage();
  }

  verdict(children) {
    byId("verdict").replaceChildren(...children);
  }

  remark(...children) {
    byId("remark").replaceChildren(...children);
  }

  compare(label, prediction) {
    if (!label) return this.remark();
    const [mark, word] = label === prediction ? ["right", "✓ correct"] : ["wrong", "✗ wrong"];
    this.remark("labelled ", named(label), ": ", element("span", { className: mark }, word));
  }

  rows(items, most, what) {
    const list = element("ul", { className: "rows" }, ...items.slice(0, most)), more = byId("more");
    byId("rows").replaceChildren(list);
    more.hidden = items.length <= most;
    more.textContent = `Show all ${items.length} ${what}`;
    more.onclick = () => {
      list.replaceChildren(...items);
      list.classList.add("long");
      list.tabIndex = 0;
      list.focus();
      more.hidden = true;
    };
  }

  // A class of the legend, which shows and hides it on the image.
  toggle(index, name) {
    const { stage } = this, box = element("input", { type: "checkbox", checked: !stage.hidden.has(index) });
    box.onchange = () => {
      box.checked ? stage.hidden.delete(index) : stage.hidden.add(index);
      stage.paintMasks();
    };
    return element("label", {}, box, named(name));
  }

  // A class that is not drawn: the image shows there.
  swatch(name) {
    return element("span", { className: "plain" }, named(name));
  }

  controls(answer, about) {
    const { stage } = this, { strength } = stage, change = key => value => {
      strength[key] = value;
      stage.draw();
    };
    const sliders = [];
    if (answer.map) sliders.push(slider("Masks", strength.masks, change("masks")));
    if (answer.boxes) {
      sliders.push(slider("Score from", strength.score, value => {
        change("score")(value);
        SHOW.boxes(this, answer, about);
      }));
    }
    if (answer.attention) sliders.push(slider("Attention", strength.attention, change("attention")));
    byId("controls").replaceChildren(...sliders);
  }

  answer(answer, about, label) {
    this.stage.lay(answer, about);
    if (this.shown !== about) {
      if (answer.map || answer.boxes) this.stage.strength.attention = 0; // one thing at a time over the image
      this.controls(answer, about);
      this.stage.draw();
    }
    this.shown = about;
    SHOW[about.output](this, answer, about, label);
    byId("canvas").setAttribute("aria-label", `The image: ${byId("verdict").textContent}`);
    const time = answer.milliseconds;
    byId("timing").textContent = time ? `${time < 10 ? time.toFixed(1) : Math.round(time)} ms ${answer.where}` : "";
  }
}
