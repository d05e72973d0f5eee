"""The first so many captions: a smaller limit reads a part of what is finished, a larger one goes on."""

import pytest

from tests.faults.kills import run_script


@pytest.mark.parametrize(
    "name", ["attribute", "attention_bias", "attention_inheritance", "js_divergence", "record_words"]
)
def test_a_limit_has_the_result_of_a_fresh_folder(name, material, tmp_path):
    def blocks() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in (tmp_path / "grown").rglob("blocks/*")}

    fresh = {limit: run_script(material[name], tmp_path / f"fresh_{limit}", "--limit", limit) for limit in (3, 5)}
    assert run_script(material[name], tmp_path / "grown", "--limit", 5) == fresh[5]
    whole = blocks()
    assert run_script(material[name], tmp_path / "grown", "--limit", 3) == fresh[3]
    assert blocks() == whole
    assert run_script(material[name], tmp_path / "fresh_3", "--limit", 5) == fresh[5]


def test_where_all_captions_enter_another_limit_is_another_run(material, tmp_path, capsys):
    for kind in (("--ablation", "mean"), ("--screen", 4), ("--race", 3)):
        out = tmp_path / "".join(map(str, kind))
        run_script(material["attribute"], out, *kind)
        with pytest.raises(SystemExit):
            run_script(material["attribute"], out, *kind, "--limit", 3)
        assert "limit was 6, is 3" in capsys.readouterr().err
