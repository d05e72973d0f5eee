"""Files that users bring: a byte order mark is read, half of an emoji is refused with its row, in every reader."""

import codecs
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_hh.command_line.script import errors_in_one_line
from llava_hh.data import nocaps
from llava_hh.data.amber import load_amber
from llava_hh.data.coco import load_annotations, load_image_list, load_objects
from llava_hh.data.instruct import InstructionData
from llava_hh.data.mme import CATEGORIES, load_mme
from llava_hh.data.pope import load_questions
from llava_hh.files import json_lists
from llava_hh.files.files import read_any_json, read_json_lines
from llava_hh.heads import load_heads
from llava_hh.scoring import answers as vqa
from llava_hh.scoring import benchmarks
from tests.support.coco_files import write_truth
from tests.support.nocaps_files import CANS, CAPTION_FILE, CLASS_FILE, LABEL_FILE, write_collected, write_official
from tests.support.verbs import score_chair

COLLECTED = "nocaps_out-domain_collected_gt.json"
HALF = "a \ud83d"  # json.dumps writes it as an escape
WHOLE = "a \N{DOG}"


def conversation(text: str) -> dict:
    return {"id": "1", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": text}]}


def lines_of(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_mme(folder: Path) -> None:
    for category in CATEGORIES:
        (folder / category).mkdir()
        (folder / category / "0001.txt").write_text("Is there a dog?\tYes\nIs there a cat?\tNo\n")


def write_amber(folder: Path) -> None:
    (folder / "relation.json").write_text('{"dog": ["puppy"]}')
    (folder / "safe_words.txt").write_text("sky\n")
    row = {"id": 1, "type": "generative", "truth": ["dog"], "hallu": []}
    (folder / "annotations.json").write_text(json.dumps([row]))


WITH_MARK: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {  # what writes files and reads them
    "COCO": (
        lambda folder: write_truth(folder / "coco"),
        lambda folder: (
            load_annotations(folder / "coco", [1, 2]),
            load_image_list(folder / "coco" / "captions_val2014.json"),
        ),
    ),
    "nocaps": (
        lambda folder: write_official(folder),
        lambda folder: (nocaps.load_image_list(folder), nocaps.load_annotations(folder, [CANS])),
    ),
    "nocaps, collected": (
        lambda folder: write_collected(folder),
        lambda folder: (nocaps.load_image_list(folder), nocaps.load_annotations(folder, [CANS])),
    ),
    "instructions": (
        lambda folder: (folder / "x").write_text(json.dumps([conversation(WHOLE), conversation("\xe0 b")])),
        lambda folder: (list(data := InstructionData(folder / "x")), data.lengths),
    ),
    "MME": (write_mme, load_mme),
    "AMBER": (write_amber, load_amber),
    "POPE": (
        lambda folder: (folder / "x").write_text(
            lines_of({"question_id": 1, "image": "a", "text": "b", "label": "yes"})
        ),
        lambda folder: load_questions(folder / "x"),
    ),
    "objects": (
        lambda folder: (folder / "x").write_text(lines_of({"image_id": 1, "objects": ["dog"]})),
        lambda folder: load_objects(folder / "x"),
    ),
    "answers": (
        lambda folder: (folder / "x").write_text(lines_of({"question_id": 1, "text": "b"})),
        lambda folder: (
            vqa.read_answers(folder / "x", "question_id", "text"),
            benchmarks.read_answers(folder / "x", "amber"),
        ),
    ),
    "truth of VQA": (
        lambda folder: (folder / "x").write_text(json.dumps({"7": {"imageId": "n1", "answer": "b"}})),
        lambda folder: vqa.read_truth(folder / "x"),
    ),
    "heads": (
        lambda folder: (folder / "x").write_text('{"hal_heads": [[1, 2]]}'),
        lambda folder: load_heads(folder / "x"),
    ),
}


@pytest.mark.parametrize("name", WITH_MARK)
def test_a_byte_order_mark_changes_nothing(name, tmp_path):
    write, read = WITH_MARK[name]
    write(tmp_path)
    plain = read(tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert read(tmp_path) == plain


@pytest.mark.parametrize("name", WITH_MARK)
def test_what_is_not_utf8_is_one_line_with_its_file(name, tmp_path):
    write, read = WITH_MARK[name]
    write(tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        place = whole.rindex(b'"') if b'"' in whole else len(whole)
        path.write_bytes(whole[:place] + "\xe9".encode("latin-1") + whole[place:])
        if path.name not in ("captions_val2014.json", "instances_val2014.json") or "captions" in path.name:
            with pytest.raises(ValueError, match="utf-8|UTF-8") as error:
                read(tmp_path)
            assert path.name in str(error.value) and "\n" not in str(error.value)
        path.write_bytes(whole)


def test_half_of_a_character_in_instructions_is_found_at_opening(tmp_path):
    path = tmp_path / "d.json"
    rows = [conversation("a dog"), conversation(HALF), {**conversation("b"), "unread": [HALF]}, conversation(WHOLE)]
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"d\.json: row 1: half of a character, \\ud83d; expected whole text"):
        InstructionData(path)
    data = InstructionData(path, skip_bad=True)
    assert [data[place].turns[0][1] for place in range(len(data))] == ["a dog", WHOLE]
    assert [message.split(": ")[1] for message in data.bad] == ["row 1", "row 2"]


@pytest.mark.parametrize("row", [1, 2])
@pytest.mark.parametrize("piece", [16, 1 << 20])
def test_half_of_a_character_in_a_reference_caption(row, piece, tmp_path, capsys, monkeypatch):
    """It is named by file and row, and left out by --skip-bad, again each time."""
    monkeypatch.setattr(json_lists, "PIECE", piece)
    folder = write_truth(tmp_path / "annotations")
    path = folder / "captions_val2014.json"
    content = json.loads(path.read_text())
    content["annotations"].insert(row - 1, {"image_id": row, "caption": HALF})
    path.write_text(json.dumps(content))
    captions = tmp_path / "c.jsonl"
    captions.write_text(
        lines_of({"image_id": 1, "text": "A dog on a couch."}, {"image_id": 2, "text": "A red bicycle."})
    )
    flags = ["--captions", str(captions), "--annotations", str(folder)]
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            score_chair(flags)
        assert stopped.value.code == 2
        assert (
            f"{path}: expected COCO's format, but row {row} of `annotations`: half of a character"
            in capsys.readouterr().err
        )
        score_chair([*flags, "--skip-bad"])
        assert f"skipped: {path}: row {row} of `annotations`: half of a character" in capsys.readouterr().err
        result = json.loads((tmp_path / "captions_eval_results.json").read_text())
        assert (result["run"]["n_skipped"], result["overall_metrics"]["CHAIRs"]) == (1, 1 / 2)


def test_half_of_a_character_in_other_lists(tmp_path):
    path = write_truth(tmp_path / "annotations") / "captions_val2014.json"
    content = json.loads(path.read_text())
    content["images"][1]["licence"] = HALF
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"captions_val2014\.json, row 2 of `images`: half of a character"):
        load_image_list(path)
    content["images"][1]["licence"] = ""
    content["annotations"][1]["caption"] = HALF  # which captioning does not read
    path.write_text(json.dumps(content))
    assert len(load_image_list(path)) == 2
    for write, name, where in (
        (write_official, CAPTION_FILE, "row 2 of `annotations`"),
        (write_collected, COLLECTED, "row 2"),
    ):
        folder = write(tmp_path / name)
        content = json.loads((folder / name).read_text())
        rows = content["annotations"] if isinstance(content, dict) else content
        rows[1]["more"] = HALF
        (folder / name).write_text(json.dumps(content))
        with pytest.raises(ValueError, match=rf"{name}, {where}: half of a character"):
            nocaps.load_annotations(folder, [CANS])
        skipped = []
        nocaps.load_annotations(folder, [CANS], allow_missing=True, skip=skipped.append)
        assert len(skipped) == 1 and f"{name}, {where}: half of a character" in skipped[0]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le"])
def test_json_in_another_encoding_is_refused(encoding, tmp_path):
    """Python's json would guess the encoding, and half characters would pass."""
    path = tmp_path / "heads.json"
    path.write_bytes(r'{"hal_heads": [[0, 1]], "note": "\ud83d"}'.encode(encoding))
    with pytest.raises(ValueError, match=r"heads\.json: not JSON"):
        read_any_json(path)


def test_half_of_a_character_in_lines_and_whole_files(tmp_path):
    path = tmp_path / "x"
    path.write_text(lines_of({"a": WHOLE}, {"b": HALF}))
    with pytest.raises(ValueError, match="x, row 2: half of a character"):
        list(read_json_lines(path))
    path.write_text(json.dumps({"hal_heads": [], "note": HALF}))
    for read in (read_any_json, load_heads):
        with pytest.raises(ValueError, match="x: half of a character"):
            read(path)


def test_objects_are_skipped_with_their_captions(tmp_path, capsys):
    captions, objects = tmp_path / "c.jsonl", tmp_path / "o.jsonl"
    captions.write_text(lines_of(*({"image_id": number, "text": "A dog."} for number in (1, 2))))
    objects.write_text(lines_of({"image_id": 1, "objects": ["dog"]}, {"image_id": 2, "objects": [HALF]}))
    score_chair(["--captions", str(captions), "--objects", str(objects), "--skip-bad"])
    assert "2 bad rows skipped" in capsys.readouterr().out
    result = json.loads((tmp_path / "captions_eval_results.json").read_text())
    assert [entry["image_id"] for entry in result["sentences"]] == [1]


@pytest.mark.parametrize("value", ["[" * 100_000, "1" * 5000], ids=["nested", "long"])
def test_json_that_python_does_not_parse(value, tmp_path):
    folder = write_truth(tmp_path / "annotations")
    path = folder / "instances_val2014.json"
    path.write_text(path.read_text().replace('"category_id": 18', f'"category_id": {value}'))
    with pytest.raises(ValueError, match=r"instances_val2014\.json: expected COCO's format"):
        load_annotations(folder, [1, 2])
    (tmp_path / "d.json").write_text(f"[{value}]")
    with pytest.raises(ValueError, match=r"d\.json: not JSON") as error:
        InstructionData(tmp_path / "d.json")
    assert "\n" not in str(error.value)


def test_tables_of_open_images_that_are_none(tmp_path):
    for name in (LABEL_FILE, CLASS_FILE):
        folder = write_official(tmp_path / name)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole + b"/m/09," + b"x" * 200_000 + b"\n")  # over csv's limit
        with pytest.raises(ValueError, match=rf"{name}, row \d: not a table in UTF-8"):
            nocaps.load_annotations(folder, [CANS])


def test_memory_does_not_grow_with_cocos_files(tmp_path):
    def peak(n_rows: int) -> int:
        folder = write_truth(tmp_path / str(n_rows))
        path = folder / "captions_val2014.json"
        content = json.loads(path.read_text())
        content["annotations"] += [{"image_id": 9, "caption": WHOLE * 20}] * n_rows
        path.write_text(json.dumps(content))
        tracemalloc.start()
        load_annotations(folder, [1, 2])
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(60_000) < 1.5 * peak(15_000)


def test_messages_do_not_steer_the_terminal(tmp_path, capsys):
    path = tmp_path / "c.jsonl"
    path.write_text(lines_of({"\x1b]0;x\x07 \n\u202e": 1}))
    (tmp_path / "o.jsonl").write_text(lines_of({"image_id": 1, "objects": []}))
    flags = ["--captions", str(path), "--objects", str(tmp_path / "o.jsonl")]
    for more in ([], ["--skip-bad"]):
        with pytest.raises(SystemExit):
            score_chair([*flags, *more])
        error = capsys.readouterr().err
        assert "\\x1b]0;x\\x07" in error and error.replace("\n", "").isprintable()
    with pytest.raises(SystemExit), errors_in_one_line(debug=False):
        raise ValueError("left over: \x1b[31m")
    assert capsys.readouterr().err == "error: left over: \\x1b[31m\n"
