/** The caption browser: sets, the filter, the strip of images, captions side by side; and the page's keys. */
const strip = document.getElementById("strip");
const filter = document.getElementById("filter");
const onlyWrong = document.getElementById("only-wrong");
const onlyDifferent = document.getElementById("only-different");
let set = page.sets[0];
let shown = [];
let place = 0;
let objects = new Set();
let unfolded = false;

/** Whether a mention is what the filter asks for; a whole object's name asks for that object alone. */
function isFound([word, node, , , wrong]) {
  const asked = filter.value.trim().toLowerCase();
  const names = [word.toLowerCase(), node.toLowerCase()];
  const fits = objects.has(asked) ? names[1] === asked : names.some((name) => name.includes(asked));
  return fits && (wrong || !onlyWrong.checked);
}

/** Cards of several random draws, behind a line that unfolds them. */
function folded(cards) {
  const draws = make("details", {}, make("summary", {}, `${cards.length} draws of random heads`), make("div", { class: "cards" }, ...cards));
  draws.open = unfolded;
  return draws;
}

function showImage(number, scroll) {
  document.getElementById("word").replaceChildren();
  const host = document.getElementById("caption");
  unfolded = host.querySelector("details")?.open ?? unfolded; // from image to image
  place = number;
  if (!shown.length) {
    host.replaceChildren(make("p", {}, "No caption fits."));
    return;
  }
  const image = shown[place];
  const picture = page.pictures[image.key];
  const found = filter.value ? isFound : undefined;
  const cardsOf = (isFolded) => set.methods.flatMap((method, m) =>
    image.captions[m] && method.folded === isFolded ? [captionCard(method, image.captions[m], picture, found)] : []);
  const draws = cardsOf(true);
  host.replaceChildren(
    make("figure", {}, picture ? make("img", { src: picture, alt: `image ${image.id}` }) : make("p", {}, "The image file was not found."),
      make("figcaption", { class: "note" }, `image ${image.id}, ${place + 1} of ${shown.length}`)),
    make("div", {}, make("div", { class: "cards" }, ...cardsOf(false)), ...(draws.length ? [folded(draws)] : [])));
  Array.from(strip.children).forEach((option, other) => {
    option.setAttribute("aria-selected", other === place);
    option.tabIndex = other === place ? 0 : -1;
  });
  const option = strip.children[place];
  if (scroll) option.scrollIntoView({ block: "nearest", inline: "nearest" });
  else strip.scrollLeft = option.offsetLeft - strip.offsetLeft;
  if (strip.contains(document.activeElement)) option.focus();
  const first = host.querySelector(".word.found") ?? host.querySelector(".word.wrong");
  if (first && set.methods.some((method) => method.maps || method.influence)) first.click();
}

/** Shows the images that the filters ask for, the first of them; at the start the first where methods differ. */
function showShown(isStart) {
  const asks = filter.value.trim() || onlyWrong.checked;
  const fits = (image) => !asks || image.captions.some((caption) => caption?.mentions.some(isFound));
  shown = set.images.filter((image) => fits(image) && (image.differs || !onlyDifferent.checked));
  document.getElementById("count").textContent = `${shown.length} of ${set.images.length} images`;
  strip.replaceChildren(...shown.map((image, number) => {
    const wrong = image.captions[0]?.mentions.some((mention) => mention[4]);
    const option = make("button", { type: "button", role: "option", class: wrong ? "wrong" : "", "aria-label": `image ${image.id}${wrong ? ", hallucinated" : ""}` });
    const picture = page.pictures[image.key];
    option.append(picture ? make("img", { src: picture, alt: "", loading: "lazy" }) : String(image.id));
    option.addEventListener("click", () => showImage(number, true));
    return option;
  }));
  showImage(isStart ? Math.max(0, shown.findIndex((image) => image.differs)) : 0, false);
}

function chooseSet(number) {
  set = page.sets[number];
  const nodes = set.images.flatMap((image) => image.captions.flatMap((caption) => caption?.mentions.map((mention) => mention[1]) ?? []));
  objects = new Set(nodes.map((node) => node.toLowerCase()));
  document.getElementById("objects").replaceChildren(...[...objects].sort().map((node) => make("option", { value: node })));
  showShown(true);
}

if (set) {
  document.getElementById("set").addEventListener("change", (event) => chooseSet(Number(event.target.value)));
  filter.addEventListener("input", () => showShown(false));
  for (const box of [onlyWrong, onlyDifferent]) box.addEventListener("change", () => showShown(false));
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
