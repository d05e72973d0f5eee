# shellcheck shell=sh disable=SC2034  # the wrapper that sources this reads them
# Sourced by the wrappers: LLaVA-1.5-13B as published (liuhaotian/llava-v1.5-13b), or else llava-hf/llava-1.5-13b-hf.
# Settings as for 7B but for these; the paper switches off all 35 heads of its list (--heads published) at 0.4.
# Needs, by estimate (weights in half precision, and a quarter of that to work in): 26 GB of files, 33 GB of GPU memory;
# about twice the time of 7B.
. bash_scripts/profiles/llava-v1.5-7b.sh
model_path=checkpoints/llava-v1.5-13b
if [ ! -d "$model_path" ] && [ -d checkpoints/llava-1.5-13b-hf ]; then model_path=checkpoints/llava-1.5-13b-hf; fi
result_path=results/coco/llava-v1.5-13b
top_k=35
batch_size=4
baseline_batch_size=4
# figures 4 and 5: its base model; checkpoints of its tuning were not published
base_model=checkpoints/vicuna-13b-v1.5
reference_model=
training_checkpoints=
paper_values=
