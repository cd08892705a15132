// What lies over an image: colours of attention, of masks, of boxes.

const INFERNO = ("000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d24644 e45a31 f1731d f98e09 fcac11 "
  + "f9cb35 f2ea69 fcffa4").split(" ").map(hex => [0, 2, 4].map(i => parseInt(hex.slice(i, i + 2), 16)));
const GOLDEN = 0.618033988749895, GROUND = [40, 40, 48];

function heatColor(level) {
  const at = Math.min(Math.max(level, 0), 1) * (INFERNO.length - 1), low = Math.min(Math.floor(at), INFERNO.length - 2);
  return INFERNO[low].map((value, i) => value + (INFERNO[low + 1][i] - value) * (at - low));
}

function fromHsv(hue, saturation, value) {
  return [5, 3, 1].map(n => {
    const k = (n + hue * 6) % 6;
    return Math.round(255 * (value - value * saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  });
}

// The colours of classes, as in the report of a run: class 0 of masks, usually background, is dark.
function classColor(index) {
  const tens = Math.floor(index / 10) % 2, twenties = Math.floor(index / 20) % 2;
  return fromHsv((0.02 + GOLDEN * index) % 1, 0.75 - 0.25 * twenties, 0.95 - 0.2 * tens);
}
const maskColor = index => index ? classColor(index) : GROUND;
const boxColor = index => classColor(index % 254 + 1);
const isLight = ([red, green, blue]) => 0.299 * red + 0.587 * green + 0.114 * blue > 140;
const cssColor = rgb => `rgb(${rgb.map(Math.round).join(" ")})`;

function makeCanvas(width, height, paint) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const brush = canvas.getContext("2d"), pixels = brush.createImageData(width, height);
  paint(pixels.data);
  brush.putImageData(pixels, 0, 0);
  return canvas;
}

// An image as it is shown: of a large one a smaller copy, so that sliders stay smooth.
function shownCopy(bitmap, most = 2048) {
  const scale = Math.min(1, most / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map(side => Math.max(1, Math.round(side * scale)));
  const canvas = Object.assign(document.createElement("canvas"), { width, height }), brush = canvas.getContext("2d");
  brush.imageSmoothingQuality = "high";
  brush.drawImage(bitmap, 0, 0, width, height);
  return canvas;
}

// The cells of attention over the part of the image that the model saw, enlarged as `resize_to_image` does.
function attentionCanvas({ values, grid: [rows, columns], covers, area: { canvas } }) {
  const [height, width] = canvas, across = linearSteps(columns, Math.max(covers[1], width));
  const down = linearSteps(rows, Math.max(covers[0], height)), large = new Float32Array(height * width);
  let low = Infinity, high = -Infinity;
  for (let y = 0, i = 0; y < height; y++) {
    const upper = down.low[y] * columns, lower = down.high[y] * columns;
    for (let x = 0; x < width; x++, i++) {
      const value = large[i] = sampleAt(values, upper, lower, down.share[y], across, x);
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  const colors = Array.from({ length: 256 }, (_, i) => // where little is attended, the image shows
    Uint8ClampedArray.of(...heatColor(i / 255), 255 * (0.55 + 0.45 * i / 255)));
  return makeCanvas(width, height, out => {
    const scale = 255 / Math.max(high - low, 1e-12);
    for (let i = 0; i < large.length; i++) out.set(colors[Math.round((large[i] - low) * scale)], 4 * i);
  });
}

// hidden: classes that are not shown. Background and classes without a name leave the image as it is.
function maskCanvas({ width, height, data }, count, hidden) {
  const colors = Array.from({ length: count }, (_, i) => i && !hidden.has(i) ? [...maskColor(i), 255] : null);
  return makeCanvas(width, height, out => {
    for (let i = 0; i < data.length; i++) {
      if (colors[data[i]]) out.set(colors[data[i]], 4 * i);
    }
  });
}

function drawBoxes(brush, boxes, names, scale, origin) {
  const placed = [];
  brush.font = "600 13px system-ui, sans-serif";
  brush.textBaseline = "middle";
  for (const [left, top, right, bottom, score, label] of boxes.slice().reverse()) {
    const x = origin + left * scale, y = origin + top * scale, color = boxColor(label);
    brush.lineWidth = 3;
    brush.strokeStyle = "rgb(0 0 0 / .45)";
    brush.strokeRect(x, y, (right - left) * scale, (bottom - top) * scale);
    brush.lineWidth = 2;
    brush.strokeStyle = cssColor(color);
    brush.strokeRect(x, y, (right - left) * scale, (bottom - top) * scale);
    placed.push({ x, y, color, text: `${names[label] ?? label} ${Math.round(100 * score)} %` });
  }
  for (const { x, y, color, text } of placed) {
    const width = brush.measureText(text).width + 10, limit = brush.canvas.width / devicePixelRatio - width;
    const left = Math.max(0, Math.min(x - 1, limit)), top = Math.max(0, y - 20);
    brush.fillStyle = cssColor(color);
    brush.fillRect(left, top, width, 20);
    brush.fillStyle = isLight(color) ? "#10141b" : "#ffffff";
    brush.fillText(text, left + 5, top + 10.5);
  }
}
