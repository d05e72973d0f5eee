# InternVL3-8B in the transformers layout; bash_scripts/attribute.sh finds its heads. An image is up to 3,328 tokens (13 tiles
# of 256), about six times LLaVA-1.5's.
model_path=checkpoints/InternVL3-8B-hf
result_path=results/coco/internvl3-8b
batch_size=2
baseline_batch_size=2
