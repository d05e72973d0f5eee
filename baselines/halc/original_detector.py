"""GroundingDINO from its authors' file, `groundingdino_swint_ogc.pth`, which the paper's repository names.

The file has weights alone. Configuration, tokenizer and image processor are those of grounding-dino-tiny, the same
model in the transformers layout.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor
from transformers import AutoConfig, GroundingDinoForObjectDetection, PreTrainedModel

from llava_hh.models.weight_files import WeightFile
from llava_hh.models.without_code import from_folder

# Patterns of the original's names and transformers' for them, the first that fits counts; query|key|value are three
# tensors there and the thirds of one here. Source: the names of both, by transformers' own conversion for Swin-T.
_SWIN, _LAYER = "model.backbone.conv_encoder.model", r"backbone\.0\.layers\.(\d+)"
_ENCODER, _DECODER = r"transformer\.encoder\.{}\.(\d+)", r"transformer\.decoder\.layers\.(\d+)"
_BLOCK = rf"{_LAYER}\.blocks\.(\d+)"
_FUSION = _ENCODER.format("fusion_layers")
_TEXT, _IMAGE = _ENCODER.format("text_layers"), _ENCODER.format("layers")
_BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "attn.qkv": "attention.self.query|key|value",
    "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_FUSION_NAMES = {
    "gamma_v": "vision_param",
    "gamma_l": "text_param",
    "layer_norm_v": "layer_norm_vision",
    "layer_norm_l": "layer_norm_text",
    "attn.v_proj": "attn.vision_proj",
    "attn.l_proj": "attn.text_proj",
    "attn.values_v_proj": "attn.values_vision_proj",
    "attn.values_l_proj": "attn.values_text_proj",
    "attn.out_v_proj": "attn.out_vision_proj",
    "attn.out_l_proj": "attn.out_text_proj",
}
_TEXT_NAMES = {
    "self_attn.in_proj": "self_attn.query|key|value",
    "self_attn.out_proj": "self_attn.out_proj",
    "linear1": "fc1",
    "linear2": "fc2",
    "norm1": "layer_norm_before",
    "norm2": "layer_norm_after",
}
_IMAGE_NAMES = {
    "self_attn.": "self_attn.",
    "norm1": "self_attn_layer_norm",
    "linear1": "fc1",
    "linear2": "fc2",
    "norm2": "final_layer_norm",
}
_DECODER_NAMES = {
    "cross_attn.": "encoder_attn.",
    "norm1": "encoder_attn_layer_norm",
    "ca_text.in_proj": "encoder_attn_text.query|key|value",
    "ca_text.out_proj": "encoder_attn_text.out_proj",
    "catext_norm": "encoder_attn_text_layer_norm",
    "self_attn.in_proj": "self_attn.query|key|value",
    "self_attn.out_proj": "self_attn.out_proj",
    "norm2": "self_attn_layer_norm",
    "linear1": "fc1",
    "linear2": "fc2",
    "norm3": "final_layer_norm",
}


def _inside(where: str, there: str, names: dict[str, str]) -> list[tuple[re.Pattern, str]]:
    return [(re.compile(rf"{where}\.{re.escape(name)}"), f"{there}.{new}") for name, new in names.items()]


RULES = [
    *_inside(_BLOCK, rf"{_SWIN}.encoder.layers.\1.blocks.\2", _BLOCK_NAMES),
    *_inside(_LAYER, rf"{_SWIN}.encoder.layers.\1", {"downsample.": "downsample."}),
    *_inside(_FUSION, r"model.encoder.layers.\1.fusion_layer", _FUSION_NAMES),
    *_inside(_TEXT, r"model.encoder.layers.\1.text_enhancer_layer", _TEXT_NAMES),
    *_inside(_IMAGE, r"model.encoder.layers.\1.deformable_layer", _IMAGE_NAMES),
    *_inside(_DECODER, r"model.decoder.layers.\1", _DECODER_NAMES),
    *(
        (re.compile(pattern), new)
        for pattern, new in {
            r"backbone\.0\.patch_embed\.proj": f"{_SWIN}.embeddings.patch_embeddings.projection",
            r"backbone\.0\.patch_embed\.norm": f"{_SWIN}.embeddings.norm",
            r"backbone\.0\.norm1": f"{_SWIN}.hidden_states_norms.stage2",
            r"backbone\.0\.norm2": f"{_SWIN}.hidden_states_norms.stage3",
            r"backbone\.0\.norm3": f"{_SWIN}.hidden_states_norms.stage4",
            r"bert\.": "model.text_backbone.",
            r"feat_map": "model.text_projection",
            r"input_proj": "model.input_proj_vision",
            r"transformer\.level_embed": "model.level_embed",
            r"transformer\.tgt_embed": "model.query_position_embeddings",
            r"transformer\.decoder\.norm": "model.decoder.layer_norm",
            r"transformer\.decoder\.ref_point_head": "model.decoder.reference_points_head",
            r"transformer\.decoder\.bbox_embed": "model.decoder.bbox_embed",
            r"transformer\.enc_output_norm": "model.enc_output_norm",
            r"transformer\.enc_output": "model.enc_output",
            r"transformer\.enc_out_bbox_embed": "model.encoder_output_bbox_embed",
            r"bbox_embed": "bbox_embed",
        }.items()
    ),
]
UNUSED = re.compile(r"label_enc\.weight|bert\.(embeddings\.position_ids|pooler\..*)|.*(position_index|attn_mask)")
COMPUTED = re.compile(r"relative_position_index|position_ids|swin\.layernorm")  # made or unused by transformers' model


def renamed(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """transformers' names of a tensor of the original: three where it has query, key and value in one.

    Raises:
        ValueError: a name that the original does not have.
    """
    for pattern, new in RULES:
        if found := pattern.match(name):
            rest, start = name[found.end() :], found.expand(new)
            if "|" not in start:
                yield start + rest, tensor
                return
            stem, _, parts = start.rpartition(".")
            rest = rest.replace("_weight", ".weight").replace("_bias", ".bias")  # in_proj_weight of torch's attention
            for part, third in zip(parts.split("|"), tensor.chunk(3), strict=True):
                yield f"{stem}.{part}{rest}", third
            return
    raise ValueError(f"{name!r} is no tensor of GroundingDINO Swin-T")


def load_original(weights: Path, folder: Path) -> PreTrainedModel:
    """The model of the original file on the configuration in `folder`.

    Raises:
        ValueError: a damaged file, or one with other tensors than the configuration's model; one line.
        FileNotFoundError: no such file.
    """
    found = {}
    for name, tensor in WeightFile(weights).entries.items():
        name = name.removeprefix("module.")
        if not UNUSED.fullmatch(name):
            try:
                found.update((new, part.float()) for new, part in renamed(name, tensor))
            except ValueError as error:
                raise ValueError(f"{weights}: {error}") from None
    options = {"config": from_folder(AutoConfig, folder), "state_dict": found, "output_loading_info": True}
    try:
        model, said = GroundingDinoForObjectDetection.from_pretrained(None, trust_remote_code=False, **options)
    except RuntimeError:
        raise ValueError(f"{weights}: not the model of {folder}: tensors of another shape, listed above") from None
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(map(str, said[problem]))
        if names := [name for name in names if not COMPUTED.search(name)]:
            what = problem.removesuffix("_keys")
            raise ValueError(
                f"{weights}: not the model of {folder}: {what} {names[0]}" + (len(names) > 1) * " and others"
            )
    return model.eval()
