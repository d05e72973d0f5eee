"""The decoders of this package by the names of their presets, and the methods of others that edit whole layers."""

import re
from functools import partial
from inspect import signature

from llava_hh.attention.layer_edits import AddConsensus, ScaleScores, SuppressBlindHeads
from llava_hh.attention.sinks import RecycleSinks, ShareDensestMap
from llava_hh.baselines import (
    agla,
    allpath,
    avisc,
    damro,
    deco,
    dola,
    halc,
    icd,
    m3id,
    memvr,
    only,
    opera,
    pai,
    searching,
    sid,
    vcd,
    vista,
    vti,
)
from llava_hh.baselines.ilvad import AmplifyEvidence
from llava_hh.baselines.vhr import ReinforceVisionHeads
from llava_hh.decoding.head_lists import AnyDepth
from llava_hh.decoding.registry import offer_in_all, register_decoder, register_intervention
from llava_hh.heads import Head

LABELS = {"vcd_paper": "VCD", "dola_repo": "DoLa", "opera": "OPERA", "halc_clean": "HALC", "pai": "PAI"}
LABELS |= {"sid_pope": "SID, as for POPE", "vista_pope": "VISTA, as for POPE"}
LABELS |= {"deco": "DeCo", "m3id_paper": "M3ID", "icd": "ICD", "memvr": "MemVR", "sid": "SID", "vista": "VISTA"}
LABELS |= {"avisc": "AvisC", "damro": "DAMRO", "damro_pope": "DAMRO, as for POPE"}
LABELS |= {"only": "ONLY", "only_pope": "ONLY, as for POPE"}
LABELS["vti"] = "VTI"
LABELS |= {"agla_self": "AGLA, own attention"}  # AGLA itself wants a BLIP
PRESETS = {
    name: (module, settings)
    for module in (vcd, dola, opera, halc, pai, deco, icd, m3id, memvr, sid, avisc, damro, only, agla, vista, vti)
    for name, settings in module.PRESETS.items()
}

for name, (module, settings) in PRESETS.items():
    register_decoder(
        name, module.decode, settings, LABELS.get(name), edits_itself="edits" in signature(module.decode).parameters
    )

register_decoder("beam", searching.search, searching.BeamSettings(), "beam search")
register_decoder("sample", searching.sample, searching.SampleSettings(), "sampling")

# layers of 32, both included, unless they are of any depth; settings of their code for captions
register_intervention("devils", AddConsensus, "Devils", layers=[(5, 18)], alpha=0.5)
VAF = {"layers": [(9, 14)], "image": 1.15, "before": 0.95}
register_intervention("vaf", ScaleScores, "VAF", **VAF)
register_intervention("vaf_unsigned", partial(ScaleScores, signed=False), "VAF, unsigned", **VAF)
SPIN = {"make": SuppressBlindHeads, "layers": [(0, 31)], "rank_by": "scores"}
register_intervention("spin", label="SPIN", **SPIN, kept=0.95, factor=0.08)
register_intervention("spin_pope", label="SPIN, as for POPE", **SPIN, kept=0.8, factor=0.1)
ALLPATH = {"make": allpath.scaled_heads, "has_own_lists": True, "on_text": False, "low": 0.0, "high": 2.0}
register_intervention("allpath", label="AllPath", task="chair", n_low=40, n_high=40, n_image=50, **ALLPATH)
register_intervention(
    "allpath_pope", label="AllPath, as for POPE", task="pope", n_low=20, n_high=20, n_image=10, **ALLPATH
)
register_intervention("vhr", ReinforceVisionHeads, "VHR", layers=[AnyDepth(1, 1), (18, 31)], alpha=2.0)
register_intervention("eah_paper", ShareDensestMap, "EAH", layers=[AnyDepth(1, 1)], threshold=0.002)
register_intervention("eah_repo", ShareDensestMap, "EAH, as its code", layers=[AnyDepth(0, -1)], threshold=0.0008)
register_intervention("ilvad", AmplifyEvidence, "ILVAD", layers=[(5, 25)], alpha=5.0, beta=0.3, jump=5.0)
register_intervention(
    "ilvad_pope", AmplifyEvidence, "ILVAD, as for POPE", layers=[(0, 30)], alpha=5.0, beta=1.0, jump=5.0
)


def _recycle_sinks(heads: tuple[Head, ...], dimensions: str, **given: float) -> RecycleSinks:
    if not re.fullmatch(r"(\d+(,\d+)*)?", dimensions):
        raise ValueError(f'dimensions are numbers, as "1415,2533", not {dimensions!r}')
    return RecycleSinks(heads, dimensions=tuple(map(int, filter(None, dimensions.split(",")))), **given)


VAR = {"kept": 0.6, "tau": 20.0, "most_sunk": 0.5, "least_mass": 0.2, "dimensions": ""}
register_intervention("var", _recycle_sinks, "VAR", layers=[AnyDepth(2, -2)], **VAR)

WITH_POPE = ("sid", "vista", "damro", "only", "spin", "allpath", "ilvad")  # and a preset of their own for it
for name in ("beam", "sample", *LABELS, "devils", "vaf", "vhr", "eah_paper", "var"):
    if name.removesuffix("_pope") not in WITH_POPE:
        offer_in_all(name)
for name in WITH_POPE:
    offer_in_all(name, for_pope=f"{name}_pope")
