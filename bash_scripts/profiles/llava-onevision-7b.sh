# LLaVA-OneVision on Qwen2-7B; bash_scripts/attribute.sh finds its heads. A photograph of 640 x 480 is 2,929 tokens, five times
# LLaVA-1.5's; a larger one is more.
model_path=checkpoints/llava-onevision-qwen2-7b-ov-hf
result_path=results/coco/llava-onevision-7b
batch_size=2
baseline_batch_size=2
