// What a model answers of windows -> the answer of a whole image: `vitrail.inference.windows`, in the browser.
// A map is { width, height, data }; boxes are rows of six: left, top, right, bottom, score, class.

const MOST_BOXES = 500, CANDIDATES = 5000, SAME_BOX = 0.5, CUT_SCORE = 0.5, COVERED = 0.8, BORDER = 1;
const MOST_VALUES = 1.6e7; // logits that are enlarged; of more, the label map is smaller than the image

// Logits [K h w] of windows -> those of the whole resized image, their mean where windows overlap.
function averageWindows(parts, classes, [height, width], [rows, columns]) {
  const total = new Float32Array(classes * height * width), times = new Uint16Array(height * width);
  for (const { window: { top, left, size }, values } of parts) {
    for (let k = 0; k < classes; k++) {
      for (let y = 0; y < size[0]; y++) {
        const from = (k * rows + y) * columns, to = (k * height + top + y) * width + left;
        for (let x = 0; x < size[1]; x++) total[to + x] += values[from + x];
      }
    }
    for (let y = 0; y < size[0]; y++) for (let x = 0; x < size[1]; x++) times[(top + y) * width + left + x]++;
  }
  if (parts.length > 1) for (let i = 0; i < total.length; i++) total[i] /= times[i % times.length];
  return total;
}

// Of a bilinear resize without aligned corners: the two neighbours of each place, and the share of the second.
function linearSteps(from, to) {
  const low = new Int32Array(to), high = new Int32Array(to), share = new Float64Array(to);
  for (let i = 0; i < to; i++) {
    const at = Math.max(0, (i + 0.5) * from / to - 0.5);
    low[i] = Math.min(Math.floor(at), from - 1);
    high[i] = Math.min(low[i] + 1, from - 1);
    share[i] = at - low[i];
  }
  return { low, high, share };
}

// A plane of numbers at a place of a resize.
function sampleAt(values, upper, lower, part, across, x) {
  const left = across.low[x], right = across.high[x], share = across.share[x];
  const above = values[upper + left] + (values[upper + right] - values[upper + left]) * share;
  const below = values[lower + left] + (values[lower + right] - values[lower + left]) * share;
  return above + (below - above) * part;
}

// Logits [K h w] -> the likeliest class of each pixel of the image.
function mostLikely(logits, classes, [height, width], image) {
  const less = Math.min(1, Math.sqrt(MOST_VALUES / (image.width * image.height * classes)));
  const columns = Math.max(1, Math.round(image.width * less)), rows = Math.max(1, Math.round(image.height * less));
  const labels = new Uint8Array(rows * columns), best = new Float32Array(rows * columns).fill(-Infinity);
  const across = linearSteps(width, columns), down = linearSteps(height, rows), plane = width * height;
  for (let k = 0; k < classes; k++) {
    for (let y = 0, i = 0; y < rows; y++) {
      const upper = k * plane + down.low[y] * width, lower = k * plane + down.high[y] * width;
      for (let x = 0; x < columns; x++, i++) {
        const value = sampleAt(logits, upper, lower, down.share[y], across, x);
        if (value > best[i]) {
          best[i] = value;
          labels[i] = k;
        }
      }
    }
  }
  return { width: columns, height: rows, data: labels };
}

const overlapOf = (a, b) =>
  Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
const areaOf = box => Math.max(0, box[2] - box[0]) * Math.max(0, box[3] - box[1]);

function touchesBorder(box, { top, left, size }, [height, width]) {
  return box[0] < left + BORDER && left > 0 || box[1] < top + BORDER && top > 0
    || box[2] > left + size[1] - BORDER && left + size[1] < width
    || box[3] > top + size[0] - BORDER && top + size[0] < height;
}

// Boxes of windows -> each object once: whole boxes are preferred to those cut by a window. nmsIou: above which two
// boxes are the same object, also of one window; null: of two alone.
function mergeBoxes(parts, size, nmsIou = null) {
  if (parts.length === 1 && nmsIou === null) return parts[0].rows;
  const most = nmsIou ?? SAME_BOX;
  let every = [];
  for (const { window, rows } of parts) {
    for (const row of rows) {
      const { top, left } = window;
      const box = [row[0] + left, row[1] + top, row[2] + left, row[3] + top, row[4], row[5]];
      every.push({ box, cut: touchesBorder(box, window, size) });
    }
  }
  every = every.sort((a, b) => b.box[4] - a.box[4]).slice(0, CANDIDATES);
  const priority = ({ box, cut }) => cut ? box[4] * CUT_SCORE : box[4];
  const kept = [];
  for (const one of every.slice().sort((a, b) => priority(b) - priority(a))) {
    const again = kept.some(other => {
      if (other.box[5] !== one.box[5]) return false;
      const shared = overlapOf(one.box, other.box);
      return shared > most * (areaOf(one.box) + areaOf(other.box) - shared);
    });
    if (!again) kept.push(one);
  }
  const within = one => one.cut && kept.some(other => !other.cut && other.box[5] === one.box[5]
    && overlapOf(one.box, other.box) >= COVERED * Math.max(1e-6, areaOf(one.box)));
  return kept.filter(one => !within(one)).map(one => one.box).sort((a, b) => b[4] - a[4]);
}

// Boxes in pixels of the resized image -> in pixels of the image, the best first.
function placeBoxes(rows, [height, width], image) {
  const across = image.width / width, down = image.height / height;
  const limit = (x, most) => Math.min(Math.max(x, 0), most);
  return rows.map(([left, top, right, bottom, score, label]) => [
    limit(left * across, image.width), limit(top * down, image.height),
    limit(right * across, image.width), limit(bottom * down, image.height), score, label,
  ]).sort((a, b) => b[4] - a[4]).slice(0, MOST_BOXES);
}

function splitRows(values, width = 6) {
  const count = values.length / width;
  return Array.from({ length: count }, (_, i) => Array.from(values.subarray(i * width, i * width + width)));
}

// The part of an image that the model saw, in its pixels, and the size of that part on the model's canvas.
function visibleArea(input, image) {
  const { width, height } = image;
  if (input.resize_mode === "crop" && !sameSize(image, input.size)) {
    const scale = Math.max(input.size[0] / height, input.size[1] / width) / input.crop_ratio;
    const [[top, rows], [left, columns]] = [height, width].map((whole, i) => {
      const scaled = roundEven(whole * scale), begin = Math.floor((scaled - input.size[i]) / 2);
      return [begin * whole / scaled, input.size[i] * whole / scaled];
    });
    return { top, left, rows, columns, canvas: input.size };
  }
  const canvas = sameSize(image, input.size) ? input.size : scaledSize(input, image);
  return { top: 0, left: 0, rows: height, columns: width, canvas };
}
