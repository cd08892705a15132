// The page: where images come from, and the facts about the model.

const page = JSON.parse(byId("page").textContent), view = new View();
let model = null, turn = 0, current = null;

function problem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

function busy(text) {
  byId("busy").textContent = text;
  byId("busy").hidden = !text;
}

const painted = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));

// Shows a file and the answer to it. A later image overtakes an earlier one.
async function showFile(file, label = "") {
  const mine = ++turn;
  current = { file, label };
  problem("");
  try {
    const bitmap = await decodeFile(file);
    if (mine !== turn) return;
    view.stage.show(bitmap);
    if (!model) return;
    busy(model.started ? "Looking …" : model.starting);
    await painted();
    const answer = await model.answer(bitmap, file);
    model.started = true;
    bitmap.close();
    if (mine !== turn) return;
    view.answer(answer, model.about, label);
    busy("");
  } catch (error) {
    if (mine === turn) {
      busy("");
      problem(error.message || String(error));
    }
  }
}

function pressExample(button) {
  for (const one of byId("examples").children) one.setAttribute("aria-pressed", String(one === button));
}

function showOwn(file) {
  if (!file) return;
  pressExample(null);
  showFile(file);
}

function listExamples(examples) {
  byId("examples").hidden = !examples.length;
  byId("examples").replaceChildren(...examples.map(({ type, data, label, name, tiny }) => {
    const file = new File([decodeBase64(data)], name, { type });
    const image = element("img", { src: `data:${type};base64,${data}`, alt: label || name });
    if (tiny) image.className = "pixels";
    const button = element("button", { type: "button", title: label || name, "aria-pressed": "false" }, image);
    button.onclick = () => {
      pressExample(button);
      showFile(file, label);
    };
    return button;
  }));
  byId("examples").firstElementChild?.click();
}

function listFacts({ facts, title }) {
  byId("title").replaceChildren(named(title));
  byId("facts").replaceChildren(...facts.map(({ name, value, more }) => {
    const line = element("dd", {}, named(value));
    if (more) line.append(element("small", {}, named(more)));
    return element("div", {}, element("dt", {}, name), line);
  }));
  byId("about").hidden = !facts.length;
}

async function photograph() {
  const isPhone = matchMedia("(pointer: coarse)").matches;
  if (isPhone || !navigator.mediaDevices?.getUserMedia) return byId("shot").click();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    byId("video").srcObject = stream;
    byId("camera").onclose = () => stream.getTracks().forEach(track => track.stop());
    byId("camera").showModal();
    await byId("video").play();
  } catch (error) {
    problem(error.name === "NotAllowedError" ? "The browser does not let this page use the camera."
      : "No camera answers; choose an image instead.");
  }
}

async function release() {
  const video = byId("video"), shot = document.createElement("canvas");
  [shot.width, shot.height] = [video.videoWidth, video.videoHeight];
  shot.getContext("2d").drawImage(video, 0, 0);
  byId("camera").close();
  if (shot.width) shot.toBlob(blob => showOwn(new File([blob], "photo.png", { type: "image/png" })));
}

async function paste() {
  try {
    for (const item of await navigator.clipboard.read()) {
      const type = item.types.find(t => t.startsWith("image/"));
      if (type) return showOwn(new File([await item.getType(type)], "pasted", { type }));
    }
    problem("There is no image in the clipboard.");
  } catch {
    problem("The browser does not let this page read the clipboard: press Ctrl+V (on a Mac, Cmd+V) instead.");
  }
}

function firstImage(data) {
  return [...data?.files ?? []].find(file => file.type.startsWith("image/")) ?? data?.files?.[0];
}

function listen() {
  byId("choose").onclick = byId("empty").onclick = () => byId("file").click();
  byId("photograph").onclick = photograph;
  byId("release").onclick = release;
  byId("leave").onclick = () => byId("camera").close();
  byId("paste").onclick = paste;
  byId("paste").hidden = !navigator.clipboard?.read;
  for (const input of [byId("file"), byId("shot")]) {
    input.onchange = () => {
      showOwn(input.files[0]);
      input.value = "";
    };
  }
  addEventListener("paste", event => showOwn(firstImage(event.clipboardData)));
  let depth = 0;
  const over = on => byId("stage").classList.toggle("dropping", on);
  addEventListener("dragenter", () => over(++depth > 0));
  addEventListener("dragleave", () => over(--depth > 0));
  addEventListener("dragover", event => event.preventDefault());
  addEventListener("drop", event => {
    event.preventDefault();
    over(depth = 0);
    showOwn(firstImage(event.dataTransfer));
  });
}

function useModel(next) {
  model = next;
  view.stage.hidden.clear();
  listFacts(model.about);
  byId("lead").textContent = model.lead;
}

listen();
start();
