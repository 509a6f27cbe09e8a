// The answer as people read it: warnings first, each mask's numbers, where the time went.

import { MASK_COLOURS } from "./picture.js";

const STAGE_COLOURS = {
  decode: "#4f7ea8", preprocess: "#6d93b8", queue: "#59636c", encode_image: "#2bb8ff",
  decode_mask: "#7ad3ff", postprocess: "#8f86d8", render: "#c58fd8",
};
const NAMES = { lungs: "lungs", right_lung: "right lung", left_lung: "left lung", heart: "heart" };

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function showWarnings(place, warnings) {
  place.replaceChildren();
  if (!warnings.length) {
    place.append(element("p", "No warning. Look at the outline all the same.", "fine"));
  }
  for (const warning of warnings) {
    const row = element("p", undefined, `warning ${warning.severity || "look"}`);
    row.append(element("b", warning.message));
    if (warning.action) row.append(element("span", `${warning.action} `, "action"));
    row.append(element("code", warning.code, "quiet"));
    place.append(row);
  }
}

export function showMasks(table, { masks, measurements }) {
  const numbersOf = (mask) => measurements?.[mask.box_index]?.[mask.structure] || {};
  const columns = [
    ["", nameOf],
    ["area", (mask) => `${(100 * mask.area_fraction).toFixed(1)} %`],
    ["pixels", (mask) => mask.area_px.toLocaleString("en")],
    ["confidence", (mask) => mask.confidence.toFixed(3)],
  ];
  if (masks.some((mask) => numbersOf(mask).area_mm2)) {
    columns.splice(2, 1, ["cm²", (mask) => ((numbersOf(mask).area_mm2 || 0) / 100).toFixed(0)],
      ["height", (mask) => `${((numbersOf(mask).height_mm || 0) / 10).toFixed(1)} cm`]);
  }
  const head = element("tr");
  for (const [name] of columns) {
    const cell = element("th", name);
    cell.scope = "col";
    head.append(cell);
  }
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(...masks.map((mask, number) => {
    const row = element("tr");
    columns.forEach(([, valueOf], column) => {
      const cell = element("td", valueOf(mask, number));
      if (column === 0) cell.prepend(swatch(number));
      row.append(cell);
    });
    return row;
  }));
}

// The cardiothoracic ratio, where one was measured, with what it is worth.
export function showRatio(place, { measurements }) {
  const found = measurements?.[0]?.cardiothoracic;
  place.hidden = !found;
  if (!found) return;
  const validity = {
    PA: "PA X-ray", AP: "AP X-ray: not valid",
  }[found.projection] || "valid on a PA X-ray only; nothing says which this is";
  place.replaceChildren(
    element("b", `Cardiothoracic ratio ${found.ratio.toFixed(2)} `), element("span", validity, "quiet"),
  );
}

export function nameOf(mask) {
  return NAMES[mask.structure] || mask.structure;
}

function swatch(number) {
  const made = element("span", undefined, "swatch");
  made.style.background = `rgb(${MASK_COLOURS[number % MASK_COLOURS.length].join(" ")})`;
  return made;
}

export function showLatency(bar, text, latency) {
  const stages = Object.entries(latency).filter(([name, ms]) => name in STAGE_COLOURS && ms > 0);
  bar.replaceChildren(...stages.map(([name, ms]) => {
    const part = element("span");
    part.style.flexGrow = ms;
    part.style.background = STAGE_COLOURS[name];
    part.title = `${name} ${ms.toFixed(1)} ms`;
    return part;
  }));
  const sentence = stages.map(([name, ms]) => `${name} ${ms.toFixed(1)}`).join(", ");
  bar.setAttribute("aria-label", `Milliseconds: ${sentence}`);
  text.textContent = `${latency.total.toFixed(0)} ms: ${sentence}`;
}

export function sentenceOf(answer) {
  const count = answer.masks.length;
  const warned = answer.warnings.length;
  const masks = `${count} ${count === 1 ? "mask" : "masks"}`;
  const warnings = warned ? `${warned} ${warned === 1 ? "warning" : "warnings"}` : "no warning";
  return `${masks}, ${warnings}, ${answer.latency_ms.total.toFixed(0)} ms.`;
}
