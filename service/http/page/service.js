// What the page asks the service. A refusal becomes an Error with the service's own sentence.

export class Refused extends Error {
  constructor(status, sentence, code) {
    super(sentence);
    this.status = status;
    this.code = code;
  }
}

async function answerOf(response) {
  if (response.ok) return response;
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // A proxy in between answered with something else.
  }
  const sentence = problem.detail || `The server answered ${response.status}.`;
  throw new Refused(response.status, sentence, problem.code);
}

function headersWith(key, accept) {
  const headers = { Accept: accept };
  if (key) headers.Authorization = `Bearer ${key}`;
  return headers;
}

async function post(path, fields, key, accept) {
  const form = new FormData();
  for (const [name, value] of fields) form.append(name, value);
  let response;
  try {
    response = await fetch(path, { method: "POST", body: form, headers: headersWith(key, accept) });
  } catch {
    throw new Refused(0, "The service cannot be reached.", "unreachable");
  }
  return answerOf(response);
}

async function readJson(path, key) {
  return (await answerOf(await fetch(path, { headers: headersWith(key, "application/json") }))).json();
}

// The card of a model: that of a name such as lungs/6, or the first one's.
export function readModel(name, key) {
  return readJson(name ? `v1/model?model=${encodeURIComponent(name)}` : "v1/model", key);
}

// The names of all models that are served, the first one's first.
export async function readModelNames(key) {
  const { models } = await readJson("v1/models", key);
  return models.map(({ model }) => `${model.name}/${model.version}`);
}

// Grey values of a file as the service decodes it: {values, width, height, imageWidth, ...}.
export async function readPreview(file, key) {
  const response = await post("preview", [["image", file]], key, "application/octet-stream");
  const number = (name) => Number(response.headers.get(`X-Lungseg-${name}`));
  const values = new Uint16Array(await response.arrayBuffer());
  return {
    values,
    width: number("Preview-Width"), height: number("Preview-Height"),
    imageWidth: number("Image-Width"), imageHeight: number("Image-Height"),
    low: number("Window-Low"), high: number("Window-High"),
    format: response.headers.get("X-Lungseg-Image-Format"),
  };
}

export async function segment(fields, key) {
  return (await post("segment", fields, key, "application/json")).json();
}

export async function segmentDicom(fields, key) {
  return (await post("segment", fields, key, "application/dicom")).blob();
}
