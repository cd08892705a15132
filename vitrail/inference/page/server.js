// The page of a server: it asks /models, /predict and /attention of where it comes from.

const TOKEN = "vitrail token"; // in the tab alone, until it is closed

class Refusal extends Error {
  constructor(status, { error = `the server answers ${status}`, fix = "" }) {
    super(fix ? `${error}\n${fix}` : error);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server cannot be reached: does it still run?");
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refusal(response.status, content);
  return content;
}

const READ = { // by the output of a model: its answer in JSON as the page shows it
  async classes({ probabilities: rows }, about) {
    const probabilities = new Float32Array(about.classes.length);
    for (const { index, probability } of rows) probabilities[index] = probability;
    return { probabilities };
  },
  async masks({ mask }) {
    const image = new Blob([decodeBase64(mask)], { type: "image/png" });
    const bitmap = await createImageBitmap(image, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    return { map: readPixels(bitmap, { channels: 1, background: [0, 0, 0] }) };
  },
  async boxes({ objects }) {
    return { boxes: objects.map(({ box, score, index }) => [...box, score, index]) };
  },
  async features({ features }) {
    return { features };
  },
};

const SEEN = { // by the resize mode
  stretch: "the whole image, stretched", crop: "the centre of the image", fit: "the whole image, fitted",
  slide: "overlapping windows of the resized image", tile: "overlapping windows of the image",
};

class ServedModel {
  constructor(about) {
    const { name, model: family, input, classes, sha256, vitrail } = about;
    this.about = { ...about, title: name, facts: [
      { name: "Model", value: family, more: about.task && `for ${about.task}` },
      { name: "Classes", value: classes.length.toLocaleString("en") },
      { name: "Input", value: `${input.size[0]} × ${input.size[1]} pixels`, more: SEEN[input.resize_mode] },
      { name: "SHA-256 of the weights", value: sha256 ? `${sha256.slice(0, 12)}…` : "" },
      { name: "Served by", value: `vitrail ${vitrail}` },
    ].filter(fact => fact.value) };
    this.lead = "Images are sent to this server, which keeps none of them.";
    this.starting = "Asking the server …";
  }

  async answer(bitmap, file) {
    const begin = performance.now(), { about } = this, query = new URLSearchParams({ model: about.name });
    const post = (path, more) => ask(`${path}?${query}${more}`, { method: "POST", body: file });
    const content = await post("predict", about.output === "classes" ? "&top=100000" : "");
    const answer = { ...await READ[about.output](content, about), where: "there and back" };
    answer.milliseconds = performance.now() - begin;
    if (about.attention.length) answer.attention = await post("attention", "");
    return answer;
  }
}

function askForToken(wrong) {
  const input = element("input", { type: "password", autocomplete: "off", "aria-label": "Token" });
  const form = element("form", { className: "token" }, element("label", {}, "Token of this server ", input),
    element("button", { className: "main" }, "Use it"));
  form.onsubmit = event => {
    event.preventDefault();
    sessionStorage.setItem(TOKEN, input.value.trim());
    start();
  };
  byId("pick").replaceChildren(form);
  byId("pick").hidden = false;
  byId("lead").textContent = wrong ? "That is not the token of this server." : "This server asks for a token.";
  input.focus();
}

function pickModel(models) {
  const select = element("select", { "aria-label": "Model" }, ...models.map(({ about }, i) =>
    element("option", { value: i }, about.name)));
  select.onchange = () => {
    useModel(models[select.value]);
    if (current) showFile(current.file, current.label);
  };
  byId("pick").replaceChildren(select);
  byId("pick").hidden = models.length < 2;
}

async function start() {
  try {
    const { models, notes = [] } = await ask("models");
    const served = models.map(about => new ServedModel(about));
    pickModel(served);
    problem(notes.join("\n"));
    if (served.length) useModel(served[0]);
    if (current) showFile(current.file, current.label);
  } catch (error) {
    if (error.status === 401) return askForToken(Boolean(sessionStorage.getItem(TOKEN)));
    problem(error.message);
  }
}
