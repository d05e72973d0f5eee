/** The head map and the card with a head's numbers. */
function showHeads(heads) {
  const ranked = heads.scores.flatMap((layer, l) => layer.map((score, h) => ({ layer: l, head: h, score })))
    .filter((own) => typeof own.score === "number")
    .sort((one, other) => other.score - one.score);
  const rank = new Map(ranked.map((own, place) => [headName(own.layer, own.head), place + 1]));
  const marks = new Map(ranked.slice(0, 10).map((own, place) => [headName(own.layer, own.head), String(place + 1)]));
  const interval = (layer, head) => typeof heads.scores[layer][head] !== "number" ? "" :
    ` (${signed(heads.low[layer][head])} to ${signed(heads.high[layer][head])})`;
  const score = (layer, head) => signed(heads.scores[layer][head]) + interval(layer, head);

  function showCard(layer, head) {
    const name = headName(layer, head);
    const place = rank.has(name) ? `Rank ${rank.get(name)} of ${ranked.length} by contrastive influence.` : `${signed(heads.scores[layer][head])}.`.replace(/^n/, "N");
    const inList = (list) => list.some(([l, h]) => l === layer && h === head);
    const list = inList(heads.hal) ? " In the list of hallucination heads." :
      inList(heads.non_hal) ? " In the list of non-hallucination heads." : "";
    const lines = [["contrastive influence (95% interval)", score(layer, head), heads.source]];
    for (const own of heads.more) {
      const value = own.values[layer]?.[head] ?? null;
      if (value !== null) lines.push([own.label, typeof value === "number" ? value.toFixed(3) : value, own.source]);
    }
    const numbers = make("dl");
    lines.forEach(([label, value, file], number) => {
      numbers.append(make("dt", {}, label), make("dd", {}, value));
      if (lines[number + 1]?.[2] !== file) numbers.append(make("dd", { class: "from" }, source(file)));
    });
    document.getElementById("head-card").replaceChildren(make("h3", {}, name), make("p", {}, place + list), numbers);
  }
  const describe = (layer, head) => `${headName(layer, head)}  ${score(layer, head)}`;
  const choose = drawGrid(document.getElementById("head-map"), "Contrastive influence of heads", heads.scores, describe, showCard, marks);
  if (ranked.length) choose(ranked[0].layer, ranked[0].head);
}

if (page.heads) showHeads(page.heads);
