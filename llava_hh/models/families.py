"""Which family of models a model_type means; the family's module is imported when one of its kind is used."""

from collections.abc import Iterator, Mapping
from importlib import import_module


class Families(Mapping[str, type]):
    """Classes of families (`lvlm.Family`) by model_type; a "module:Class" is imported when it is asked for."""

    def __init__(self, entries: Mapping[str, type | str]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, model_type: str) -> type:
        """Raises KeyError: an unknown model_type; ValueError: a class that cannot be imported."""
        entry = self._entries[model_type]
        if isinstance(entry, str):
            module, _, name = entry.partition(":")
            try:
                entry = getattr(import_module(module), name)
            except (ImportError, AttributeError) as error:
                raise ValueError(f"family {entry!r} of {model_type!r} cannot be imported: {error}") from error
            self._entries[model_type] = entry
        return entry

    def __contains__(self, model_type: object) -> bool:
        return model_type in self._entries  # without an import

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, model_type: str, family: type | str) -> None:
        """Add a family, or put it in the place of the one of this model_type."""
        if isinstance(family, str) and not all(family.partition(":")):
            raise ValueError(f"family {family!r} of {model_type!r}: expected a class, or 'module:Class'")
        self._entries[model_type] = family


FAMILIES = Families(
    {
        "llava": "llava_hh.models.llava:Llava",
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
    FAMILIES.register(model_type, family)
