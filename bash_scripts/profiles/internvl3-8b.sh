# InternVL3-8B in the transformers layout; bash_scripts/attribute.sh finds its heads.
model_path=checkpoints/InternVL3-8B-hf
result_path=results/coco/internvl3-8b
