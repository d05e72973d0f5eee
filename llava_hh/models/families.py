"""Which family of models a model_type means; the family's module is imported when one of its kind is used."""

from collections import UserDict
from pkgutil import resolve_name


class Families(UserDict[str, type]):
    """Classes of families (`lvlm.Family`) by model_type; a "module:Class" is imported when it is asked for."""

    def __getitem__(self, model_type: str) -> type:
        """Raises KeyError: an unknown model_type; ValueError: a class that cannot be imported."""
        entry = self.data[model_type]
        if isinstance(entry, str):
            try:
                self.data[model_type] = entry = resolve_name(entry)
            except (ImportError, AttributeError, ValueError) as error:
                raise ValueError(f"family {entry!r} of {model_type!r} cannot be imported: {error}") from error
        return entry


FAMILIES = Families(
    {
        "llava": "llava_hh.models.llava:Llava",
        "llava_harness": "llava_hh.models.llava_harness:LlavaHarness",
        "llava_next": "llava_hh.models.llava_next:LlavaNext",
        "mllama": "llava_hh.models.mllama:Mllama",
        "chameleon": "llava_hh.models.chameleon:Chameleon",
        "qwen2_5_vl": "llava_hh.models.qwen_vl:Qwen25VL",
        "qwen3_vl": "llava_hh.models.qwen_vl:Qwen3VL",
        "gemma3": "llava_hh.models.gemma3:Gemma3",
        "internvl": "llava_hh.models.internvl:InternVL",
        "llava_onevision": "llava_hh.models.llava_onevision:LlavaOnevision",
        "minigpt4": "llava_hh.models.minigpt4:MiniGpt4",
    }
)


def register_family(model_type: str, family: type | str) -> None:
    """Let checkpoints of this model_type (in config.json) be loaded by `family`, which may be of another package.

    Args:
        family: a class as `llava_hh.models.lvlm.Family` describes it, or "module:Class", imported at the first load.

    Raises:
        ValueError: a text of another form.
    """
    if isinstance(family, str) and not all(family.partition(":")):
        raise ValueError(f"family {family!r} of {model_type!r}: expected a class, or 'module:Class'")
    FAMILIES[model_type] = family
