// The X-ray on a canvas: 16-bit grey values from the server, windowed here, and masks over it.

export const MASK_COLOURS = [[0, 190, 255], [255, 190, 40], [205, 110, 255], [90, 220, 90]];

export class Picture {
  constructor(greyCanvas, tintCanvas, lineCanvas) {
    Object.assign(this, { greyCanvas, tintCanvas, lineCanvas });
    this.masks = [];
    this.clear();
  }

  clear() {
    this.values = null;
    this.masks = [];
  }

  // preview: {values: Uint16Array, width, height, imageWidth, imageHeight, low, high}
  show(preview) {
    Object.assign(this, preview);
    this.original = { low: preview.low, high: preview.high };
    this.largest = 1;
    for (const value of preview.values) if (value > this.largest) this.largest = value;
    for (const canvas of [this.greyCanvas, this.tintCanvas, this.lineCanvas]) {
      canvas.width = preview.width;
      canvas.height = preview.height;
    }
    this.masks = [];
    this.paintGrey();
    this.paintMasks(0, false);
  }

  // Grey values from `low` (black) to `high` (white), what lies beyond is clipped.
  setWindow(low, high) {
    this.low = low;
    this.high = Math.max(high, low + 1);
    this.paintGrey();
  }

  resetWindow() {
    this.setWindow(this.original.low, this.original.high);
  }

  paintGrey() {
    const table = new Uint8ClampedArray(65536);
    const scale = 255 / (this.high - this.low);
    for (let value = 0; value <= this.largest; value++) table[value] = (value - this.low) * scale;
    const context = this.greyCanvas.getContext("2d");
    const image = context.createImageData(this.width, this.height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < this.values.length; i++) {
      pixels[i] = 0xff000000 | (table[this.values[i]] * 0x010101);
    }
    context.putImageData(image, 0, 0);
  }

  // masks: ImageBitmaps of the answer, in the order of its masks.
  setMasks(bitmaps) {
    this.masks = bitmaps.map((bitmap) => this.insideOf(bitmap));
  }

  insideOf(bitmap) {
    const canvas = new OffscreenCanvas(this.width, this.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0, this.width, this.height);
    const data = context.getImageData(0, 0, this.width, this.height).data;
    const inside = new Uint8Array(this.width * this.height);
    for (let i = 0; i < inside.length; i++) inside[i] = data[4 * i] >= 128 ? 1 : 0;
    return inside;
  }

  // opacity: 0 to 1 of the tint; withOutline: each mask's own outermost pixels, opaque.
  paintMasks(opacity, withOutline) {
    this.tintCanvas.style.opacity = String(opacity);
    const tint = this.tintCanvas.getContext("2d");
    const line = this.lineCanvas.getContext("2d");
    const tinted = tint.createImageData(this.width, this.height);
    const lined = line.createImageData(this.width, this.height);
    const width = Math.max(1, Math.round(Math.min(this.width, this.height) / 560));
    this.masks.forEach((inside, number) => {
      const [red, green, blue] = MASK_COLOURS[number % MASK_COLOURS.length];
      for (let y = 0, i = 0; y < this.height; y++) {
        for (let x = 0; x < this.width; x++, i++) {
          if (!inside[i]) continue;
          tinted.data.set([red, green, blue, 255], 4 * i);
          const colour = withOutline && this.isEdge(inside, x, y, width) ? 255 : 0;
          lined.data.set([red, green, blue, colour], 4 * i);
        }
      }
    });
    tint.putImageData(tinted, 0, 0);
    line.putImageData(lined, 0, 0);
  }

  isEdge(inside, x, y, line) {
    const { width, height } = this;
    if (x < line || y < line || x >= width - line || y >= height - line) return true;
    const i = y * width + x;
    return !(inside[i - line] && inside[i + line]
      && inside[i - line * width] && inside[i + line * width]);
  }
}
