"use strict";

const at = (id) => document.getElementById(id);
// Which picture the page shows: an answer to an earlier one comes too late.
let picture = null;
let turn = 0;
// How the model makes a picture square: see About in demo.rs.
let resize = "shortest";

function element(tag, text, ...classes) {
  const made = document.createElement(tag);
  made.textContent = text;
  made.classList.add(...classes);
  return made;
}

async function ask(path, body) {
  const response = await fetch(path, { method: "POST", body });
  const answer = await response.json().catch(() => ({ error: "the server gave no answer" }));
  if (!response.ok) {
    throw new Error(answer.error);
  }
  return answer;
}

// One request after the other: the server answers one at a time.
async function show(file) {
  const mine = ++turn;
  picture = file;
  at("error").textContent = "";
  for (const id of ["captions", "bars", "pictures", "texts"]) {
    at(id).classList.add("busy");
  }
  at("heat").hidden = true;
  at("shown").src = URL.createObjectURL(file);
  at("view").hidden = false;
  at("hint").hidden = true;
  for (const step of [captions, labels, nearest, attention]) {
    try {
      await step(file, () => mine === turn);
    } catch (error) {
      if (mine === turn && step !== attention) {
        at("error").textContent = error.message;
        // What is no picture for one question is none for the others.
        return;
      }
    }
  }
}

async function captions(file, current) {
  const found = await ask("captions", file);
  if (!current()) return;
  at("captions").replaceChildren(
    ...found.map(({ text, log_probability }) => {
      const item = element("li", text || "(nothing)");
      item.append(element("span", `ln p = ${log_probability.toFixed(2)}`, "score"));
      return item;
    }),
  );
  at("captions").classList.remove("busy");
}

async function labels(file, current) {
  const lines = at("labels").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (lines.length === 0) {
    at("bars").replaceChildren();
    return;
  }
  const found = await ask("labels", new Blob([lines.join("\n"), "\n\n", file]));
  if (!current()) return;
  at("bars").replaceChildren(
    ...found.map(({ label, probability, similarity }) => {
      const bar = element("div", "", "bar");
      const line = element("div", "");
      const score = `${(100 * probability).toFixed(1)} %, cosine ${similarity.toFixed(3)}`;
      line.append(element("span", label), element("span", score, "score"));
      const meter = document.createElement("meter");
      meter.value = probability;
      bar.append(line, meter);
      return bar;
    }),
  );
  at("bars").classList.remove("busy");
}

async function nearest(file, current) {
  if (!at("no-index").hidden) return;
  const found = await ask("nearest", file);
  if (!current()) return;
  at("pictures").replaceChildren(
    ...found.pictures.map(({ text, similarity, picture }) => {
      const figure = document.createElement("figure");
      if (picture) {
        const image = document.createElement("img");
        image.src = picture;
        image.alt = text;
        figure.append(image);
      }
      figure.append(element("figcaption", `${text} (${similarity.toFixed(3)})`));
      return figure;
    }),
  );
  at("texts").replaceChildren(
    ...found.texts.map(({ text, similarity }) => {
      const item = element("li", text);
      item.append(element("span", similarity.toFixed(3), "score"));
      return item;
    }),
  );
  at("pictures").classList.remove("busy");
  at("texts").classList.remove("busy");
}

async function attention(file, current) {
  const { side, weights } = await ask("attention", file);
  if (!current()) return;
  const heat = at("heat");
  [heat.width, heat.height] = [side, side];
  const most = Math.max(...weights);
  const drawing = heat.getContext("2d");
  const pixels = drawing.createImageData(side, side);
  weights.forEach((weight, place) => pixels.data.set([255, 60, 0, 170 * (weight / most)], 4 * place));
  drawing.putImageData(pixels, 0, 0);
  const { clientWidth: width, clientHeight: height } = at("shown");
  const square = resize === "shortest" ? Math.min(width, height) : Math.max(width, height);
  const [across, down] = resize === "squash" ? [width, height] : [square, square];
  heat.style.width = `${across}px`;
  heat.style.height = `${down}px`;
  heat.style.left = `${(width - across) / 2}px`;
  heat.style.top = `${(height - down) / 2}px`;
  heat.hidden = !at("look").checked;
}

at("file").addEventListener("change", () => at("file").files.length && show(at("file").files[0]));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
  });
}
at("drop").addEventListener("drop", (event) => event.dataTransfer.files.length && show(event.dataTransfer.files[0]));
at("drop").addEventListener("keydown", (event) => event.key === "Enter" && at("file").click());
at("look").addEventListener("change", () => (at("heat").hidden = !at("look").checked));

let typing;
at("labels").addEventListener("input", () => {
  clearTimeout(typing);
  const mine = turn;
  typing = setTimeout(() => {
    if (picture) {
      labels(picture, () => mine === turn).catch((error) => (at("error").textContent = error.message));
    }
  }, 400);
});

fetch("model")
  .then((response) => response.json())
  .then(({ parameters, image_size, indexed, ...about }) => {
    resize = about.resize;
    const pictures = indexed === null ? "" : `, ${indexed} pictures indexed`;
    at("about").textContent = `${(parameters / 1e6).toFixed(1)} million parameters, ${image_size} x ${image_size} pixels${pictures}`;
    at("no-index").hidden = indexed !== null;
  });
