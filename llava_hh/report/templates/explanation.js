/** The captions of one image. */
const [{ methods, images: [image] }] = page.sets;
const picture = page.pictures[image.key];
document.getElementById("caption").replaceChildren(
  make("figure", {}, make("img", { src: picture, alt: image.id }), make("figcaption", { class: "note" }, image.id)),
  make("div", { class: "cards" }, ...methods.map((method, number) => captionCard(method, image.captions[number], picture))));
(document.querySelector("#caption .word.wrong") ?? document.querySelector("#caption .word"))?.click();
