"""Meet a real LLaVA-1.5-7B: doctor, its prompt, and a few captions by greedy decoding, AD-HH and as in figure 6a.

Says what agrees with what is known of that model and what differs. Heads are those that the paper's authors published.
Writes contact.md, a block to paste, below the profile's result_path. Run it again to go on after a kill.
"""

import argparse
import sys
from functools import partial

from llava_hh.command_line.numbers import SIZE
from llava_hh.command_line.parser import SPEED, ScriptParser
from llava_hh.command_line.profiles import REPO, read_profile
from llava_hh.command_line.script import run_verb, script_parser
from llava_hh.files.progress import say

PROMPT = REPO / "checkpoints" / "prompts" / "llava-v1.5-7b.json"
SPLIT = "val2014"
N_SHOWN = 2  # captions of each method to read


def parser() -> ScriptParser:
    """The flags of `llava-hh contact`."""
    parser = script_parser(__doc__, "contact", "llava-hh contact --profile llava-v1.5-7b --images 200")
    text = "a name in bash_scripts/profiles, or the path of such a file"
    parser.add_flag(parser, "--profile", "NAME", text, default="llava-v1.5-7b")
    parser.flags(SPEED)("--images", SIZE, f"images of {SPLIT} to caption", default=20)
    return parser


def run(args: argparse.Namespace) -> None:
    """Examine the profile, ask the model, caption, and write what was found."""
    from llava_hh.doctor.contact import find_captions, find_prompt, lines_of_prompt, report_of, shown_captions
    from llava_hh.doctor.examination import Examination, Line
    from llava_hh.experiments.evaluate import evaluate
    from llava_hh.files.files import read_json, write_text
    from llava_hh.files.progress import announce
    from llava_hh.heads import published_list
    from llava_hh.models.lvlm import DESCRIBE, release
    from llava_hh.runs.run import provenance

    profile = read_profile(args.profile)
    examination, checks = Examination(profile), []

    def report(line: Line) -> None:
        checks.append(str(line))
        say(line)

    if not examination.run(report):
        say("error: mend first what FAIL stands beside; nothing was captioned", sys.stderr)
        raise SystemExit(1)
    lvlm, batch = examination.lvlm, examination.ask()
    findings, prompt = find_prompt(batch, read_json(PROMPT)), lines_of_prompt(batch)
    heads = published_list(lvlm.model.config)
    if heads.stem != PROMPT.stem:
        what = f"what is known here is of {PROMPT.stem}, and this model has the heads of {heads.stem}"
        raise ValueError(f"--profile {args.profile}: {what}; take a profile of that model")
    release(lvlm)
    seed, coco = int(profile["draw_seed"]), examination.path("coco_path")
    out = examination.path("result_path") / "contact" / f"{SPLIT}-{args.images}-seed{seed}"
    announce(f"captions of {args.images} images of {SPLIT}, three methods, into {out}")
    summary = evaluate(
        [
            f"adhh:top_k={profile['top_k']},threshold={profile['threshold']}",
            f"scale:span=after_image,alpha=0.0,top_k={profile['reweight_top_k']}",
        ],
        model=examination.path("model_path"),
        image_folder=coco / SPLIT,
        annotations=coco / "annotations",
        out=out,
        split=SPLIT,
        heads=heads,
        limit=args.images,
        seed=seed,
        prompt=profile["question"] or DESCRIBE,
        max_new_tokens=int(profile["max_new_tokens"]),
        batch_size=int(profile["batch_size"]),
    )
    methods = summary["methods"]
    name = summary["settings"]["model"]["name"]
    title = f"First contact: {name}, {args.images} images of {SPLIT} (seed {seed}), heads of {heads.name}"
    captions = shown_captions(out, methods, N_SHOWN)
    text = report_of(title, [*findings, *find_captions(methods)], checks, prompt, captions, provenance())
    write_text(out / "contact.md", text + "\n")
    say(f"\n{text}\n\nPaste this block where you tell of the run; it is {out / 'contact.md'}")


main = partial(run_verb, parser=parser, run=run)

if __name__ == "__main__":
    main()
