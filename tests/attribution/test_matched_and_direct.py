"""attribute --match object and --direct on a tiny checkpoint: scores by plain means of what was measured."""

import json

import numpy as np
import pytest

import llava_hh as hh
from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.scripts import attribute
from tests.support.main_job import read_attribution
from tests.support.tiny_newer import save_tiny_family
from tests.support.verbs import error_of, write_rows

ANSWERS = {  # whose words are of the same objects, some of which are wrong in one and right in another
    "a dog and a cat": [[2, 5, "hallucinated"], [12, 15, "true"]],
    "a cat and dog": [[2, 5, "hallucinated"], [10, 13, "true"]],
    "a bird cat dog": [[2, 6, "hallucinated"], [7, 10, "true"], [11, 14, "hallucinated"]],
    "a cup and a cat": [[2, 5, "true"], [12, 15, "hallucinated"]],
}


@pytest.fixture
def flags(tiny_checkpoint, tiny_coco, tmp_path) -> list[str]:
    images = sorted((tiny_coco / "train2014").glob("*.jpg"))[:4]
    rows = [
        {"image": image.name, "prompt": "what", "answer": answer, "spans": spans}
        for image, (answer, spans) in zip(images, ANSWERS.items(), strict=True)
    ]
    write_rows(tmp_path / "t.jsonl", rows)
    given = ["--model", tiny_checkpoint, "--image-folder", tiny_coco / "train2014", "--targets", tmp_path / "t.jsonl"]
    return [str(flag) for flag in (*given, "--list-length", 5, "--batch-size", 2)]


def test_matched_scores_of_heads_sources_and_modules(flags, tmp_path, capsys):
    plain, out = tmp_path / "plain", tmp_path / "out"
    attribute.main([*flags, "--by-source", "--direct", "--out", str(plain)])
    attribute.main([*flags, "--by-source", "--direct", "--out", str(out)])
    blocks = sorted((out / "blocks").iterdir())
    before = [path.stat().st_mtime_ns for path in blocks]
    attribute.main([*flags, "--by-source", "--direct", "--match", "object", "--out", str(out)])
    assert [path.stat().st_mtime_ns for path in blocks] == before  # nothing was measured again
    result, hallucinated, log_probs = read_attribution(out)
    nodes = [json.loads(line)["node"] for line in (out / "targets.jsonl").read_text().splitlines()]
    matched = result["matched"]
    assert matched == {"objects": ["cat", "dog"], "n_hallucinated_words": 4, "n_true_words": 3}
    assert "4 hallucinated and 3 true words of the same 2 objects about 4 images; " in capsys.readouterr().out

    def contrast(ablated):
        drop, added = np.exp(log_probs["clean"]).reshape(-1, *[1] * (ablated.ndim - 1)) - np.exp(ablated), 0
        for name in ("cat", "dog"):
            own = np.array([node == name for node in nodes])
            added += 2 * (drop[own & hallucinated].mean(0) - drop[own & ~hallucinated].mean(0))
        return added / 4

    scores = contrast(log_probs["heads"])
    np.testing.assert_allclose(result["contrastive_influence"], scores, atol=1e-6)
    order = np.argsort(-scores, axis=None)[:5]
    assert result["hal_heads"] == [[*divmod(int(index), 4)] for index in order]
    for source, part in result["sources"]["by_source"].items():
        np.testing.assert_allclose(part["contrastive_influence"], contrast(log_probs[f"without_{source}"]), atol=1e-6)
    np.testing.assert_allclose(result["direct"]["contrastive_influence"], contrast(log_probs["direct"]), atol=1e-6)
    mlp = result["modules"]["mlp"]["contrastive_influence"]
    np.testing.assert_allclose(mlp, contrast(log_probs["mlp"]), atol=1e-6)
    difference = np.array(result["influence_hallucinated"]) - result["influence_true"]
    np.testing.assert_allclose(difference, scores, atol=1e-6)
    assert "matched" not in read_attribution(plain)[0]
    assert not np.allclose(read_attribution(plain)[0]["contrastive_influence"], scores, atol=1e-4)


def test_direct_effects_are_those_of_the_library(flags, tiny_checkpoint, tmp_path, capsys):
    attribute.main([*flags, "--direct", "--out", str(tmp_path / "out")])
    result, hallucinated, log_probs = read_attribution(tmp_path / "out")
    lvlm, found = hh.load(tiny_checkpoint), []
    rows = [json.loads(line) for line in (tmp_path / "out/targets.jsonl").read_text().splitlines()]
    entries = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    folder = flags[flags.index("--image-folder") + 1]
    for entry in entries:
        ids = lvlm.tokenizer(entry["answer"], add_special_tokens=False).input_ids
        batch = lvlm.encode([f"{folder}/{entry['image']}"], ["what"], [ids])
        own = [row for row in rows if row["image_id"] == entry["image"]]
        at = [batch.response_start[0] + row["index"] - 1 for row in own]
        tokens = [row["token_id"] for row in own]
        found.append(ablate_every_head(lvlm.model, batch.inputs, at, tokens, direct=True).direct.numpy())
    np.testing.assert_allclose(log_probs["direct"], np.concatenate(found), atol=1e-5)
    drop = np.exp(log_probs["clean"])[:, None, None] - np.exp(log_probs["direct"])
    expected = drop[hallucinated].mean(0) - drop[~hallucinated].mean(0)
    np.testing.assert_allclose(result["direct"]["contrastive_influence"], expected, atol=1e-6)
    layer, head = result["hal_heads"][0]
    assert f"    directly: {expected[layer, head]:+.4f} (" in capsys.readouterr().out


def test_a_model_without_direct_terms_says_so(flags, tmp_path, capsys):
    save_tiny_family("gemma3", tmp_path / "gemma3")
    flags[flags.index("--model") + 1] = str(tmp_path / "gemma3")
    attribute.main([*flags, "--direct", "--out", str(tmp_path / "out")])
    assert "no direct effect: in this model a norm follows o_proj" in capsys.readouterr().out
    result, _, log_probs = read_attribution(tmp_path / "out")
    assert result["direct"] is None and result["settings"]["direct"] and "direct" not in log_probs


def test_what_does_not_go_together_and_nothing_to_match(flags, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out"), "--match", "object"]
    assert "--match: does not go with --race" in error_of(attribute.main, capsys, *flags, *out, "--race", "3")
    write_rows(tmp_path / "t.jsonl", [json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0])])
    error = error_of(attribute.main, capsys, *flags, *out)
    assert error.strip().endswith("t.jsonl: --match object: no object is hallucinated in one place and true in another")
