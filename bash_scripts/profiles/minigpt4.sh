# shellcheck shell=sh disable=SC2034  # the wrapper that sources this reads them
# Sourced by the wrappers: MiniGPT-4 on Llama-2-7B-chat, put together from the files that checkpoints/minigpt4/config.json
# names. Settings as for LLaVA-1.5-7B but for these; top_k and threshold are those of the paper's baselines/.
. bash_scripts/profiles/llava-v1.5-7b.sh
model_path=checkpoints/minigpt4
result_path=results/coco/minigpt4
top_k=10
threshold=0.5
base_model=checkpoints/Llama-2-7b-chat-hf
reference_model=
training_checkpoints=  # figure 5: MiniGPT-4 was trained with its language model frozen
paper_values=          # of LLaVA-1.5-7B
