// The model inside the page: ONNX Runtime as WebAssembly and the graph, both unpacked from it.

const block = id => document.getElementById(id);

async function unpack(id) {
  const bytes = decodeBase64(block(id).textContent.trim());
  block(id).remove();
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function startSession() {
  if (!globalThis.DecompressionStream || !globalThis.WebAssembly) {
    throw new Error("This browser is too old for the model: it takes one of 2023 or later, with WebAssembly.");
  }
  const [module, wasmBinary, graph] = await Promise.all(["runtime", "wasm", "graph"].map(unpack));
  const address = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
  const ort = await import(address); // a page from a disk may import from a blob only
  Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary }); // threads need a server that isolates the page
  ort.env.logLevel = "error";
  return { ort, session: await ort.InferenceSession.create(new Uint8Array(graph), { executionProviders: ["wasm"] }) };
}

// Tensors of one image [C H W], and of its size without padding where the graph takes it.
function feedsOf({ ort, session }, planes, size, { channels, size: canvas }) {
  const feeds = { images: new ort.Tensor("uint8", planes, [1, channels, ...canvas]) };
  if (session.inputNames.includes("sizes")) {
    feeds.sizes = new ort.Tensor("int64", BigInt64Array.from(size, BigInt), [1, 2]);
  }
  return feeds;
}

const ANSWERS = { // by the output of the task: what all windows of an image come to
  classes: (about, image, size, parts) => ({ probabilities: parts[0].outputs.probabilities }),
  masks: (about, image, size, parts) => {
    const count = about.classes.length;
    const whole = averageWindows(parts.map(p => ({ ...p, values: p.outputs.logits })), count, size, about.input.size);
    return { map: mostLikely(whole, count, size, image) };
  },
  boxes: (about, image, size, parts) => {
    const rows = parts.map(p => ({ ...p, rows: splitRows(p.outputs.boxes) }));
    return { boxes: placeBoxes(mergeBoxes(rows, size, about.nms_iou), size, image) };
  },
};

class LocalModel {
  constructor(about) {
    this.about = about;
    this.last = Promise.resolve();
  }

  open() {
    return this.opening ??= startSession().then(async opened => {
      const { input } = this.about, blank = new Uint8Array(input.channels * input.size[0] * input.size[1]);
      await opened.session.run(feedsOf(opened, blank, input.size, input)); // the first run prepares the others
      return opened;
    });
  }

  // One image [C H W] of the model's size, and its size without padding -> arrays by name. One after the other.
  run(planes, size = this.about.input.size) {
    const next = this.last.then(async () => {
      const opened = await this.open();
      const results = await opened.session.run(feedsOf(opened, planes, size, this.about.input));
      return Object.fromEntries(Object.entries(results).map(([name, tensor]) => [name, tensor.data]));
    });
    this.last = next.catch(() => {});
    return next;
  }

  // The answer of an image of any size: probabilities, a map of labels or boxes; and its attention, if there is any.
  async answer(image) {
    await this.open();
    const begin = performance.now(), { about } = this, { input } = about;
    const whole = about.output === "classes" && { image: fitImage(image, input), top: 0, left: 0, size: input.size };
    const { size, windows } = whole ? { size: input.size, windows: [whole] } : cutWindows(image, input);
    const parts = [];
    for (const window of windows) {
      parts.push({ window, outputs: await this.run(toPlanes(window.image), window.size) });
    }
    const answer = ANSWERS[about.output](about, image, size, parts);
    answer.milliseconds = performance.now() - begin;
    if (about.attention) answer.attention = await this.attention(image, parts);
    return answer;
  }

  // Of several windows there is no one map: then of the whole image, shrunk to fit.
  async attention(image, parts) {
    const many = parts.length > 1, input = many ? { ...this.about.input, resize_mode: "fit" } : this.about.input;
    if (many) {
      const { windows: [window] } = cutWindows(image, input);
      parts = [{ outputs: await this.run(toPlanes(window.image), window.size) }];
    }
    const { grid, covers } = this.about.attention;
    return { values: parts[0].outputs.attention, grid, covers, area: visibleArea(input, image) };
  }
}
