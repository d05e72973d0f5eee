"""The verb explain on a tiny model: from a photo to a page, again, with other settings, and what it refuses."""

import json
import re
from pathlib import Path

import pytest

import llava_hh as hh
from llava_hh.command_line.profiles import REPO
from llava_hh.scripts import explain as verb
from tests.support.verbs import error_of

FLAGS = ["--heads", "L1H2,L2H0", "--threshold", "0.2", "--max-new-tokens", "8", "--prompt", "describe"]


@pytest.fixture
def photo(tiny_coco, tmp_path, monkeypatch):
    """A photo in a folder that one works in."""
    (tmp_path / "my photos").mkdir()
    path = tmp_path / "my photos" / "yard.jpg"
    path.write_bytes(sorted((tiny_coco / "val2014").glob("*.jpg"))[0].read_bytes())
    monkeypatch.chdir(tmp_path)
    return Path("my photos/yard.jpg")


def test_from_a_photo_to_a_page(photo, tiny_checkpoint, capsys, monkeypatch):
    flags = [str(photo), "--model", str(tiny_checkpoint), *FLAGS]
    verb.main(flags)
    *said, last = capsys.readouterr().out.splitlines()
    page = Path("results/explain/yard/explanation.html").absolute()
    assert last == str(page) and "<!DOCTYPE html>" in page.read_text()
    content = json.loads(page.with_suffix(".json").read_text())
    heads = hh.load_heads("L1H2,L2H0")
    expected = hh.explain(hh.load(tiny_checkpoint), photo, heads, 0.2, prompt="describe", max_new_tokens=8)
    assert json.loads(json.dumps(expected.content())) == {name: content[name] for name in expected.content()}
    assert "\n".join(said) == str(expected)
    record = json.loads(page.with_name("run.json").read_text())
    assert record["settings"] == content["settings"] and record["image_ids"] == ["yard.jpg"]
    assert record["settings"]["heads"] == [[1, 2], [2, 0]] and record["settings"]["image"]["name"] == "yard.jpg"

    def refuse(*_, **__):
        raise AssertionError("a finished explanation was made again")

    monkeypatch.setattr("llava_hh.models.lvlm.load_lvlm", refuse)
    verb.main(flags)
    again = capsys.readouterr()
    assert again.out.splitlines() == [str(page)] and "finished before: " in again.err


def test_other_explanations_lie_in_other_folders(photo, tiny_checkpoint, capsys):
    """Numbered ones, where none is named; in a named one other settings are refused."""
    flags = [photo, "--model", tiny_checkpoint, *FLAGS]
    verb.main([str(flag) for flag in flags])
    first = Path("results/explain/yard/explanation.json")
    before = first.read_bytes()
    asked = ([], ["--threshold", "0.3"], ["--truth", "dog"], ["--threshold", "0.3"])
    for number, further in zip((1, 2, 3, 2), asked, strict=True):
        verb.main([*map(str, flags), *further])
        folder = first.parent if number == 1 else first.parent.with_name(f"yard-{number}")
        assert capsys.readouterr().out.splitlines()[-1] == str(folder.absolute() / "explanation.html")
    same = ([photo.absolute(), *flags[1:]], [*flags, "--max-rows", "99"], [*flags, "--out", "results/explain/yard"])
    for asked in same:
        verb.main([str(flag) for flag in asked])
        assert capsys.readouterr().out.splitlines()[-1] == str(first.absolute().with_suffix(".html"))
    first.with_name("explanation.finished.json").unlink()  # as a kill before the end leaves it
    verb.main([str(flag) for flag in flags])
    assert capsys.readouterr().out.splitlines()[-1] == str(first.absolute().with_suffix(".html"))
    assert json.loads(first.read_text())["captions"] == json.loads(before)["captions"]
    before = first.read_bytes()
    assert not first.parent.with_name("yard-4").exists()
    flags += ["--out", "results/explain/yard"]
    error = error_of(verb.main, capsys, *flags, "--threshold", "0.3")
    assert "threshold was 0.2, is 0.3" in error and "choose another --out" in error.lower()
    assert first.read_bytes() == before
    verb.main([*map(str, flags[:-2]), "--truth", "dog, Cats", "--out", "elsewhere"])
    content = json.loads(Path("elsewhere/explanation.json").read_text())
    assert content["truth"] == ["Cats", "dog"]
    judged = [word["hallucinated"] for caption in content["captions"] for word in caption["words"]]
    assert judged and None not in judged
    page = Path("elsewhere/explanation.html").read_text()
    assert "Given as in the image: Cats, dog." in page and "No truth was given" not in page


def test_truth_of_a_file(photo, tiny_checkpoint, capsys):
    rows = [{"image_id": "yard.jpg", "objects": ["dog"]}, {"image_id": "other.jpg", "objects": []}]
    Path("o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [photo, "--model", tiny_checkpoint, *FLAGS, "--objects", "o.jsonl"]
    verb.main([str(flag) for flag in flags])
    assert json.loads(Path("results/explain/yard/explanation.json").read_text())["truth"] == ["dog"]
    Path("o.jsonl").write_text('{"image_id": "other.jpg", "objects": []}\n')
    assert "o.jsonl: no row with image_id 'yard.jpg'" in error_of(verb.main, capsys, *flags)
    assert "not allowed with argument" in error_of(verb.main, capsys, *flags, "--truth", "dog")


def test_what_is_refused(photo, tiny_checkpoint, capsys):
    model = ["--model", tiny_checkpoint]
    assert "no heads are published for a llava" in error_of(verb.main, capsys, photo, *model)
    assert "none.jpg: no such image" in error_of(verb.main, capsys, "none.jpg", *model, *FLAGS)
    Path("text.jpg").write_text("no image")
    assert "text.jpg: not an image" in error_of(verb.main, capsys, "text.jpg", *model, *FLAGS)
    assert "no head L9H9" in error_of(verb.main, capsys, photo, *model, *FLAGS, "--heads", "L9H9")
    assert "--top-k 1: --heads names 2" in error_of(verb.main, capsys, photo, *model, *FLAGS, "--top-k", "1")
    assert "h.json: no such head list" in error_of(verb.main, capsys, photo, *model, *FLAGS, "--heads", "h.json")
    foreign = {"hal_heads": [[1, 2]], "settings": {"model": {"name": "other", "sha256": "00"}}}
    Path("h.json").write_text(json.dumps(foreign))
    listed = [photo, *model, *FLAGS, "--heads", "h.json", "--top-k", "1"]
    assert "found on another model than" in error_of(verb.main, capsys, *listed)
    verb.main([*map(str, listed), "--foreign-heads"])
    assert "no heads are published for a llava" in error_of(
        verb.main, capsys, photo, *model, *FLAGS, "--heads", "published"
    )
    for given in ("", " , "):
        assert "no word in it; leave it out" in error_of(verb.main, capsys, photo, *model, *FLAGS, "--words", given)
        assert "no name in it; for an image without" in error_of(
            verb.main, capsys, photo, *model, *FLAGS, "--truth", given
        )
    error = error_of(
        verb.main, capsys, photo, "--model", "nowhere", *FLAGS, "--truth", "unicorn"
    )  # before the model is loaded
    assert "truth 'unicorn' is no COCO category" in error
    odd = [photo, *model, *FLAGS, "--words", "unicorn", "--out", "odd"]
    assert "no word 'unicorn' in the captions" in error_of(verb.main, capsys, *odd)


def test_mini_is_what_is_explained_by_default(photo, monkeypatch, capsys):
    """Its profile's settings; its heads are those that quickstart.sh found, or else the published ones."""
    quick = {"head_list": str(Path("quick.json").absolute()), "model_path": "checkpoints/mini/model", "top_k": "2"}
    quick |= {"result_path": "results/quick", "threshold": "0.95", "question": "", "max_new_tokens": "128"}
    monkeypatch.setattr("llava_hh.command_line.parser.read_profile", lambda name: quick if name == "mini" else {})

    def parsed(*flags):
        command = verb.parser()
        args = command.parse_args([str(flag) for flag in flags])
        verb.check(command, args)
        return args

    args = parsed(photo)
    assert args.heads == Path("published") and not args.foreign_heads
    assert "heads: those published for a model like this, if any; " in capsys.readouterr().err
    assert (args.top_k, args.threshold, args.out) == (2, 0.95, REPO / "results/quick/explain/yard")
    assert args.model == REPO / "checkpoints/mini/model" and not args.foreign_heads
    Path("quick.json").write_text('{"hal_heads": [[1, 2]]}')
    args = parsed(photo)
    assert args.heads == Path("quick.json").absolute() and not args.foreign_heads
    assert f"heads: those that attribution found, {args.heads}; " in capsys.readouterr().err
    args = parsed(photo, "--heads", "L1H2")
    assert (args.heads, args.top_k, args.threshold, args.foreign_heads) == (Path("L1H2"), 1, 0.95, False)
    for given in ([], ["--heads", "published"], ["--profile", "mini"]):  # the profile's are of its own model
        args = parsed(photo, "--model", "mine", *given)
        assert (args.heads, args.top_k, args.threshold) == (Path("published"), None, None)
        assert ("of llava-hh attribute" in capsys.readouterr().err) == ("--heads" not in given)
        assert args.out == (REPO / "results/quick" if "--profile" in given else Path("results")) / "explain/yard"


def test_the_profile_of_mini_has_the_default_heads():
    args = verb.parser().parse_args(["photo.jpg"])
    assert re.search(r"(published|attribution_result\.json)$", str(args.heads))
    assert (args.top_k, args.threshold) == (2, 0.95)
