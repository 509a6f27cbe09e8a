// A box over the X-ray: drawn and dragged by mouse, pen and touch, moved and resized by keys.

const SMALLEST_PX = 4;

export class BoxTool {
  // onChange gets [x0, y0, x1, y1] in pixels of the image, or null.
  constructor(surface, element, onChange) {
    this.surface = surface; // the element that the X-ray fills
    this.element = element;
    this.onChange = onChange;
    this.box = null;
    element.addEventListener("pointerdown", (event) => this.beginDrag(event));
    element.addEventListener("keydown", (event) => this.key(event));
  }

  setImageSize(width, height) {
    this.imageWidth = width;
    this.imageHeight = height;
    this.set(null);
  }

  set(box) {
    this.box = box && this.inImage(box);
    this.place();
    this.onChange(this.box);
  }

  // Shows a box that was typed; the numbers stay as they were typed.
  showTyped(box) {
    this.box = box;
    this.place();
  }

  place() {
    this.element.hidden = !this.box;
    if (!this.box) return;
    const [x0, y0, x1, y1] = this.box;
    const across = 100 / this.imageWidth;
    const down = 100 / this.imageHeight;
    Object.assign(this.element.style, {
      left: `${x0 * across}%`, top: `${y0 * down}%`,
      width: `${(x1 - x0) * across}%`, height: `${(y1 - y0) * down}%`,
    });
  }

  inImage([x0, y0, x1, y1]) {
    const clip = (value, most) => Math.round(Math.min(Math.max(value, 0), most));
    const [left, right] = [Math.min(x0, x1), Math.max(x0, x1)];
    const [top, bottom] = [Math.min(y0, y1), Math.max(y0, y1)];
    return [clip(left, this.imageWidth), clip(top, this.imageHeight),
      clip(right, this.imageWidth), clip(bottom, this.imageHeight)];
  }

  toImage(event) {
    const place = this.surface.getBoundingClientRect();
    return [(event.clientX - place.left) * this.imageWidth / place.width,
      (event.clientY - place.top) * this.imageHeight / place.height];
  }

  // Draws a new box from where the pointer went down.
  beginDraw(event) {
    const [x, y] = this.toImage(event);
    this.follow(event, (toX, toY) => [x, y, toX, toY]);
  }

  beginDrag(event) {
    event.preventDefault();
    event.stopPropagation();
    this.element.focus();
    const [startX, startY] = this.toImage(event);
    const [x0, y0, x1, y1] = this.box;
    const corner = [...event.target.classList].find((name) => ["nw", "ne", "sw", "se"].includes(name));
    this.follow(event, (x, y) => {
      const dx = x - startX;
      const dy = y - startY;
      if (!corner) return this.moved([x0, y0, x1, y1], dx, dy);
      return [corner[1] === "w" ? x0 + dx : x0, corner[0] === "n" ? y0 + dy : y0,
        corner[1] === "e" ? x1 + dx : x1, corner[0] === "s" ? y1 + dy : y1];
    });
  }

  moved([x0, y0, x1, y1], dx, dy) {
    const across = Math.min(Math.max(dx, -x0), this.imageWidth - x1);
    const down = Math.min(Math.max(dy, -y0), this.imageHeight - y1);
    return [x0 + across, y0 + down, x1 + across, y1 + down];
  }

  follow(event, boxAt) {
    const target = this.surface;
    target.setPointerCapture(event.pointerId);
    const move = (moved) => this.set(boxAt(...this.toImage(moved)));
    const end = () => {
      target.removeEventListener("pointermove", move);
      const box = this.box;
      const isTooSmall = box && (box[2] - box[0] < SMALLEST_PX || box[3] - box[1] < SMALLEST_PX);
      if (isTooSmall) this.set(null);
    };
    target.addEventListener("pointermove", move);
    target.addEventListener("pointerup", end, { once: true });
    target.addEventListener("pointercancel", end, { once: true });
  }

  key(event) {
    const step = Math.max(1, Math.round(Math.min(this.imageWidth, this.imageHeight) / 100));
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key === "Delete" || event.key === "Backspace") {
      this.set(null);
    } else if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      const [x0, y0, x1, y1] = this.box;
      const grown = [x0, y0, Math.max(x1 + dx, x0 + SMALLEST_PX), Math.max(y1 + dy, y0 + SMALLEST_PX)];
      this.set(event.shiftKey ? grown : this.moved(this.box, dx, dy));
    } else {
      return;
    }
    event.preventDefault();
  }
}
