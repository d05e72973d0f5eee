"""Files that scripts read, damaged in every way: the work is done all the same, or one line says what is wrong."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import hypothesis
from hypothesis import strategies as st

from llava_hh.data.pope import KINDS
from llava_hh.files.files import write_json, write_rows
from tests.support.verbs import compare_details, compare_runs, score_chair, score_vqa

from .children import Ending, run_to_the_end
from .kills import MARK, prepare
from .material import scripts

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**30, max_value=10**40),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["\x00", "../../etc/passwd", "/etc/passwd", "<script>", "\u202e", "\ud800", "7", "x" * 300]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
WHOLE = [b"", b"\n", b"null", b"[]", b"{}", b"0", b"[" * 100_000, b"\x00" * 50, b"\xff\xfe\xfd", b'"' * 3, b"{}\n[]\n"]


@dataclass(frozen=True)
class Target:
    """A file, and a script that reads it.

    out: whether the script has an --out; results: what lies there before, and then the file is one of these.
    """

    name: str
    path: Path
    main: Callable[[Sequence[str]], None]
    flags: tuple[object, ...]
    out: bool = True
    results: Path | None = None


def run(folder: Path, n: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """Each case is a file with a damage that hypothesis draws."""
    prepare(folder)
    every = targets(folder)
    for place, target in enumerate(every):
        share = n * (place + 1) // len(every) - n * place // len(every)
        original = target.path.read_bytes()
        for damaged in draw_damages(original, target.path.suffix, share, seed + place):
            target.path.write_bytes(damaged)
            trouble = judge(target, folder)
            target.path.write_bytes(original)  # before the yield: who has seen enough does not come back
            yield target.name, trouble


def judge(target: Target, folder: Path) -> str | None:
    """Run the script on its damaged file in a folder that has results; None, or what is wrong with how it ended."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    if target.results:
        shutil.copytree(target.results, out)
    else:
        out.mkdir()
    before = {
        path: path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and not path.name.endswith(("run.json", MARK))
    }
    flags = (*target.flags, *(("--out", out) if target.out else ()))
    ending = run_to_the_end(target.main, flags, folder / "log", within=60)
    trouble = complain(ending, target.path)
    if ending.code and (
        lost := [path for path, old in before.items() if not path.exists() or path.read_bytes() != old]
    ):
        trouble = f"{lost[0].name} was there before and is lost"
    return trouble and f"{trouble}; the file began {target.path.read_bytes()[:120]!r}"


def complain(ending: Ending, path: Path) -> str | None:
    """What is wrong with an ending: neither 0 nor one line of error and 2, or an error that does not name the file."""
    if ending.code == 0:
        return None
    if ending.code != 2 or "Traceback" in ending.output or not ending.error:
        return f"exit {ending.code}: {' / '.join(ending.output.strip().splitlines()[-3:])[-400:]}"
    # a head that the model lacks is named itself
    if not any(name in ending.error for name in (path.name, f"/{path.parent.name}", "no head L")):
        return f"the error does not name the file: {ending.error[:300]}"
    return None


def draw_damages(original: bytes, suffix: str, n: int, seed: int) -> list[bytes]:
    """n different damages of a file; all but a third of those of JSON are of its values."""
    found: dict[bytes, None] = {}

    @hypothesis.settings(
        max_examples=3 * n + 1, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.seed(seed)
    @hypothesis.given(st.data())
    def draw(data: st.DataObject) -> None:
        if suffix in (".json", ".jsonl") and data.draw(st.integers(0, 2)):
            damaged = damage_value(original, data)
        else:
            damaged = damage_bytes(original, data)
        if len(found) < n and damaged != original:
            found[damaged] = None

    draw()
    return list(found)


def damage_bytes(original: bytes, data: st.DataObject) -> bytes:
    """Cut, filled with noise, doubled, in another encoding, or something else altogether."""
    kind = data.draw(st.sampled_from(["cut", "noise", "insert", "whole", "utf-16", "bom", "crlf", "twice", "trailing"]))
    place = data.draw(st.integers(0, max(0, len(original) - 1)))
    noise = data.draw(st.binary(min_size=1, max_size=8))
    if kind == "utf-16":
        return original.decode("utf-8", errors="replace").encode("utf-16")
    return {
        "cut": original[:place],
        "noise": original[:place] + noise + original[place + len(noise) :],
        "insert": original[:place] + noise + original[place:],
        "whole": data.draw(st.sampled_from(WHOLE)),
        "bom": b"\xef\xbb\xbf" + original,
        "crlf": original.replace(b"\n", b"\r\n") + b"\r\n",
        "twice": original + original,
        "trailing": original + noise,
    }[kind]


def damage_value(original: bytes, data: st.DataObject) -> bytes:
    """One value somewhere in the JSON replaced by another, or left out, or a key renamed."""
    try:
        rows, is_one = json.loads(original), True
    except ValueError:
        rows, is_one = [json.loads(line) for line in original.splitlines()], False
    place, steps = rows, data.draw(st.integers(1, 6))
    for step in range(steps):
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if step < steps - 1 and isinstance(inner, dict | list) and inner:
            place = inner
            continue
        change = data.draw(st.sampled_from(["replace", "replace", "drop", "rename", "repeat"]))
        if change == "drop":
            del place[key]
        elif change == "rename" and isinstance(place, dict):
            place[data.draw(st.text(max_size=4))] = place.pop(key)
        elif change == "repeat" and isinstance(place, list):
            place.append(inner)
        else:
            place[key] = data.draw(VALUES)
        break
    if is_one:
        return json.dumps(rows).encode()
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_questions(folder: Path) -> Path:
    """POPE's three files, of one image; the first of them."""
    image = min(path.name for path in (folder / "coco" / "val2014").iterdir())
    asked = [{"question_id": n, "image": image, "text": f"the {n}", "label": ("yes", "no")[n % 2]} for n in range(4)]
    for kind in KINDS:
        write_rows(folder / "questions" / f"coco_pope_{kind}.json", asked)
    return folder / "questions" / f"coco_pope_{KINDS[0]}.json"


def write_vqa(folder: Path) -> tuple[Path, Path]:
    """Answers, and VQAv2's file about them."""
    told = [{"answer": word} for word in ("yes", "yes", "2", "a dog")]
    entry = {"image_id": 1, "answer_type": "other", "answers": told}
    write_json(folder / "vqa.json", {"annotations": [{"question_id": n, **entry} for n in range(3)]})
    write_rows(folder / "answers.jsonl", [{"question_id": n, "text": "yes"} for n in range(3)])
    return folder / "answers.jsonl", folder / "vqa.json"


def targets(folder: Path) -> list[Target]:
    """Every kind of file that scripts read, each with a script."""
    annotations, captions = folder / "coco" / "annotations", folder / "captions"
    by_name = {script.name: script for script in scripts(folder)}

    def of(name: str, path: Path, script: str) -> Target:
        return Target(name, path, by_name[script].main, by_name[script].flags)

    truth = ("--annotations", annotations)
    scored = captions / "captions_eval_results.json"
    shutil.copytree(captions, folder / "second", dirs_exist_ok=True)
    questions, pope, (answers, told) = write_questions(folder), by_name["pope"], write_vqa(folder)
    compared = (captions, folder / "second", "--out", folder / "out" / "comparison.json")
    vqa = ("--answers", answers, "--truth", told, "--out", folder / "out" / "vqa.json")
    model = folder / "model"
    return [
        Target("run.json", captions / "run.json", by_name["caption"].main, by_name["caption"].flags, results=captions),
        Target(
            "a finished block",
            captions / "blocks" / "00001.json",
            by_name["caption"].main,
            by_name["caption"].flags,
            results=captions,
        ),
        Target("runs that are compared", scored, compare_runs, compared, out=False),
        Target("POPE's questions", questions, pope.main, (*pope.flags, "--questions", questions.parent)),
        Target("VQA's answers", answers, score_vqa, vqa, out=False),
        Target("VQA's truth", told, score_vqa, vqa, out=False),
        of("COCO captions", annotations / "captions_train2014.json", "caption"),
        of("COCO instances", annotations / "instances_val2014.json", "evaluate"),
        Target(
            "COCO instances, CHAIR",
            annotations / "instances_train2014.json",
            score_chair,
            ("--captions", captions / "captions.jsonl", *truth, "--out", folder / "out" / "scores.json"),
            out=False,
        ),
        Target(
            "captions.jsonl",
            captions / "captions.jsonl",
            score_chair,
            ("--captions", captions / "captions.jsonl", *truth, "--out", folder / "out" / "scores.json"),
            out=False,
        ),
        of("scored captions, attribution", scored, "attribute"),
        Target("scored captions, detail", scored, compare_details, (captions,)),
        of("head list", folder / "heads.json", "attention_bias"),
        of("instruction data", folder / "coco" / "instruct_train2014.json", "finetune"),
        of("config.json", model / "config.json", "caption"),
        of("processor", model / "processor_config.json", "caption"),
        of("tokenizer", model / "tokenizer.json", "caption"),
        of("tokenizer_config", model / "tokenizer_config.json", "caption"),
        of("generation_config", model / "generation_config.json", "caption"),
        of("weights", model / "model.safetensors", "caption"),
    ]
