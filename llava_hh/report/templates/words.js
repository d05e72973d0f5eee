const LARGEST = 32767;
const NOT_MEASURED = -32768;
const PARTS = ["image", "question", "answer so far", "before the image"];
const KINDS = new Map([[true, "wrong"], [false, "right"], [null, "unjudged"]]); // whether a word is hallucinated
const VERDICTS = { wrong: "hallucinated", right: "in the image", unjudged: "no truth was given" };

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** Influences of one word as values[layer][head]. */
function unpack(scale, text, layers, heads) {
  const codes = new DataView(bytes(text).buffer);
  return Array.from({ length: layers }, (_, layer) => Array.from({ length: heads }, (_, head) => {
    const code = codes.getInt16(2 * (layer * heads + head), true);
    return code === NOT_MEASURED ? null : (code / LARGEST) * scale;
  }));
}

const percent = (share) => `${(100 * share).toFixed(1)}%`;

/** Dims what a head doesn't look at; weights are shares of its largest weight on the image. */
function drawOverlay(canvas, picture, grid, weights) {
  canvas.width = picture.naturalWidth * 2;
  canvas.height = picture.naturalHeight * 2;
  const pen = canvas.getContext("2d");
  const [left, top, right, bottom] = grid.box;
  const edge = (place, count, from, to, length) => Math.round((from + (place / count) * (to - from)) * length);
  weights.forEach((weight, token) => {
    const row = Math.floor(token / grid.columns);
    const column = token % grid.columns;
    const x = edge(column, grid.columns, left, right, canvas.width);
    const y = edge(row, grid.rows, top, bottom, canvas.height);
    pen.fillStyle = `rgb(8 12 20 / ${0.78 * (1 - weight)})`;
    pen.fillRect(x, y, edge(column + 1, grid.columns, left, right, canvas.width) - x,
      edge(row + 1, grid.rows, top, bottom, canvas.height) - y);
  });
}

/** Where one head looks: over the picture, over the text, and in sum. */
function lookOf(maps, word, place, picture) {
  const nText = word.codes.length / word.scales.length - maps.n_image;
  const codes = word.codes.subarray(place * (maps.n_image + nText), (place + 1) * (maps.n_image + nText));
  const [onImage, onText] = word.scales[place];
  const shares = Array.from(codes, (code) => code / 255);
  const text = make("p", { class: "tokens" });
  maps.tokens.forEach((token, number) => {
    if (number === maps.n_prompt) text.append(make("br"));
    const kind = number < maps.n_prompt ? "prompt" : number < nText ? "said" : number === nText ? "target" : "unsaid";
    if (token.startsWith(" ")) text.append(" "); // a blank is not shaded
    const span = make("span", { class: kind }, token.replace(/^ /, "").replaceAll("\n", "↵"));
    if (number < nText) {
      const share = shares[maps.n_image + number];
      span.style.setProperty("--share", `${75 * share}%`);
      span.title = percent(share * onText);
    }
    text.append(span);
  });
  const sums = make("p", { class: "sums" }, ...PARTS.map((part, number) => {
    const bar = make("span", {}, `${part} ${percent(word.parts[place][number])}`);
    bar.style.setProperty("--share", percent(word.parts[place][number]));
    return bar;
  }));
  const read = word.read?.[place]; // an earlier version kept none
  const most = make("p", { class: "note" });
  if (read) {
    const tokens = read.tokens.map(([token, share]) => `“${maps.tokens[token].trim() || maps.tokens[token].replaceAll("\n", "↵")}” ${percent(share)}`);
    most.append(`reads (attention times the norm of the value): ${[...tokens, `the image ${percent(read.image)}`].join(", ")}`);
  }
  const look = make("div", { class: "look" });
  if (picture && maps.grid) {
    const image = make("img", { src: picture, alt: "where the head looks in the image" });
    const canvas = make("canvas", { "aria-hidden": "true" });
    image.addEventListener("load", () => drawOverlay(canvas, image, maps.grid, shares.slice(0, maps.n_image)));
    look.append(make("figure", {}, make("div", { class: "over" }, image, canvas),
      make("figcaption", { class: "note" }, `bright: looked at, up to ${percent(onImage)} a patch`)));
  }
  look.append(make("div", {}, sums, most, text, make("p", { class: "note" }, `shaded: looked at, up to ${percent(onText)} a token; underlined: the token being chosen`)));
  return look;
}

function mapsPart(method, maps, number, picture) {
  const packed = maps.words[number];
  const word = { ...packed, codes: bytes(packed.codes) };
  const host = make("div");
  const choice = make("div", { class: "choice", role: "radiogroup", "aria-label": "Head" });
  (packed.heads ?? method.maps.heads).forEach(([layer, head], place) => {
    const input = make("input", { type: "radio", name: "look", value: headName(layer, head) });
    input.addEventListener("change", () => host.replaceChildren(lookOf(maps, word, place, picture)));
    choice.append(make("label", {}, input, headName(layer, head)));
    if (place === 0) {
      input.checked = true;
      host.replaceChildren(lookOf(maps, word, 0, picture));
    }
  });
  return make("section", { class: "maps" }, make("h4", {}, "Where heads look as the word is chosen"), choice, host, source(method.maps.source));
}

function influencePart(method, [probability, scale, packed, ...bySource]) {
  const { layers, heads, reads } = method.influence;
  const values = unpack(scale, packed, layers, heads);
  const parts = reads.map((read, number) => unpack(bySource[2 * number], bySource[2 * number + 1], layers, heads));
  const byReading = (layer, head) => parts.length === 0 ? "" :
    `by reading ${parts.map((part, number) => `${reads[number]} ${signed(part[layer][head])}`).join(", ")}`;
  const top = values.flatMap((row, layer) => row.map((value, head) => [layer, head, value]))
    .filter(([, , value]) => value !== null).sort((one, other) => other[2] - one[2]).slice(0, 5);
  const host = make("div", { class: "scroll" });
  const readout = make("output");
  const tell = (layer, head) => `${headName(layer, head)}  ${signed(values[layer][head])}`;
  const choose = drawGrid(host, "Influence of heads on this word", values, tell, (layer, head) => {
    readout.textContent = [tell(layer, head), byReading(layer, head)].filter(Boolean).join("; ");
    const look = document.querySelector(`input[name=look][value=${headName(layer, head)}]`);
    if (look && !look.checked) look.click();
  });
  const list = make("ol", {}, ...top.map(([layer, head]) => {
    const button = make("button", { type: "button", class: "plain" }, tell(layer, head));
    button.addEventListener("click", () => choose(layer, head));
    return make("li", {}, button, make("span", { class: "note" }, byReading(layer, head)));
  }));
  return make("section", {}, make("h4", {}, "Influence of each head on the word"),
    make("p", {}, `${method.influence.unit}, by head; p(word) is ${probability.toPrecision(3)}.`),
    make("div", { class: "influence" }, host, make("div", {}, make("p", { class: "note" }, "strongest"), list, readout)),
    source(method.influence.source));
}

/** The category that CHAIR takes a word for, where that has another name. */
const countedAs = ([word, node]) => word.toLowerCase() === node.toLowerCase() ? "" : `counted as ${node}`;
const LOOKED_UP = "CHAIR looks a word up among the words for its categories, and then looks for that category in the image";

/** The panel of one word of a caption. */
function showWord(method, caption, number, picture) {
  const [word, node, , , wrong] = caption.mentions[number];
  const counted = countedAs(caption.mentions[number]);
  const object = counted ? `${counted}: ${LOOKED_UP}` : `object: ${node}`;
  const parts = [make("h3", {}, `“${word}”`, make("span", { class: KINDS.get(wrong) }, VERDICTS[KINDS.get(wrong)])),
    make("p", { class: "note" }, `${method.label}; ${object}.`)];
  if (caption.maps) parts.push(mapsPart(method, caption.maps, number, picture));
  if (caption.influence) parts.push(influencePart(method, caption.influence[number]));
  if (parts.length === 2) parts.push(make("p", {}, "No influences or maps were recorded for this caption."));
  document.getElementById("word").replaceChildren(...parts);
}
