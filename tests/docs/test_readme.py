"""README is short, and its times are those of reproduce.sh; errors in docs/troubleshooting.md are those of the code."""

import re

from tests.support.repository import BASELINES, MODULES, NEWER, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
REPRODUCE = (ROOT / "bash_scripts/reproduce.sh").read_text(encoding="utf-8")
MINUTES = {step: int(minutes) for step, minutes in re.findall(r"(\w+):(\d+)", REPRODUCE.split("\ndo_step")[0])}


def test_it_is_short():
    assert len(README.splitlines()) <= 180 and len(README.encode()) <= 12 * 1024


def test_its_first_screen_says_what_was_shown_and_what_was_not():
    status = README.split("![")[0]
    for term in ("Status", "mini", "ten families", "random weights", "no published weights", "tell us"):
        assert term in status, term


def test_times_are_those_of_reproduce():
    steps = dict(re.findall(r"^ {8}(\w+)\) sh (\S+\.sh) ;;$", REPRODUCE, re.MULTILINE))
    steps |= {"decoding": "bash_scripts/decoding.sh"}
    row = re.compile(r"^\| [^|]+ \| `(?:PROFILE=\S+ )?sh (\S+\.sh)`[^|]* \| [^|]+ \| (\d+) min ", re.MULTILINE)
    shown = dict(row.findall(README))
    told = {step: int(shown[script]) for step, script in steps.items() if script in shown}
    assert len(told) >= 8 and told == {step: MINUTES[step] for step in told}
    of_baselines = re.search(r"after `eval_baselines\.sh` \((\d+) min\)", README)
    assert int(of_baselines[1]) == MINUTES["baselines"]


def test_all_takes_as_long_as_its_steps():
    nocaps = MINUTES["baselines_nocaps"]  # mini has none
    hours = round((sum(MINUTES.values()) - nocaps) / 60, 1)
    assert f"| {hours:g} hours |" in README and f"{hours:g} hours on one core" in REPRODUCE


def test_errors_that_are_explained_are_those_of_the_code():
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    table = page.split("## By the text of the error")[1].split("\n## ")[0]
    said = re.findall(r"^\| `([^`]+)` \| ", table, re.MULTILINE)
    code = "".join(path.read_text(encoding="utf-8") for path in MODULES + BASELINES + NEWER)
    assert len(said) >= 30 and not [text for text in said if text not in code]
