// Puts the page together: a file, its picture, a box, a request, its answer.

import { nameOf, sentenceOf, showLatency, showMasks, showRatio, showWarnings } from "./answer.js";
import { BoxTool } from "./box.js";
import { Picture } from "./picture.js";
import { readModel, readModelNames, readPreview, Refused, segment, segmentDicom } from "./service.js";

const find = (id) => document.getElementById(id);
const coordinates = ["x0", "y0", "x1", "y1"].map(find);
const picture = new Picture(find("grey"), find("tint"), find("line"));
const boxTool = new BoxTool(find("picture"), find("box"), showBox);
const state = { file: null, answer: null, request: 0 };

function key() {
  return find("key").value.trim();
}

function say(sentence, isError = false) {
  find("status").textContent = sentence;
  find("status").classList.toggle("error", isError);
}

function sayRefused(error) {
  if (!(error instanceof Refused)) throw error;
  if (error.status === 401 || error.status === 403) {
    find("key-row").hidden = false;
    find("key").focus();
  }
  say(error.message, true);
}

async function showModels() {
  await showModel();
  try {
    const names = await readModelNames(key());
    find("which-row").hidden = names.length < 2;
    const chosen = find("which").value;
    find("which").replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(chosen)) find("which").value = chosen;
  } catch (error) {
    if (!(error instanceof Refused)) throw error; // the line above the picture says why
  }
}

// Which of several models is asked; none where there is one.
function chosenModel() {
  return find("which-row").hidden ? null : find("which").value;
}

async function showModel() {
  try {
    const { model, manifest } = await readModel(chosenModel(), key());
    find("heart-row").hidden = !("heart" in (manifest.structures || {}));
    find("model").textContent =
      `${model.name} ${model.version} · ${model.precision} on ${model.device} · ${model.sha256.slice(0, 12)}`;
  } catch (error) {
    find("model").textContent = error.message;
    if (error instanceof Refused && error.status === 401) find("key-row").hidden = false;
  }
}

async function open(file) {
  if (!file) return;
  const request = ++state.request;
  state.file = file;
  state.answer = null;
  find("answer").hidden = true;
  find("go").disabled = true;
  say(`Opening ${file.name} …`);
  try {
    const preview = await readPreview(file, key());
    if (request !== state.request) return; // another file was chosen meanwhile
    show(preview);
    say(`${preview.imageWidth} × ${preview.imageHeight} pixels, ${preview.format}.`);
  } catch (error) {
    if (request === state.request) sayRefused(error);
  }
}

function show(preview) {
  find("drop").hidden = true;
  find("picture").hidden = false;
  find("tools").hidden = false;
  picture.show(preview);
  boxTool.setImageSize(preview.imageWidth, preview.imageHeight);
  find("level").max = find("width").max = String(picture.largest);
  fit();
  showWindow();
  find("go").disabled = false;
}

// The picture as large as the stage allows, its sides in proportion.
function fit() {
  if (!picture.values) return;
  const stage = find("stage");
  const style = getComputedStyle(stage);
  const room = (side, padding) => side - parseFloat(style[`padding${padding}`]) * 2;
  const width = room(stage.clientWidth, "Left");
  const height = Math.max(room(stage.clientHeight, "Top"), 240);
  const scale = Math.min(width / picture.imageWidth, height / picture.imageHeight);
  const canvas = find("grey");
  canvas.style.width = `${picture.imageWidth * scale}px`;
  canvas.style.height = `${picture.imageHeight * scale}px`;
}

function showWindow() {
  find("level").value = String((picture.low + picture.high) / 2);
  find("width").value = String(picture.high - picture.low);
}

function setWindow(level, width) {
  picture.setWindow(level - width / 2, level + width / 2);
}

function windowFromSliders() {
  setWindow(Number(find("level").value), Number(find("width").value));
}

function dragWindow(event) {
  const surface = find("picture");
  const level = (picture.low + picture.high) / 2;
  const width = picture.high - picture.low;
  const perPixel = (picture.original.high - picture.original.low) / 400;
  const move = (moved) => {
    const across = moved.clientX - event.clientX;
    const down = moved.clientY - event.clientY;
    setWindow(level + down * perPixel, Math.max(1, width + across * perPixel));
    showWindow();
  };
  surface.setPointerCapture(event.pointerId);
  surface.addEventListener("pointermove", move);
  for (const end of ["pointerup", "pointercancel"]) {
    surface.addEventListener(end, () => surface.removeEventListener("pointermove", move), { once: true });
  }
}

function showBox(box) {
  coordinates.forEach((input, index) => { input.value = box ? String(box[index]) : ""; });
}

function typedBox() {
  const texts = coordinates.map((input) => input.value.trim());
  if (texts.every((text) => text === "")) return null;
  return texts;
}

function showTyped() {
  const texts = typedBox();
  const numbers = texts && texts.map(Number);
  const isBox = numbers && texts.every((text) => text !== "") && numbers.every(Number.isFinite)
    && numbers[0] < numbers[2] && numbers[1] < numbers[3];
  boxTool.showTyped(isBox ? numbers : null);
}

function requestFields() {
  const fields = [["image", state.file], ["convention", find("convention").value], ["lungs", "each"]];
  if (chosenModel()) fields.push(["model", chosenModel()]);
  if (wantsHeart()) fields.push(["structure", "lungs,heart"]);
  const box = typedBox();
  if (box) fields.push(["bbox", box.join(",")]);
  return fields;
}

function wantsHeart() {
  return !find("heart-row").hidden && find("heart").checked;
}

async function ask(event) {
  event.preventDefault();
  if (!state.file) return;
  const request = ++state.request;
  find("go").disabled = true;
  say("Segmenting …");
  try {
    const answer = await segment([...requestFields(), ["measurements", wantsHeart() ? "cardiothoracic" : "true"]], key());
    if (request !== state.request) return;
    state.answer = answer;
    picture.setMasks(await Promise.all(answer.masks.map((mask) => bitmapOf(mask.png))));
    paintMasks();
    showAnswer(answer);
  } catch (error) {
    if (request === state.request) sayRefused(error);
  } finally {
    if (request === state.request) find("go").disabled = false;
  }
}

function showAnswer(answer) {
  find("answer").hidden = false;
  showWarnings(find("warnings"), answer.warnings);
  showMasks(find("masks"), answer);
  showRatio(find("ratio"), answer);
  showMaskDownloads(answer.masks);
  showLatency(find("latency"), find("latency-text"), answer.latency_ms);
  document.querySelector("[data-download=seg]").hidden = picture.format !== "dicom";
  say(sentenceOf(answer));
}

function bitmapOf(base64) {
  return createImageBitmap(new Blob([bytesOf(base64)], { type: "image/png" }));
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function paintMasks() {
  picture.paintMasks(Number(find("opacity").value) / 100, find("outline").checked);
}

// One file a click: browsers ask before a second one.
function showMaskDownloads(masks) {
  find("mask-downloads").replaceChildren(...masks.map((mask) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = nameOf(mask);
    button.addEventListener("click", () => download("mask", mask));
    return button;
  }));
}

async function download(kind, mask) {
  const { answer, file } = state;
  const stem = file.name.replace(/\.[^.]*$/, "") || "xray";
  const png = (base64) => new Blob([bytesOf(base64)], { type: "image/png" });
  try {
    if (kind === "mask") {
      save(png(mask.png), `${stem}_${mask.structure}.png`);
    } else if (kind === "overlay") {
      save(png(answer.overlay_png), `${stem}_overlay.png`);
    } else if (kind === "json") {
      save(new Blob([JSON.stringify(answer, null, 2)], { type: "application/json" }), `${stem}.json`);
    } else {
      save(await segmentDicom(requestFields(), key()), `${stem}_seg.dcm`);
    }
  } catch (error) {
    sayRefused(error);
  }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function startOver() {
  state.request++;
  state.file = state.answer = null;
  picture.clear();
  for (const id of ["picture", "tools", "answer"]) find(id).hidden = true;
  find("drop").hidden = false;
  find("go").disabled = true;
  find("file").value = "";
  find("file").focus();
  say("");
}

find("file").addEventListener("change", (event) => open(event.target.files[0]));
find("form").addEventListener("submit", ask);
find("another").addEventListener("click", startOver);
find("reset-window").addEventListener("click", () => { picture.resetWindow(); showWindow(); });
find("no-box").addEventListener("click", () => boxTool.set(null));
find("which").addEventListener("change", showModel);
find("key").addEventListener("change", () => { showModels(); if (state.file && !picture.values) open(state.file); });
for (const id of ["level", "width"]) find(id).addEventListener("input", windowFromSliders);
for (const id of ["opacity", "outline"]) find(id).addEventListener("input", paintMasks);
for (const input of coordinates) input.addEventListener("input", showTyped);
for (const button of document.querySelectorAll("[data-download]")) {
  button.addEventListener("click", () => download(button.dataset.download));
}
find("grey").addEventListener("pointerdown", (event) => {
  event.preventDefault();
  const tool = document.querySelector("input[name=tool]:checked").value;
  if (tool === "window" || event.button === 2) dragWindow(event);
  else boxTool.beginDraw(event);
});
find("grey").addEventListener("contextmenu", (event) => event.preventDefault());
const stage = find("stage");
for (const name of ["dragenter", "dragover"]) {
  stage.addEventListener(name, (event) => { event.preventDefault(); stage.classList.add("dropping"); });
}
for (const name of ["dragleave", "drop"]) {
  stage.addEventListener(name, (event) => { event.preventDefault(); stage.classList.remove("dropping"); });
}
stage.addEventListener("drop", (event) => open(event.dataTransfer.files[0]));
window.addEventListener("resize", fit);
showModels();
