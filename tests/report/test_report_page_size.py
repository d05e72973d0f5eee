"""Pages in a browser that are small or large: heads alone, and 200 captions of a large model."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from llava_hh.files.files import write_json
from llava_hh.report.render import LARGEST_PAGE, render_report
from tests.support.chromium import NEEDED, count

pytestmark = NEEDED


def test_a_page_of_heads_alone(browser, tiny_results, tmp_path):
    browser.complaints = []
    (tmp_path / "report.html").write_text(render_report(tiny_results / "train2014" / "identify_attention_head"))
    browser.open(tmp_path / "report.html")
    assert (count(browser, "#head-map [role=gridcell]"), count(browser, "#captions")) == (16, 0)
    for key in ("ArrowRight", "/", "?"):
        browser.press(key)
    assert browser.run("keys.open") is True
    assert browser.complaints == []


def write_large(folder: Path, images: Path, n_images: int = 200) -> None:
    """Captions of photograph-like images with influences of 32 x 32 heads and maps of 5 at six words each."""
    random = np.random.default_rng(0)
    images.mkdir()
    rows, targets, sentences = [], [], []
    for image_id in range(n_images):
        small = Image.fromarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8)).resize((640, 480))
        grain = random.integers(0, 12, (480, 640, 3), dtype=np.uint8)
        Image.fromarray(np.minimum(np.asarray(small), 243) + grain).save(images / f"{image_id}.jpg")
        words = ["dog", "cat", "cup", "fork", "knife", "bowl"]
        caption = ", ".join(words * 3)
        mentions = [
            {
                "word": word,
                "node": word,
                "start": caption.index(word),
                "end": caption.index(word) + len(word),
                "hallucinated": True,
            }
            for word in words
        ]
        own = [{"word": word, "index": 2 * place, "image_id": image_id} for place, word in enumerate(words)]
        targets += own
        rows.append({"image_id": image_id, "tokens": [" word"] * 50, "n_prompt": 14, "n_image": 576, "words": own})
        rows[-1]["grid"] = {"rows": 24, "columns": 24, "box": [0, -1 / 6, 1, 7 / 6]}
        sentences.append({"image_id": image_id, "image": f"{image_id}.jpg", "caption": caption, "mentions": mentions})
    overall = {"CHAIRs": 1, "CHAIRi": 1, "recall": 0, "f1": 0, "mentions": 6, "length": 18, "n": n_images}
    run = {"image_folder": str(images)}
    write_json(folder / "captions_eval_results.json", {"sentences": sentences, "overall_metrics": overall, "run": run})
    heads = random.normal(size=(32, 32)).tolist()
    scores = {
        "contrastive_influence": heads,
        "interval": {"contrastive_influence": [heads, heads]},
        "hal_heads": [[3, 4]],
    }
    scores |= {"influence_hallucinated": heads, "influence_true": heads, "read_out": "probability"}
    counts = {"n_hallucinated_words": 1200, "n_true_words": 1, "n_captions": n_images}
    write_json(folder / "heads" / "attribution_result.json", {**scores, **counts, "settings": {}})
    (folder / "heads" / "targets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in targets))
    clean = random.uniform(-3, 0, len(targets)).astype(np.float32)
    ablated = (clean[:, None, None] + random.normal(size=(len(targets), 32, 32)) / 50).astype(np.float32)
    save_file({"clean": clean, "heads": ablated}, folder / "heads" / "ablations.safetensors")
    write_json(
        folder / "word_maps" / "word_maps.json", {"heads": [[3, h] for h in range(5)], "captions": rows, "settings": {}}
    )
    n_codes = sum(5 * (576 + 14 + row["index"]) for row in targets)
    arrays = {"codes": random.integers(0, 255, n_codes, dtype=np.uint8)}
    arrays["scales"] = random.random((len(targets), 5, 2), dtype=np.float32)
    arrays["parts"] = random.random((len(targets), 5, 4), dtype=np.float32)
    save_file(arrays, folder / "word_maps" / "word_maps.safetensors")


def test_200_captions_of_a_large_model_are_small_and_open_at_once(browser, tmp_path):
    write_large(tmp_path / "large", tmp_path / "images")
    page = tmp_path / "large" / "report.html"
    page.write_text(render_report(tmp_path / "large"))
    assert page.stat().st_size < LARGEST_PAGE
    seconds = []
    for _ in range(3):
        browser.open(page)
        seconds.append(browser.run("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"))
    assert min(seconds) < 2
    assert browser.run("Object.keys(page.pictures).length") == 200
    assert count(browser, "#strip img") == 200
    assert count(browser, "#word .tokens span") == 50
    assert browser.complaints == []
