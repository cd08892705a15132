// From a file to pixels, as `vitrail.data.decode` has them: upright, no colour profile, alpha on the background.

const MOST_PIXELS = 64e6, STRIP = 1 << 21;

async function decodeFile(file) {
  try {
    return await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    if (file.type === "image/svg+xml") return drawVector(file);
    const kind = /hei[cf]/i.test(file.type + file.name) ? " Save it as JPEG first." : "";
    throw new Error(`This browser cannot read ${file.name || "this"} as an image.${kind}`);
  }
}

// A drawing has no pixels of its own: it is drawn at its size.
async function drawVector(file) {
  const picture = new Image(), address = URL.createObjectURL(file);
  picture.src = address;
  try {
    await picture.decode();
    return await createImageBitmap(picture);
  } catch {
    throw new Error(`This browser cannot draw ${file.name || "this drawing"}.`);
  } finally {
    URL.revokeObjectURL(address);
  }
}

// A canvas has a limit of pixels, on phones a low one: a large image goes through it in strips.
function readPixels(bitmap, { channels, background }) {
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    throw new Error(`The image has ${Math.round(width * height / 1e6)} million pixels; the limit is 64 million.`);
  }
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP / width)));
  const data = new Uint8Array(width * height * channels);
  const canvas = Object.assign(document.createElement("canvas"), { width, height: rows });
  const brush = canvas.getContext("2d", { willReadFrequently: true, alpha: true });
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    brush.clearRect(0, 0, width, rows);
    if (channels !== 4) {
      brush.fillStyle = `rgb(${background.join(" ")})`;
      brush.fillRect(0, 0, width, rows);
    }
    brush.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    takeChannels(brush.getImageData(0, 0, width, count).data, channels, data, top * width * channels);
  }
  return { width, height, channels, data };
}

function decodeBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const piece = 1 << 16, bytes = new Uint8Array(text.length / 4 * 3 - (text.endsWith("==") ? 2 : text.endsWith("=")));
  for (let at = 0, to = 0; at < text.length; at += piece) {
    const part = atob(text.slice(at, at + piece));
    for (let i = 0; i < part.length; i++) bytes[to++] = part.charCodeAt(i);
  }
  return bytes;
}
