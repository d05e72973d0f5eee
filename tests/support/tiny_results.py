"""A folder of results, made by the scripts themselves on the tiny checkpoint."""

import json
import re
from pathlib import Path

from llava_hh.files.files import write_json
from llava_hh.scripts import attribute, caption, evaluate, figure
from tests.support.verbs import score_chair

DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
TEXT = "A 🐕 says <script>document.title = 'broken'</script> & a <b>dog</b>."


def make_results(checkpoint: Path, coco: Path, folder: Path) -> None:
    """train2014 with attribution, influences and maps of words; val2014 with three methods; a figure."""
    model = ["--model", str(checkpoint)]
    train = [*model, "--image-folder", str(coco / "train2014")]
    truth = ["--annotations", str(coco / "annotations")]
    out = folder / "train2014"
    caption.main([*train, *truth, "--split", "train2014", "--max-new-tokens", "8", "--out", str(out)])
    score_chair(["--captions", str(out / "captions.jsonl"), *truth])
    captions = ["--captions", str(out / "captions_eval_results.json")]
    attribute.main([*train, *captions, "--limit", "6", "--out", str(out / "identify_attention_head")])
    result = out / "identify_attention_head" / "attribution_result.json"
    by_source = ["--limit", "6", "--by-source", "--out", str(out / "influence_by_source")]
    attribute.main([*train, *captions, *by_source])
    figure.main(["modules", "--attribution", str(result), "--out", str(out / "module_influence")])
    heads = ["--heads", str(result), "--top-k", "2"]
    evaluate.main(
        [*model, "--image-folder", str(coco / "val2014"), *truth, *heads[:2], "--limit", "6", "--max-new-tokens", "8"]
        + ["--methods", "adhh:top_k=2,threshold=0.2", "random:draws=1,of=adhh", "--out", str(folder / "val2014")]
    )
    few = [*heads, "--limit", "3", "--batch-size", "2"]
    figure.main(["words", *train, *captions, *few, "--out", str(out / "word_maps")])


def of_kind(folder: Path, kind: str) -> Path:
    """The folder of the only method of a kind, or of its only random draw ("random")."""
    (found,) = (path for path in folder.iterdir() if path.is_dir() and path.name.split("-")[0] == kind)
    return found


def data_of(html: str) -> dict:
    """What the scripts of a report read."""
    return json.loads(DATA.search(html)[1])


def add_hostile_method(folder: Path) -> None:
    """A method whose name and captions are markup, in val2014 of such a folder."""
    name = "<img src=x onerror=alert(1)>"
    content = json.loads((folder / "val2014" / "greedy" / "captions_eval_results.json").read_text())
    content |= {"label": name, "kind": name}
    start = TEXT.index("dog")
    mention = {"word": "dog", "node": "dog", "start": start, "end": start + 3, "hallucinated": True}
    for entry in content["sentences"]:
        entry |= {"caption": TEXT, "mentions": [mention]}
    write_json(folder / "val2014" / name / "captions_eval_results.json", content)
