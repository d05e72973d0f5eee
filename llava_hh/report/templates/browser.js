/** The caption browser: sets, the filter, the strip of images, captions side by side; and the page's keys. */
const strip = document.getElementById("strip");
const filter = document.getElementById("filter");
const onlyWrong = document.getElementById("only-wrong");
let set = page.sets[0];
let shown = [];
let place = 0;
let objects = new Set();

/** Whether a mention is what the filter asks for; a whole object's name asks for that object alone. */
function isFound([word, node, , , wrong]) {
  const asked = filter.value.trim().toLowerCase();
  const names = [word.toLowerCase(), node.toLowerCase()];
  const fits = objects.has(asked) ? names[1] === asked : names.some((name) => name.includes(asked));
  return fits && (wrong || !onlyWrong.checked);
}

function showImage(number, scroll) {
  document.getElementById("word").replaceChildren();
  const host = document.getElementById("caption");
  place = number;
  if (!shown.length) {
    host.replaceChildren(make("p", {}, "No caption fits."));
    return;
  }
  const image = shown[place];
  const picture = page.pictures[image.key];
  const cards = set.methods.flatMap((method, m) => image.captions[m] ? [captionCard(method, image.captions[m], picture, filter.value ? isFound : undefined)] : []);
  host.replaceChildren(
    make("figure", {}, picture ? make("img", { src: picture, alt: `image ${image.id}` }) : make("p", {}, "The image file was not found."),
      make("figcaption", { class: "note" }, `image ${image.id}, ${place + 1} of ${shown.length}`)),
    make("div", { class: "cards" }, ...cards));
  Array.from(strip.children).forEach((option, other) => {
    option.setAttribute("aria-selected", other === place);
    option.tabIndex = other === place ? 0 : -1;
  });
  const option = strip.children[place];
  if (scroll) option.scrollIntoView({ block: "nearest", inline: "nearest" });
  if (strip.contains(document.activeElement)) option.focus();
  const first = host.querySelector(".word.found") ?? host.querySelector(".word.wrong");
  if (first && set.methods.some((method) => method.maps || method.influence)) first.click();
}

function showShown() {
  const asks = filter.value.trim() || onlyWrong.checked;
  shown = set.images.filter((image) => !asks || image.captions.some((caption) => caption?.mentions.some(isFound)));
  document.getElementById("count").textContent = `${shown.length} of ${set.images.length} images`;
  strip.replaceChildren(...shown.map((image, number) => {
    const wrong = image.captions[0]?.mentions.some((mention) => mention[4]);
    const option = make("button", { type: "button", role: "option", class: wrong ? "wrong" : "", "aria-label": `image ${image.id}${wrong ? ", hallucinated" : ""}` });
    const picture = page.pictures[image.key];
    option.append(picture ? make("img", { src: picture, alt: "", loading: "lazy" }) : String(image.id));
    option.addEventListener("click", () => showImage(number, true));
    return option;
  }));
  showImage(0, false);
}

function chooseSet(number) {
  set = page.sets[number];
  const nodes = set.images.flatMap((image) => image.captions.flatMap((caption) => caption?.mentions.map((mention) => mention[1]) ?? []));
  objects = new Set(nodes.map((node) => node.toLowerCase()));
  document.getElementById("objects").replaceChildren(...[...objects].sort().map((node) => make("option", { value: node })));
  showShown();
}

if (set) {
  document.getElementById("set").addEventListener("change", (event) => chooseSet(Number(event.target.value)));
  filter.addEventListener("input", showShown);
  onlyWrong.addEventListener("change", showShown);
  chooseSet(0);
}

const keys = document.getElementById("keys");
document.getElementById("show-keys").addEventListener("click", () => keys.showModal());
document.getElementById("hide-keys").addEventListener("click", () => keys.close());
document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
  if (target.matches("input, select")) {
    if (key === "Escape") target.blur();
    return;
  }
  const last = shown.length - 1;
  const places = { ArrowLeft: place - 1, ArrowRight: place + 1 };
  if (strip?.contains(target)) Object.assign(places, { Home: 0, End: last });
  if (key === "?") keys.showModal();
  else if (key === "/" && filter) filter.focus();
  else if (key in places && !target.closest("[role=grid], .scroll")) {
    if (places[key] >= 0 && places[key] <= last) showImage(places[key], true);
  } else return;
  event.preventDefault();
});
