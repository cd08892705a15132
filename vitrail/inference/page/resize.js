// From the pixels of an image to the input of a model: `vitrail.data.transforms.preprocess`, in the browser.
// An image is { width, height, channels, data }: data is a Uint8Array, row by row, the channels of a pixel together.

// Python's round: halves go to the even neighbour.
function roundEven(x) {
  const up = Math.floor(x + 0.5);
  return up - x === 0.5 && up % 2 ? up - 1 : up;
}

const FILTERS = {
  bilinear: { reach: 1, at: x => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    reach: 2, // with a = -0.5, as Pillow and torch have it where they antialias
    at: x => {
      x = Math.abs(x);
      return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((x - 5) * x + 8) * x * -0.5 + 2 : 0;
    },
  },
};

// The weights of one direction as torch's kernel for uint8 has them: whole numbers of 15 bits and a shift.
function resizeWeights(from, to, filter) {
  const scale = from / to, wide = Math.max(scale, 1), reach = filter.reach * wide;
  const most = Math.ceil(reach) * 2 + 1, starts = new Int32Array(to), counts = new Int32Array(to);
  const weights = new Float64Array(to * most);
  let largest = 0;
  for (let i = 0; i < to; i++) {
    const center = scale * (i + 0.5), start = Math.max(Math.trunc(center - reach + 0.5), 0);
    const count = Math.max(0, Math.min(Math.min(Math.trunc(center + reach + 0.5), from) - start, most));
    let sum = 0;
    for (let j = 0; j < count; j++) sum += weights[i * most + j] = filter.at((j + start - center + 0.5) / wide);
    for (let j = 0; j < count; j++) largest = Math.max(largest, weights[i * most + j] /= sum || 1);
    starts[i] = start;
    counts[i] = count;
  }
  let shift = 0;
  while (shift < 22 && Math.trunc(0.5 + largest * 2 ** (shift + 1)) < 2 ** 15) shift++;
  const whole = Int32Array.from(weights, w => Math.trunc(w * 2 ** shift + (w < 0 ? -0.5 : 0.5)));
  return { starts, counts, most, whole, shift };
}

const clampByte = x => x < 0 ? 0 : x > 255 ? 255 : x;

function resizeAcross({ width, height, channels, data }, to, filter) {
  const { starts, counts, most, whole, shift } = resizeWeights(width, to, filter), half = 1 << (shift - 1);
  const out = new Uint8Array(to * height * channels);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < to; x++) {
      const first = (y * width + starts[x]) * channels, weight = x * most;
      for (let c = 0; c < channels; c++) {
        let sum = half;
        for (let j = 0, i = first + c; j < counts[x]; j++, i += channels) sum += data[i] * whole[weight + j];
        out[at++] = clampByte(sum >> shift);
      }
    }
  }
  return { width: to, height, channels, data: out };
}

function resizeDown({ width, height, channels, data }, to, filter) {
  const { starts, counts, most, whole, shift } = resizeWeights(height, to, filter), half = 1 << (shift - 1);
  const row = width * channels, out = new Uint8Array(row * to), sums = new Int32Array(row);
  for (let y = 0; y < to; y++) {
    sums.fill(half);
    for (let j = 0; j < counts[y]; j++) {
      const w = whole[y * most + j], first = (starts[y] + j) * row;
      for (let i = 0; i < row; i++) sums[i] += data[first + i] * w;
    }
    for (let i = 0; i < row; i++) out[y * row + i] = clampByte(sums[i] >> shift);
  }
  return { width, height: to, channels, data: out };
}

// Antialiased, across first, then down, as torchvision does for uint8.
function resizeImage(image, [height, width], interpolation) {
  const filter = FILTERS[interpolation];
  if (image.width !== width) image = resizeAcross(image, width, filter);
  return image.height === height ? image : resizeDown(image, height, filter);
}

// A part of an image, on a canvas of that size whose rest has a colour.
function cropImage({ width, height, channels, data }, top, left, [rows, columns], color) {
  const out = new Uint8Array(rows * columns * channels);
  if (top + rows > height || left + columns > width) {
    for (let i = 0; i < out.length; i += channels) out.set(color, i);
  }
  const line = Math.min(columns, width - left) * channels;
  for (let y = 0; y < Math.min(rows, height - top); y++) {
    const from = ((top + y) * width + left) * channels;
    out.set(data.subarray(from, from + line), y * columns * channels);
  }
  return { width: columns, height: rows, channels, data: out };
}

// The size of the whole image before it is cut into windows, as (height, width).
function scaledSize({ size, resize_mode }, { width, height }) {
  if (resize_mode === "stretch") return size;
  const ratios = [size[0] / height, size[1] / width];
  const scale = { fit: Math.min(...ratios), slide: Math.max(...ratios) }[resize_mode] ?? 1;
  return [Math.max(1, roundEven(height * scale)), Math.max(1, roundEven(width * scale))];
}

function windowStarts(length, side, overlap) {
  if (length <= side) return [0];
  const count = Math.ceil((length - side) / Math.max(1, side * (1 - overlap))) + 1;
  return Array.from({ length: count }, (_, i) => roundEven(i * (length - side) / (count - 1)));
}

const LARGEST = 64e6; // pixels of a resized image: a line of pixels would grow without limit
function refuseEnlarged([height, width]) {
  if (height * width > LARGEST) throw new Error("The image is too long and narrow for this model: crop it first.");
}

const sameSize = (image, size) => image.height === size[0] && image.width === size[1];

// All of an image in one window of the model's size or in several: { image, top, left, size: without padding }.
function cutWindows(image, input, overlap = 1 / 3) {
  const size = scaledSize(input, image), [height, width] = input.size;
  refuseEnlarged(size);
  const color = input.mean.map(m => roundEven(255 * m)), whole = resizeImage(image, size, input.interpolation);
  const windows = [];
  for (const top of windowStarts(size[0], height, overlap)) {
    for (const left of windowStarts(size[1], width, overlap)) {
      const inside = [Math.min(height, size[0] - top), Math.min(width, size[1] - left)];
      windows.push({ image: cropImage(whole, top, left, input.size, color), top, left, size: inside });
    }
  }
  return { size, windows };
}

// The one image that a classifier takes, as `Preprocess.image`.
function fitImage(image, input) {
  if (sameSize(image, input.size)) return image;
  if (input.resize_mode === "stretch") return resizeImage(image, input.size, input.interpolation);
  if (input.resize_mode !== "crop") return cutWindows(image, input).windows[0].image;
  const [height, width] = input.size;
  const scale = Math.max(height / image.height, width / image.width) / input.crop_ratio;
  const resized = [roundEven(image.height * scale), roundEven(image.width * scale)];
  refuseEnlarged(resized);
  const whole = resizeImage(image, resized, input.interpolation);
  return cropImage(whole, Math.floor((resized[0] - height) / 2), Math.floor((resized[1] - width) / 2), input.size, []);
}

// Rows of pixels as a canvas has them (RGBA) -> the channels of the model; grey as Pillow computes it.
function takeChannels(rgba, channels, out, at) {
  for (let i = 0; i < rgba.length; i += 4) {
    if (channels === 1) out[at++] = (rgba[i] * 19595 + rgba[i + 1] * 38470 + rgba[i + 2] * 7471 + 0x8000) >> 16;
    else for (let c = 0; c < channels; c++) out[at++] = rgba[i + c];
  }
}

// [H W C] -> [C H W]
function toPlanes({ width, height, channels, data }) {
  const out = new Uint8Array(data.length), plane = width * height;
  for (let c = 0; c < channels; c++) for (let i = 0; i < plane; i++) out[c * plane + i] = data[i * channels + c];
  return out;
}
