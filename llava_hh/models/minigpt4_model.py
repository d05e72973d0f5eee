"""MiniGPT-4 on Llama-2 as a transformers model: EVA ViT-g, patches joined by four, one linear layer, Llama."""

from typing import Any, ClassVar

import transformers
from torch import Tensor, nn
from transformers import Blip2VisionConfig, LlamaConfig, PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

IMAGE_TOKEN = "<ImageHere>"
JOINED = 4  # neighbouring patches that become one image position
LN_VISION_EPS = 1e-5  # torch's default, which MiniGPT-4 leaves; the encoder's own norms have 1e-6


class MiniGpt4Config(PreTrainedConfig):
    """Sizes of both halves, and what a folder says about itself.

    vision_config: by default EVA ViT-g/14 as BLIP-2 and MiniGPT-4 cut it: 224 pixels, 39 blocks of width 1408.
    image_token_id: what stands at an image's positions; no row of the embeddings need have it.
    prompt: "harness" or "official", see `llava_hh.models.minigpt4`.
    parts: the published files that make up the model, see `llava_hh.models.minigpt4_checkpoint`; None in a folder
        that holds the weights itself.
    """

    model_type = "minigpt4"
    sub_configs_defaults: ClassVar = {"vision_config": Blip2VisionConfig, "text_config": LlamaConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int | None = None
    prompt: str = "harness"
    parts: dict | None = None

    @property
    def image_length(self) -> int:
        """How many positions an image takes."""
        return (self.vision_config.image_size // self.vision_config.patch_size) ** 2 // JOINED


class MiniGpt4Processor(transformers.ProcessorMixin):
    """An image processor and a tokenizer, saved and loaded together."""

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:  # transformers reads the parts from its signature
        super().__init__(image_processor, tokenizer)


class MiniGpt4PreTrainedModel(transformers.PreTrainedModel):
    config: MiniGpt4Config
    config_class = MiniGpt4Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement: ClassVar = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True


class MiniGpt4Model(MiniGpt4PreTrainedModel):
    """Everything but the vocabulary matrix.

    The image encoder is BLIP-2's, which is EVA ViT-g as MiniGPT-4 runs it (query and value biases, exact GELU); its
    last norm is MiniGPT-4's ln_vision. There is no Q-Former.
    """

    def __init__(self, config: MiniGpt4Config) -> None:
        super().__init__(config)
        self.vision_tower = transformers.Blip2VisionModel(config.vision_config)
        self.vision_tower.post_layernorm.eps = LN_VISION_EPS
        self.llama_proj = nn.Linear(JOINED * config.vision_config.hidden_size, config.text_config.hidden_size)
        self.language_model = transformers.LlamaModel(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Features for the images' positions, (image, position, d_model): patches row by row, without CLS."""
        patches = self.vision_tower(pixel_values).last_hidden_state[:, 1:]
        return self.llama_proj(patches.unflatten(1, (-1, JOINED)).flatten(2))

    def embed_with_images(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        """Embeddings (row, position, d_model) of tokens, with images at the placeholders.

        Raises:
            ValueError: images that don't fill the placeholders.
        """
        is_image = input_ids == self.config.image_token_id  # batch position
        embedded = self.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        features = self.get_image_features(pixel_values).flatten(0, 1)
        if len(features) != is_image.sum():
            raise ValueError(f"{len(features)} image features for {is_image.sum()} image positions")
        return embedded.masked_scatter(is_image[..., None], features.to(embedded.device, embedded.dtype))

    def forward(
        self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPast:
        """Hidden states of the language model, the images at the placeholders of `input_ids` in their order."""
        if pixel_values is not None and input_ids is not None:
            kwargs["inputs_embeds"], input_ids = self.embed_with_images(input_ids, pixel_values), None
        return self.language_model(input_ids=input_ids, **kwargs)


class MiniGpt4ForConditionalGeneration(MiniGpt4PreTrainedModel, transformers.GenerationMixin):
    """The model with its vocabulary matrix, which has the words of Llama, without the placeholder."""

    def __init__(self, config: MiniGpt4Config) -> None:
        super().__init__(config)
        self.model = MiniGpt4Model(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (row, position, vocabulary); of the last `logits_to_keep` positions where that is not 0."""
        # named, and not in kwargs, since `generate` looks for these names
        named = {"attention_mask": attention_mask, "position_ids": position_ids, "inputs_embeds": inputs_embeds}
        outputs = self.model(input_ids, pixel_values, **named, **kwargs)
        return CausalLMOutputWithPast(
            logits=self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:]),
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


transformers.AutoConfig.register(MiniGpt4Config.model_type, MiniGpt4Config)
