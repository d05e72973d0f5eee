"""A profile of tiny files, and what doctor says of it."""

from pathlib import Path

from llava_hh.command_line.profiles import TOP_KS
from llava_hh.doctor import examination as doctor
from llava_hh.scripts.doctor import main


def write_profile(folder: Path) -> None:
    settings = {"model_path": f"{folder}/model", "coco_path": f"{folder}/coco", "result_path": f"{folder}/results/tiny"}
    settings |= dict.fromkeys(("base_model", "reference_model", "training_checkpoints", "instruct_path"), "")
    settings |= dict.fromkeys(TOP_KS, "2")
    lines = [f'{name}="{value}"\n' for name, value in settings.items()]
    (folder / "profile.sh").write_text("".join(["inherit=mini\n", *lines]))


def examine(folder: Path, capsys) -> dict[str, tuple[str, str]]:
    """Status and text by check."""
    status = 0
    try:
        main(["--profile", f"{folder}/profile.sh"])
    except SystemExit as stopped:
        status = stopped.code
    lines = capsys.readouterr().out.splitlines()
    found = {}
    for name in doctor.REMEDIES:
        line = next(line for line in lines if line.startswith(f"{name} "))
        mark, _, text = line[len(name) :].strip().partition(" ")
        found[name] = (mark, text.strip())
    assert len(lines) == len(doctor.REMEDIES)
    assert status == any(mark == "FAIL" for mark, _ in found.values())
    return found


def set_setting(folder: Path, name: str, value: object) -> None:
    path = folder / "profile.sh"
    kept = [line for line in path.read_text().splitlines() if not line.startswith(f"{name}=")]
    path.write_text("\n".join([*kept, f'{name}="{value}"', ""]))
