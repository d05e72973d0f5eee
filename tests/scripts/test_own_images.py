"""Images of one's own through the verbs: captioned, scored, compared and attributed, by the names of their files."""

import json
import shutil
from pathlib import Path

import pytest

import llava_hh as hh
from llava_hh.files.files import sha256
from llava_hh.scripts import attribute, caption, evaluate
from tests.support.verbs import error_of, score_chair

SHORT = ["--max-new-tokens", "8", "--batch-size", "2", "--prompt", "describe"]


@pytest.fixture(scope="module")
def own(tiny_coco, tmp_path_factory) -> Path:
    """A photo, and a folder with two more."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "a trip").mkdir()
    files = sorted((tiny_coco / "val2014").glob("*.jpg"))
    for name, file in zip(("photo.jpg", "a trip/one.jpg", "a trip/two.jpg"), files, strict=False):
        shutil.copy(file, folder / name)
    return folder


@pytest.fixture
def images(own, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return ["--images", str(own / "photo.jpg"), str(own / "a trip")]


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_captions_by_the_names_of_files(own, images, tiny_checkpoint, capsys, monkeypatch):
    flags = ["--model", str(tiny_checkpoint), *images, *SHORT]
    caption.main(flags)
    folder = Path("results/images/photo/captions")
    assert capsys.readouterr().out.splitlines()[-1] == f"3 captions: {folder / 'captions.jsonl'}"
    rows, files = rows_of(folder / "captions.jsonl"), ["photo.jpg", "a trip/one.jpg", "a trip/two.jpg"]
    assert [(row["image_id"], row["image"]) for row in rows] == [(Path(name).name, name) for name in files]
    given = {"prompt": "describe", "max_new_tokens": 8, "batch_size": 2}
    assert [row["text"] for row in rows] == hh.load(tiny_checkpoint).caption([own / name for name in files], **given)
    settings = json.loads((folder / "run.json").read_text())["settings"]
    assert settings["draw"].keys() == {"dataset", "n", "sha256"} and settings["draw"]["n"] == 3
    assert settings["image_folder"] == str(own)
    block = json.loads((folder / "blocks/00000.json").read_text())
    assert block["image_sha256"] == [sha256(own / name) for name in files[:2]]
    caption.main(flags)
    assert f"finished before: {folder / 'captions.jsonl'}" in capsys.readouterr().err


def test_a_photo_that_changed_and_other_photos_are_refused(own, tiny_checkpoint, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(own, moved)
    model = ["--model", tiny_checkpoint, *SHORT, "--out", tmp_path / "out"]
    caption.main([str(flag) for flag in ["--images", own / "photo.jpg", own / "a trip", *model]])
    same = ["--images", moved / "photo.jpg", moved / "a trip", *model]
    caption.main([str(flag) for flag in same])  # the same files elsewhere
    assert "draw.n was 3, is 1" in error_of(caption.main, capsys, "--images", moved / "photo.jpg", *model)
    shutil.copy(moved / "a trip/one.jpg", moved / "photo.jpg")
    assert "photo.jpg: changed since" in error_of(caption.main, capsys, *same)


def test_flags_that_do_not_go_together(images, tiny_checkpoint, capsys):
    model = ["--model", tiny_checkpoint, *images]
    for flag, value in (("--limit", 2), ("--annotations", "a"), ("--split", "s"), ("--dataset", "coco")):
        error = error_of(caption.main, capsys, *model, flag, value)
        assert f"{flag}: is of a data set's images; --images are all taken, as they are" in error
    assert "--image-folder: is of" in error_of(evaluate.main, capsys, *model, "--image-folder", "f")
    assert "--task pope asks about a data set's images" in error_of(evaluate.main, capsys, *model, "--task", "pope")
    assert "llava-hh caption does without" in error_of(evaluate.main, capsys, *model)
    of_coco = ["--model", "m", "--image-folder", "i", "--annotations", "a", "--out", "o"]
    assert "--truth: is of --images" in error_of(evaluate.main, capsys, *of_coco, "--truth", "dog")
    assert "required: --image-folder, --annotations, --out" in error_of(caption.main, capsys, "--model", "m")


def test_a_profile_fills_nothing_of_a_data_set(images):
    for verb, folder in ((caption, "results/images/photo/captions"), (evaluate, "results/images/photo")):
        command = verb.parser()
        args = command.parse_args([*images, "--profile", "mini"])
        args.truth = "dog"
        verb.check(command, args)
        assert (args.image_folder, args.annotations, args.limit, args.split) == (None, None, None, None)
        assert (args.model.name, args.batch_size, args.out) == ("model", 30, Path(folder))


def test_scores_attribution_and_a_comparison(own, images, tiny_checkpoint, capsys):
    """What is in the photos is said by their names; the heads are found on them, and used on them."""
    caption.main(["--model", str(tiny_checkpoint), *images, *SHORT])
    folder = Path("results/images/photo/captions")
    named = {
        row["image_id"]: hh.chair([row["text"]], [[]])["sentences"][0] for row in rows_of(folder / "captions.jsonl")
    }
    truth = {
        name: sorted({node for _, node in found["mscoco_hallucinated_words"]})[:1] for name, found in named.items()
    }
    Path("o.jsonl").write_text("".join(json.dumps({"image_id": n, "objects": o}) + "\n" for n, o in truth.items()))
    score_chair(["--captions", str(folder / "captions.jsonl"), "--objects", "o.jsonl"])
    scored = json.loads((folder / "captions_eval_results.json").read_text())
    assert {entry["image_id"]: entry["mscoco_gt_words"] for entry in scored["sentences"]} == truth
    attribution = ["--captions", str(folder / "captions_eval_results.json"), "--image-folder", str(own)]
    attribute.main(["--model", str(tiny_checkpoint), *attribution, "--list-length", "3", "--out", "heads"])
    targets = rows_of(Path("heads/targets.jsonl"))
    assert {row["image_id"] for row in targets} <= {"photo.jpg", "one.jpg", "two.jpg"} and targets
    method = ["--methods", "adhh:top_k=2,threshold=0.2", "random:draws=1,of=adhh", "--seed", "7"]
    compared = ["--heads", "heads/attribution_result.json", *method, "--objects", "o.jsonl"]
    evaluate.main(["--model", str(tiny_checkpoint), *images, *SHORT, *compared])
    summary = json.loads(Path("results/images/photo/summary.json").read_text())
    assert summary["methods"]["greedy"]["n"] == 3 and "split" not in summary["settings"]
    assert summary["settings"]["truth"] == {"o.jsonl": sha256(Path("o.jsonl"))}
    greedy = json.loads(Path("results/images/photo/greedy/captions_eval_results.json").read_text())
    expected = {key: value for key, value in scored["overall_metrics"].items() if key != "drop_incomplete"}
    assert greedy["overall_metrics"] == expected
    from_python(own, tiny_checkpoint, truth, summary)
    Path("o.jsonl").write_text('{"image_id": "photo.jpg", "objects": []}\n')
    again = ["--model", tiny_checkpoint, *images, *SHORT, *compared, "--out", "other"]
    assert "o.jsonl: no row with image_id 'one.jpg'" in error_of(evaluate.main, capsys, *again)


def from_python(own, tiny_checkpoint, truth, summary):
    """hh.evaluate on the same images finds the same, with what is in them as a file and as a mapping."""
    methods = ["adhh:top_k=2,threshold=0.2", "random:draws=1,of=adhh"]
    asked = {
        "heads": "heads/attribution_result.json",
        "prompt": "describe",
        "max_new_tokens": 8,
        "batch_size": 2,
        "seed": 7,
    }
    asked |= {"images": [own / "photo.jpg", own / "a trip"]}
    for objects, name in (("o.jsonl", "file"), (truth, "mapping")):
        found = hh.evaluate(methods, tiny_checkpoint, out=name, objects=objects, **asked)
        assert found["settings"]["draw"] == summary["settings"]["draw"]
        for kind, expected in summary["methods"].items():
            timed = {"seconds_per_token", "relative_time"}
            measured = {key: value for key, value in found["methods"][kind].items() if key not in timed}
            assert measured == {key: value for key, value in expected.items() if key not in timed}
    assert [*found["settings"]["truth"]] == ["objects"]
    given = (methods, tiny_checkpoint)
    for wrong, error in (
        ({"objects": None}, "or images and objects; got images"),
        ({"image_folder": own}, "or images and objects; got image_folder, images, objects"),
        ({"limit": 2}, "limit is of a data set's images"),
        ({"images": []}, "none are named"),
        ({"objects": {"photo.jpg": []}}, "objects: no row with image_id 'one.jpg'"),
        ({"objects": {**truth, "one.jpg": "dog"}}, "objects of one.jpg: 'dog'; expected a list of names"),
        ({"objects": {**truth, "one.jpg": None}}, "objects of one.jpg: None; expected a list of names"),
        ({"objects": {**truth, "one.jpg": [5]}}, r"objects of one.jpg: \[5\]; expected a list of names"),
        ({"split": "val2014"}, "split is of a data set's images"),
        ({"objects": {**truth, "one.jpg": ["unicorn"]}}, "objects of one.jpg: object 'unicorn' is no category"),
        ({"out": ""}, "out is missing"),
    ):
        with pytest.raises(ValueError, match=error):
            hh.evaluate(*given, **{"out": "wrong", "objects": truth, **asked, **wrong})
    with pytest.raises(TypeError, match=r"evaluate\(\) has no argument 'annotation'; beside"):
        hh.evaluate(*given, out="wrong", annotation="x")
