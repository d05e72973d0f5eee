# shellcheck shell=sh disable=SC2034  # the wrapper that sources this reads them
# Sourced by the wrappers: LLaVA-1.5-7B in the transformers layout (llava-hf/llava-1.5-7b-hf), COCO 2014 under dataset/coco.
. bash_scripts/python.sh
model_path=checkpoints/llava-1.5-7b-hf
coco_path=dataset/coco
result_path=results/coco/llava-v1.5-7b
attribution_images=3000
attribution_captions=
report_images=500
random_draws=5
top_k=20
threshold=0.4
max_new_tokens=128
batch_size=8
