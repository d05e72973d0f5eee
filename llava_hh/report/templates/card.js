/** A caption by one method, its words to click; isFound(mention) marks those that a filter asks for. */
function captionCard(method, caption, picture, isFound = () => false) {
  const text = make("p", { class: "text" });
  const letters = Array.from(caption.text); // offsets count characters, not UTF-16 units
  let end = 0;
  caption.mentions.forEach((mention, number) => {
    const [, , from, to, wrong] = mention;
    const name = letters.slice(from, to).join("");
    const kind = `word ${KINDS.get(wrong)}${isFound(mention) ? " found" : ""}`;
    const button = make("button", { type: "button", class: kind, "aria-pressed": "false" }, name);
    if (countedAs(mention)) button.title = countedAs(mention);
    if (wrong) button.append(make("span", { class: "hidden" }, " (hallucinated)"));
    button.addEventListener("click", () => {
      for (const other of document.querySelectorAll("#caption .word")) other.setAttribute("aria-pressed", other === button);
      showWord(method, caption, number, picture);
    });
    text.append(letters.slice(end, from).join(""), button);
    end = to;
  });
  text.append(letters.slice(end).join(""));
  const { mentions } = caption;
  const isJudged = mentions.every((mention) => mention[4] !== null);
  const wrong = mentions.filter((mention) => mention[4]).length;
  const about = isJudged ? `${wrong} of ${mentions.length} objects hallucinated` : `${mentions.length} words, none judged`;
  return make("article", {}, make("h4", {}, method.label), text, make("p", { class: "note" }, `${about}; `, source(method.source)));
}
